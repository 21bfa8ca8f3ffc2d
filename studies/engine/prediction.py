"""What stages will take and cost: their work, by speeds that were measured in the same results folder."""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from fvar.config import Stage
from fvar.errors import UserError
from fvar.estimate import stage_of
from fvar.rundir import RunDir, Status, read_status
from fvar.usage import gpu_hours
from fvar.workload import flops
from studies.engine.profile import AUTO, Resources

LOOKED_AT = 256  # directories of a kind, whichever; a folder may hold a hundred thousand
REMEMBERED = 16  # stages of these that are done, the latest, whose speed counts
FRESH_SECONDS = 300.0  # between two looks at what was measured
SPARE = 1.5  # of the predicted time is asked for
LEAST_MINUTES = 15
TOO_LONG = 20.0  # times the prediction: a request of more waits in the queue for nothing


@dataclass(frozen=True)
class Speed:
    """Medians over stages of a kind that are done, in FLOP/s; None where there is none to tell.

    job: of the whole job, whatever it had. gpu: of each GPU held. processor: of jobs that held no GPU.
    """

    job: float | None = None
    gpu: float | None = None
    processor: float | None = None


def work(run: RunDir) -> float:
    """How much a stage has to do, in FLOP. Raises `UserError` where what it is made from is gone."""
    return flops(stage_of(run))


def speed(runs: Path, kind: str, stages: Mapping[str, Stage] = {}, statuses: Mapping[str, Status] = {}) -> Speed:
    """How fast the stages of a kind were. What `stages` and `statuses` have, by run name, is not read again."""
    done = []
    for name in _some(runs, kind):
        status = statuses[name] if name in statuses else read_status(f"{runs}/{name}")
        if status.state == "done" and status.seconds > 0:
            done.append((status.updated or 0.0, status.seconds, name))
    job, gpu, processor = [], [], []
    for _, seconds, name in sorted(done)[-REMEMBERED:]:
        try:
            total = flops(stages[name]) if name in stages else work(RunDir.open(runs / name))
        except UserError:  # its inputs are gone, or it was made by other code
            continue
        job.append(total / seconds)
        if held := gpu_hours([runs / name]) * 3600:
            gpu.append(total / held)
        else:
            processor.append(total / seconds)
    return Speed(*(statistics.median(found) if found else None for found in (job, gpu, processor)))


def _some(runs: Path, kind: str) -> list[str]:
    """Names of run directories of a kind, as many as are looked at."""
    try:
        with os.scandir(runs) as entries:
            own = (entry.name for entry in entries if entry.name.startswith(f"{kind}-"))
            return list(itertools.islice(own, LOOKED_AT))
    except FileNotFoundError:
        return []


class Speeds:
    """`speed` of each kind, looked up now and then."""

    def __init__(self, runs: Path, stages: Mapping[str, Stage] = {}, statuses: Mapping[str, Status] = {}) -> None:
        self.runs = runs
        self._given = stages, statuses
        self._known: dict[str, tuple[float, Speed]] = {}

    def of(self, kind: str) -> Speed:
        now = time.monotonic()
        if kind not in self._known or now - self._known[kind][0] > FRESH_SECONDS:
            self._known[kind] = now, speed(self.runs, kind, *self._given)
        return self._known[kind][1]

    def measured(self, kinds: Iterable[str]) -> list[str]:
        """Those of the kinds of which a speed is known."""
        return [kind for kind in kinds if self.of(kind).job is not None]


def timed(resources: Resources, runs: Sequence[RunDir], measured: float | None) -> tuple[Resources, str]:
    """The resources with a time limit for these stages of a kind; and a line, where the one asked for does not suit.

    `time = "auto"` becomes 1.5 times the prediction for the longest by the `measured` speed; where there is none yet,
    nothing changes. A job of several stages takes the longest's time for each, divided by those side by side.
    """
    if measured is None:
        return resources, ""
    try:
        turns = ceil(min(len(runs), resources.packing) / resources.side_by_side)
        kind, minutes = runs[0].kind, turns * max(map(work, runs)) / measured / 60
    except UserError:  # what a stage was made from may be gone
        return resources, ""
    if resources.time == AUTO:
        return dataclasses.replace(resources, time=str(max(LEAST_MINUTES, ceil(round(SPARE * minutes, 6))))), ""
    what = f"jobs of {resources.packing} {kind} stages" if resources.packing > 1 else f"{kind} stages"
    asked = f"{what} will take about {minutes:.0f} minutes, and slurm.{kind}.time asks for {resources.minutes}"
    if minutes > resources.minutes:
        return resources, f"{asked}: each will be stopped and started again; set it to auto, or longer"
    if minutes * TOO_LONG < resources.minutes and resources.minutes > 60:
        return resources, f"{asked}: shorter jobs begin earlier; set it to auto, or shorter"
    return resources, ""
