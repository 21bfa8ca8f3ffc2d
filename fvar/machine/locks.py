"""Locks between processes: a file that one of them holds (flock), and that the kernel frees however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fvar.errors import UserError

GLANCE_SECONDS = 0.02  # between two tries; whoever asks `is_held` has the lock for an instant


@contextlib.contextmanager
def holding(
    path: Path,
    refusal: Callable[[str], str],
    patience: float = 0.0,
    waiting: Callable[[str], object] = lambda owner: None,
) -> Iterator[None]:
    """Hold the lock file `path`, which then names this process.

    Parameters
    ----------
    path
        Created where it is missing, and left behind.
    refusal
        What to tell the user where another process holds it; gets that process, as far as it is known.
    patience
        Seconds to wait for another process to let go.
    waiting
        Called once before that wait, with that process.

    Raises
    ------
    UserError
        If another process still holds it then, or the file system has no locks.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        asked = time.monotonic()
        told = False
        while not _acquire(handle, path):
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            if time.monotonic() >= asked + patience:
                raise UserError(refusal(owner))
            if not told:
                waiting(owner)
                told = True
            time.sleep(GLANCE_SECONDS)
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock file now."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _acquire(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(f"{path.parent} is on a file system without locks ({error.strerror})") from error
        return False
    return True
