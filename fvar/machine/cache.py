"""Where fvar keeps what it can compute again: indices of image folders, features of image sets."""

from __future__ import annotations

import os
from pathlib import Path


def directory() -> Path:
    """`$FVAR_CACHE`, or `fvar` in `$XDG_CACHE_HOME`, or `~/.cache/fvar`. It need not exist."""
    if own := os.environ.get("FVAR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fvar"
