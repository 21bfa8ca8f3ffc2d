"""Where fvar keeps what it can compute again: indices of image folders, digests of files, features of image sets."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def directory() -> Path:
    """`$FVAR_CACHE`, or `fvar` in `$XDG_CACHE_HOME`, or `~/.cache/fvar`. It need not exist.

    A user without a home, as in many containers, has a folder of the temporary files instead.
    """
    if own := os.environ.get("FVAR_CACHE"):
        return Path(own)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "fvar"
    try:
        return Path.home() / ".cache" / "fvar"
    except RuntimeError:  # no $HOME, and no entry in the user database
        return Path(tempfile.gettempdir()) / f"fvar-{os.getuid()}"
