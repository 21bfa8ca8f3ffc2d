"""Names from a file system, where they are shown or written: on Linux any bytes are a name."""

from __future__ import annotations

import os


def printable(name: str) -> str:
    r"""A name as any terminal, table or database takes it: bytes that are not UTF-8 become \xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
