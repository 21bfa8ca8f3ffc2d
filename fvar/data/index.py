"""Which files a large data set holds and which of them are not images: found once, kept in a cache, checked cheaply.

The cache holds what cannot change by itself. What could not be decoded is tried again each time: it may have been
repaired since. A disk or a permission that fails is an error of the system and says nothing about a file.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvar.data.images import Unreadable, check_decodes
from fvar.errors import UserError
from fvar.machine import atomic, cache
from fvar.machine.names import printable

NAMED = 5  # unreadable files that a message names
LISTED = 20  # classes whose counts a message lists one by one
BLOCK = 1000  # files handed to the threads at a time

Files = dict[str, Any]  # name -> what it takes to find the image, as JSON values
State = dict[str, Any]  # what changes when files come or go, as JSON values
Read = Callable[[str, Any], bytes | Path]  # name and place -> the image's bytes, or where they lie


@dataclass(frozen=True)
class Index:
    """Every file of a data set, and why some cannot be read as images."""

    files: Files
    skipped: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The readable ones, sorted."""
        return sorted(self.files.keys() - self.skipped.keys())


def find(
    root: Path,
    scan: Callable[[], tuple[State, Files]],
    state: Callable[[Iterable[str]], State],
    read: Read,
    workers: int,
) -> Index:
    """The index that `scan` and a check of every file give, or the cached one if `state` of its keys is still the same.

    Kept in fvar's cache directory: the data's own folder may be read-only and is not ours. Where the cache cannot be
    written the index is built each time. Raises `UserError` where the system fails to give a file's bytes.
    """
    path = cache.directory() / "indices" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        body = json.loads(path.read_text())
        if state(body["state"]) == body["state"]:
            known = {"state": body["state"], "files": dict(body["files"]), "skipped": dict(body["skipped"])}
    if known and not known["skipped"]:
        return Index(known["files"], {})
    found, files = (known["state"], known["files"]) if known else scan()
    doubtful = sorted(known["skipped"] if known else files)
    skipped = unreadable(root, doubtful, lambda name: read(name, files[name]), workers)
    if not known or known["skipped"] != skipped:
        with contextlib.suppress(OSError):
            atomic.write_json(path, {"root": str(root), "state": found, "files": files, "skipped": skipped})
    return Index(files, skipped)


def unreadable(root: Path, names: Sequence[str], read: Callable[[str], bytes | Path], workers: int) -> dict[str, str]:
    """The names whose file cannot be decoded to its end, and why. Reads every file once, with progress on stderr.

    Raises `UserError` where the fault is not the file's: no permission, a failing disk, a lost network mount.
    """

    def fault(name: str) -> str:
        try:
            check_decodes(read(name))
        except Unreadable as error:
            return str(error)
        except FileNotFoundError:
            return "a link that leads nowhere"
        except OSError as error:
            raise system_failure(root, name, error) from error
        return ""

    bad: dict[str, str] = {}
    said = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(max(1, workers), thread_name_prefix="check") as pool:
        for start in range(0, len(names), BLOCK):
            block = names[start : start + BLOCK]
            bad |= {name: why for name, why in zip(block, pool.map(fault, block), strict=True) if why}
            if time.monotonic() - said > 5:
                said = time.monotonic()
                done = start + len(block)
                print(f"checking {root}: {done:,} of {len(names):,} files, {len(bad)} unreadable", file=sys.stderr)
    return bad


def system_failure(root: Path, name: str, error: OSError) -> UserError:
    """The error for bytes that the system did not give: the image may be fine."""
    return UserError(
        f"{root}/{name}: the system cannot read it ({error.strerror or error}); that says nothing about the image: "
        "mend the permission, disk or mount, then run again"
    )


def refuse_over_budget(root: Path, skipped: Mapping[str, str], total: int, budget: float) -> None:
    """Name unreadable files on stderr; raise `UserError` where they are more than the share `budget` of all."""
    if not skipped:
        return
    some = ", ".join(f"{printable(name)}: {why}" for name, why in list(skipped.items())[:NAMED])
    some += ", ..." if len(skipped) > NAMED else ""
    found = f"{printable(str(root))}: {len(skipped)} of {total:,} files cannot be read as images ({some})"
    if len(skipped) > budget * total:
        raise UserError(f"{found}, more than data.bad_image_budget {budget:.1%}; repair or remove them")
    print(f"{found}; they are skipped", file=sys.stderr)


def say_counts(root: Path, classes: Iterable[str]) -> None:
    """Say on stderr how many images each class has, given the class of every image."""
    counts = sorted(Counter(classes).items())
    each = ", ".join(f"{printable(name)} {count:,}" for name, count in counts)
    if len(counts) > LISTED:
        each = f"{min(count for _, count in counts):,} to {max(count for _, count in counts):,} in each"
    say_once(f"{printable(str(root))}: {sum(count for _, count in counts):,} images in {len(counts):,} classes: {each}")


@functools.cache
def say_once(line: str) -> None:
    """Say a line on stderr, once per process: a data set is opened for each of its splits."""
    print(line, file=sys.stderr)
