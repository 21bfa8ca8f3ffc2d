"""A run directory's files of JSON lines as histories of metrics, read on from where the last sync ended.

    metrics.jsonl   {"step": 20, "split": "train", "time": 1763800000.1, "loss": 3.2}  ->  train/loss
    system.jsonl    {"time": 1763800000.1, "cpu_percent": 93.0}                         ->  system/cpu_percent

A resume writes metrics.jsonl anew without the steps that it repeats. Then the bytes before the place where the last
sync ended are others, since every record has its time, and the history must be written anew.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studies.tracking.store import Point

FILES = ("metrics.jsonl", "system.jsonl")
TAIL = 4096  # bytes before the end of what was read that must still be the same
BLOCK = 1 << 20  # bytes read at once
FINAL_SPLITS = ("heldout", "speed")  # whose last values are part of a cell's results
MAX_KEY = 250  # characters, MLflow's limit


@dataclass
class Progress:
    """How far a stage's files were read, and what must be remembered of them."""

    offsets: dict[str, int] = field(default_factory=dict)
    tails: dict[str, str] = field(default_factory=dict)
    beats: int = 0  # records of system.jsonl, which have no step
    last: dict[str, float] = field(default_factory=dict)  # by metric, of `FINAL_SPLITS`
    non_finite: str = ""  # the first value that was not a finite number

    @classmethod
    def of(cls, mark: dict[str, Any]) -> Progress:
        """From what `as_mark` gave; of a damaged mark, nothing was read."""
        try:
            return cls(**mark)
        except TypeError:
            return cls()

    def as_mark(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value}

    def still_holds(self, folder: Path) -> bool:
        """Whether what was read still stands at the beginning of the files."""
        return all(_tail(folder / name, offset) == self.tails.get(name) for name, offset in self.offsets.items())


def _tail(path: Path, offset: int) -> str | None:
    """Digest of the bytes before an offset; None where the file is shorter."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, offset - TAIL))
            found = file.read(min(TAIL, offset))
    except OSError:
        return None
    return hashlib.sha256(found).hexdigest()[:16] if len(found) == min(TAIL, offset) else None


def news(folder: Path, progress: Progress) -> Iterator[list[Point]]:
    """The records that were added since, in pieces; after each, `progress` says that it was read.

    A last line without an end is left for the next time, one that is not a record is left out.
    """
    for name in FILES:
        for block in _blocks(folder / name, progress.offsets.get(name, 0)):
            points: list[Point] = []
            for line in block.decode(errors="replace").split("\n"):
                points += _points(name, line, progress)
            progress.offsets[name] = progress.offsets.get(name, 0) + len(block)
            progress.tails[name] = _tail(folder / name, progress.offsets[name]) or ""
            yield points


def _blocks(path: Path, offset: int) -> Iterator[bytes]:
    """Whole lines from an offset on, about `BLOCK` bytes at a time."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(offset)
        rest = b""
        while piece := file.read(BLOCK):
            whole, end, rest = (rest + piece).rpartition(b"\n")
            if end:
                yield whole + end


def _points(name: str, line: str, progress: Progress) -> Iterator[Point]:
    try:
        record = json.loads(line)
        at = int(1000 * record.pop("time"))
        if name == "system.jsonl":
            split, step = "system", progress.beats
            progress.beats += 1
        else:
            split, step = str(record.pop("split")), int(record.pop("step"))
        values = {key: float(value) for key, value in record.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return
    for key, value in values.items():
        metric = f"{split}/{key}"[:MAX_KEY]
        if not math.isfinite(value):
            progress.non_finite = progress.non_finite or f"{metric} is {value} at step {step}"
            value = math.nan  # MLflow would make inf 1.8e308
        elif split in FINAL_SPLITS:
            progress.last[metric] = value
        yield Point(metric, value, at, step)
