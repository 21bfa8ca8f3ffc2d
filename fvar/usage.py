"""What stages have cost: jobs.jsonl in a run directory, a line at the start of each job and one at its end.

    {"job": "17", "start": 1763800000, "seen": 1763790000, "nodes": 1, "gpus": 8}
    {"job": "17", "end": 1763800100, "seen": 1763800098, "nodes": 1, "gpus": 8}

`gpus` are those of one node; of a job that runs several stages side by side, a stage's share for as long as that lasts.
A job that was killed wrote no end; its last sign of life counts, the stage's status: of
an earlier job, when that had been written as the next one started (`seen`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fvar.rundir import read_status

JOBS_FILE = "jobs.jsonl"
DEVICE = re.compile(r"\d+|GPU-[0-9A-Fa-f-]+|MIG-[0-9A-Za-z/-]+")


@dataclass(frozen=True)
class Span:
    """Some GPUs held for some time; Unix seconds."""

    start: float
    end: float
    gpus: float  # on all nodes

    @property
    def gpu_hours(self) -> float:
        return self.gpus * (self.end - self.start) / 3600


def spans(run: Path) -> list[Span]:
    """Every job that worked on a run directory, in order; a running one until its last sign of life."""
    found: list[Span] = []
    started: dict[str, Any] | None = None
    for record in _lines(run):
        if started:
            found.append(_span(started, record.get("end", record["seen"])))
        started = record if "start" in record else None
    if started:
        found.append(_span(started, read_status(run).updated or 0.0))
    return found


def _lines(run: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a run directory's file: one may be torn by a crash, or damaged by a disk."""
    try:
        with open(f"{run}/{JOBS_FILE}", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and all(map(_is_number, _values(record))):
            yield record


def _values(record: dict[str, Any]) -> list[object]:
    """What must be numbers in a line: when, and the rest."""
    return [record.get("start", record.get("end")), *(record.get(name) for name in ("seen", "nodes", "gpus"))]


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def gpu_hours(runs: Iterable[Path]) -> float:
    """GPU hours that the jobs of these run directories have held."""
    return sum(span.gpu_hours for run in runs for span in spans(run))


@contextlib.contextmanager
def recording(run: Path, gpus: int) -> Iterator[None]:
    """Write both lines around work in this process; SLURM's jobs write them in their shell."""
    note(run, "start", str(os.getpid()), gpus)
    try:
        yield
    finally:
        note(run, "end", str(os.getpid()), gpus)


def note(run: Path, what: Literal["start", "end"], job: str, gpus: float) -> None:
    """Write one of the two lines, for a job on one node."""
    record = {"job": job, what: time.time(), "seen": read_status(run).updated or 0.0, "nodes": 1, "gpus": gpus}
    with open(run / JOBS_FILE, "a") as file:
        file.write(json.dumps(record) + "\n")


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them: indices, UUIDs, or instances of MIG.

    CUDA stops at the first name that it cannot read, such as -1. An instance of MIG counts as one GPU, as in SLURM.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return list(itertools.takewhile(DEVICE.fullmatch, (name.strip() for name in visible.split(","))))
    numbers = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return sorted((number for number in numbers if number.isdigit()), key=int)


def _span(start: dict[str, Any], end: float) -> Span:
    return Span(start["start"], max(start["start"], end), start["nodes"] * start["gpus"])
