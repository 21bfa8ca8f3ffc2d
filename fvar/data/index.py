"""Which images a large data set holds and which of its files are none: found once, kept in a cache, checked cheaply."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fvar.data.images import DECODE_ERRORS, check_decodes
from fvar.errors import UserError
from fvar.machine import atomic, cache

NAMED = 5  # unreadable files that a message names
BLOCK = 1000  # files handed to the threads at a time


def cached(root: Path, state: Any, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`build()`, or what it returned when `state` (JSON values) was the same.

    Kept in fvar's cache directory: the data's own folder may be read-only and is not ours. Where the cache cannot be
    written the index is built each time.
    """
    path = cache.directory() / "indices" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = json.loads(path.read_text())
        if known["state"] == state:
            return dict(known["index"])
    index = build()
    with contextlib.suppress(OSError):
        atomic.write_json(path, {"root": str(root), "state": state, "index": index})
    return index


def unreadable(root: Path, names: Sequence[str], read: Callable[[str], bytes | Path], workers: int) -> list[str]:
    """The names whose file cannot be decoded to its end. Reads every file once and shows progress on stderr."""

    def is_bad(name: str) -> bool:
        try:
            check_decodes(read(name))
        except DECODE_ERRORS:
            return True
        return False

    bad: list[str] = []
    said = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(max(1, workers), thread_name_prefix="check") as pool:
        for start in range(0, len(names), BLOCK):
            block = names[start : start + BLOCK]
            bad += [name for name, damaged in zip(block, pool.map(is_bad, block), strict=True) if damaged]
            if time.monotonic() - said > 5:
                said = time.monotonic()
                done = start + len(block)
                print(f"checking {root}: {done:,} of {len(names):,} files, {len(bad)} unreadable", file=sys.stderr)
    return bad


def refuse_over_budget(root: Path, skipped: Sequence[str], total: int, budget: float) -> None:
    """Name unreadable files on stderr; raise `UserError` where they are more than the share `budget` of all."""
    if not skipped:
        return
    some = ", ".join(skipped[:NAMED]) + (", ..." if len(skipped) > NAMED else "")
    found = f"{root}: {len(skipped)} of {total:,} files cannot be read as images ({some})"
    if len(skipped) > budget * total:
        raise UserError(f"{found}, more than data.bad_image_budget {budget:.1%}; repair or remove them")
    print(f"{found}; they are skipped", file=sys.stderr)
