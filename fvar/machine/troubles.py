"""Troubles of disks and file systems, which pass: whoever meets one tries again later, and takes it for no verdict."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

NAMED = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk has an input/output error",
    errno.ESTALE: "the file server has lost track of a file",
}
PASSING = frozenset(NAMED) | frozenset(
    getattr(errno, name)
    for name in ("ETIMEDOUT", "ENOLCK", "ENFILE", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "ESHUTDOWN", "EREMOTEIO")
    if hasattr(errno, name)
)
# What libraries make of these: safetensors (Rust), torch's writer, sqlite, workers that hand on a text.
SAID = re.compile(
    r"no space left on device|disk quota exceeded|stale (?:nfs )?file handle|input/output error|read-only file system"
    r"|transport endpoint|remote i/o error|database or disk is full|disk i/o error|PytorchStreamWriter failed writing",
    re.IGNORECASE,
)


def passing(error: BaseException, place: object = "") -> str:
    """The trouble of a disk or file system that an error comes from, in a line; empty where it is another error.

    `place` is named where the error does not say which file it was.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno is not None:
            if cause.errno in PASSING:
                where = f" ({cause.filename or place})" if cause.filename or place else ""
                return f"{NAMED.get(cause.errno) or os.strerror(cause.errno)}{where}"
        elif said := SAID.search(str(cause)):
            return f"a file could not be read or written ({said[0]})"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those it was raised from or while handling."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
