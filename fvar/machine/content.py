"""What identifies a folder of data wherever it lies: the names, sizes and bytes of its files.

Of up to `FULL` bytes every byte counts, of more the first and last MiB of `SAMPLED` files that their names choose.
What was read is kept in fvar's cache and trusted as long as a file's size and time are the same; `verify` reads all.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fnmatch
import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fvar.errors import UserError
from fvar.machine import atomic, cache

FULL = 2 << 30  # bytes up to which all are read
SAMPLED = 1000  # files that stand for more
PIECE = 1 << 20  # bytes at the beginning and at the end of each of these
THREADS = 8  # a network file system answers several at once
BLOCK = 1000  # files handed to the threads at a time

Stamp = tuple[int, int]  # size in bytes, time of the last change in ns
Known = dict[str, tuple[int, int, str]]  # name -> size, time, digest


@dataclass(frozen=True)
class Listing:
    """The files below a folder by relative name, none hidden; links are followed."""

    root: Path
    files: Mapping[str, Stamp]

    @classmethod
    def of(cls, root: Path, pattern: str) -> Listing:
        """Those whose name fits the pattern, in which * stands for anything. Raises `UserError`."""
        try:
            found = {name: stamp for name, stamp in _below(str(root), "") if fnmatch.fnmatchcase(name, pattern)}
        except OSError as error:
            reason = f"{error.filename or root}: {error.strerror}"
            raise UserError(f"the data cannot be listed ({reason}); mend that and run again") from error
        if not found:
            raise UserError(f"{root} holds no data: no file fits {pattern}")
        return cls(root, found)

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.files.values())


def of_file(path: str) -> str:
    """The SHA-256 of a file. Raises `UserError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name the file that holds the statistics") from error


def digest(root: str, pattern: str = "*/*", verify: bool = False) -> str:
    """32 hex digits that change with the name, size or (as far as they are read) bytes of any file.

    Parameters
    ----------
    pattern
        Which files count, by their name below `root`: all in folders of it, or for example *.tar.
    verify
        Read every byte again. Raises `UserError` naming files whose bytes changed under the same size and time where
        the digest cannot tell, since they are not among those that it reads.
    """
    listing = Listing.of(Path(root), pattern)
    whole = listing.bytes <= FULL
    chosen = sorted(listing.files, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    chosen = chosen if whole else chosen[:SAMPLED]
    kept = _Kept(listing.root)
    found = _read(listing, chosen, {} if verify else kept.digests(whole), whole)
    kept.write(whole, found)
    if verify and not whole:
        _verify_all(listing, kept)
    total = hashlib.sha256()
    for name, (size, _) in sorted(listing.files.items()):
        total.update(os.fsencode(name) + f"\0{size}\0{found[name][2] if name in found else ''}\n".encode())
    return total.hexdigest()[:32]


def _below(root: str, inner: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Stamp]]:
    folder = f"{root}/{inner}" if inner else root
    here = os.path.realpath(folder)
    if here in above:  # a link back into a folder that it lies in
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{inner}/{entry.name}" if inner else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _below(root, name, (*above, here))
            elif entry.is_file():
                status = entry.stat()
                yield name, (status.st_size, status.st_mtime_ns)


def _read(listing: Listing, names: list[str], known: Known, whole: bool) -> Known:
    """Digests of these files, read where their size or time is not the known one."""
    found: Known = {}
    stale = []
    for name in names:
        if known.get(name, ())[:2] == listing.files[name]:
            found[name] = known[name]
        else:
            stale.append(name)
    said = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="digest") as pool:
        for start in range(0, len(stale), BLOCK):
            block = stale[start : start + BLOCK]
            read = functools.partial(_digest_of, listing.root, whole=whole)
            for name, text in zip(block, pool.map(read, block), strict=True):
                found[name] = (*listing.files[name], text)
            if time.monotonic() - said > 5:
                said = time.monotonic()
                print(f"reading {listing.root}: {start + len(block):,} of {len(stale):,} files", file=sys.stderr)
    return found


def _digest_of(root: Path, name: str, whole: bool) -> str:
    try:
        with open(root / name, "rb") as file:
            if whole:
                return hashlib.file_digest(file, "sha256").hexdigest()[:32]
            first = file.read(PIECE)
            file.seek(max(len(first), file.seek(0, os.SEEK_END) - PIECE))
            return hashlib.sha256(first + file.read()).hexdigest()[:32]
    except OSError as error:
        raise UserError(
            f"{root}/{name}: the system cannot read it ({error.strerror}); mend that and run again"
        ) from error


def _verify_all(listing: Listing, kept: _Kept) -> None:
    """Read every byte, and compare with the time before."""
    before = kept.digests(True)
    now = _read(listing, sorted(listing.files), {}, True)
    changed = [name for name, entry in now.items() if before.get(name, ())[:2] == entry[:2] and before[name] != entry]
    if changed:
        raise UserError(
            f"{listing.root}: {len(changed)} files changed though their size and time are the same, such as "
            f"{changed[0]}; restore them, or delete {kept.path(True)} to take them as they are"
        )
    kept.write(True, now)


@dataclass(frozen=True)
class _Kept:
    """What was read of a folder's files before: whole files, or the pieces that stand for large data."""

    root: Path

    def path(self, whole: bool) -> Path:
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return cache.directory() / "contents" / f"{name}-{'files' if whole else 'pieces'}.json"

    def digests(self, whole: bool) -> Known:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            body = json.loads(self.path(whole).read_text())
            return {name: (int(size), int(time), str(text)) for name, (size, time, text) in body.items()}
        return {}

    def write(self, whole: bool, found: Known) -> None:
        if found != self.digests(whole):
            with contextlib.suppress(OSError):
                atomic.write_json(self.path(whole), found)
