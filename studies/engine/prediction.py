"""How long a stage will take, by how fast stages of its kind were in the same results folder."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from math import ceil
from pathlib import Path

from fvar.config import SamplesConfig, TokenizerConfig, VarConfig
from fvar.errors import UserError
from fvar.estimate import estimate, stage_of
from fvar.rundir import RunDir, read_status
from studies.engine.profile import AUTO, Resources

REMEMBERED = 32  # stages of a kind, the latest, whose speed is looked at
SPARE = 1.5  # of the predicted time is asked for
LEAST_MINUTES = 15
TOO_LONG = 20.0  # times the prediction: a request of more waits in the queue for nothing


def work(run: RunDir) -> float:
    """How much a stage has to do, in units of its kind: FLOP of training, images to sample, else 1."""
    if isinstance(run.config, TokenizerConfig | VarConfig):
        return estimate(stage_of(run)).flops
    return float(run.config.count) if isinstance(run.config, SamplesConfig) else 1.0


def speed(runs: Path, kind: str) -> float | None:
    """Units of `work` per second of the stages of a kind that are done: their median; None where there is none."""
    done = []
    for path in runs.glob(f"{kind}-*"):
        status = read_status(path)
        if status.state == "done" and status.seconds > 0:
            done.append((status.updated or 0.0, status.seconds, path))
    speeds = []
    for _, seconds, path in sorted(done)[-REMEMBERED:]:
        try:
            speeds.append(work(RunDir.open(path)) / seconds)
        except UserError:  # its inputs are gone, or it was made by other code
            continue
    return statistics.median(speeds) if speeds else None


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
        return dataclasses.replace(resources, time=str(max(LEAST_MINUTES, ceil(SPARE * minutes)))), ""
    what = f"jobs of {resources.packing} {kind} stages" if resources.packing > 1 else f"{kind} stages"
    asked = f"{what} will take about {minutes:.0f} minutes, and slurm.{kind}.time asks for {resources.minutes}"
    if minutes > resources.minutes:
        return resources, f"{asked}: each will be stopped and started again; set it to auto, or longer"
    if minutes * TOO_LONG < resources.minutes and resources.minutes > 60:
        return resources, f"{asked}: shorter jobs begin earlier; set it to auto, or shorter"
    return resources, ""
