"""Names from a file system, where they are shown, written, or read as something else: on Linux any bytes are a name."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

from fvar.errors import UserError
from fvar.machine import cache


def printable(name: str) -> str:
    r"""A name as any terminal, table or database takes it: bytes that are not UTF-8 become \xff."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def plain(folder: Path, without: str) -> Path:
    """The same folder by a name that has none of some characters: its own, or that of a link in the cache.

    For programs that read more into a path than a path, and offer no way to quote it. Raises `UserError` where the
    cache's own name has one of them.
    """
    folder = folder.resolve()
    if not set(without) & set(str(folder)):
        return folder
    links = cache.directory().absolute() / "links"
    if set(without) & set(str(links)):
        raise UserError(f"{folder} and {links} both have one of {without!r} in their names; set FVAR_CACHE to another")
    link = links / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if not link.is_symlink():
        links.mkdir(parents=True, exist_ok=True)
        staged = links / f".{uuid.uuid4().hex}"
        staged.symlink_to(folder)
        staged.replace(link)  # of two at once, both are the same
    return link


def search_path(folder: Path) -> str:
    """A value of PYTHONPATH in which a folder comes first; a colon would part its name in two."""
    return os.pathsep.join(filter(None, (str(plain(folder, os.pathsep)), os.environ.get("PYTHONPATH"))))
