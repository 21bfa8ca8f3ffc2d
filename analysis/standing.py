"""Where stages and cells stand, from run directories alone: the one answer that tables, MLflow and all commands give.

One look at a stage's status, lock and job gives its state:

    done, failed, cancelled    its status says so; these last
    running                    a process holds its lock, or another machine, whose lock may not be seen, wrote just now
    queued                     a job was submitted for it that has not begun
    interrupted                it stopped half-way, or died; the study's command continues it
    waiting                    none of these

A driver knows two more, `ready` (nothing is in its way) and `blocked` (something above it failed), and asks its cluster
what has become of a job that is queued here. A cell has the state of the stage that stops it, or else moves it; one
that a search gave up half-way is `pruned`, and its stages, whose checkpoints are kept, are interrupted.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from fvar.job import JobRecord
from fvar.rundir import Status, locked, read_status

State = Literal[
    "waiting", "ready", "queued", "running", "interrupted", "done", "failed", "cancelled", "blocked", "pruned"
]
SETTLED: frozenset[State] = frozenset({"done", "failed", "cancelled"})  # nothing changes these but a user
STOPPING: tuple[State, ...] = ("failed", "cancelled", "blocked")  # whatever needs the stage; the cause first
MOVING: tuple[State, ...] = ("running", "queued", "ready", "interrupted")  # the liveliest first
SILENCE = 60.0  # seconds without a sign of life after which a stage on another machine counts as dead; 6 heartbeats


class Standing(NamedTuple):
    """Where a stage stands, and the status that says how far it is. `status.state` is what the stage last wrote."""

    state: State
    status: Status


def of_stage(path: Path) -> Standing:
    """Where the stage of a run directory stands; one without a directory is waiting."""
    status = read_status(path)
    if status.state in SETTLED:
        return Standing(status.state, status)
    if locked(path):
        return Standing("running", status)
    if status.state == "running":
        status = read_status(path)  # it may have ended between the two looks
        if status.state in SETTLED or _may_live_elsewhere(status):
            return Standing(status.state, status)
    if _has_a_new_job(path, status):
        return Standing("queued", status)
    return Standing("interrupted" if status.state == "running" else status.state, status)


def _has_a_new_job(path: Path, status: Status) -> bool:
    """Whether a job was submitted since the stage last gave a sign of life."""
    job = JobRecord.read_in(path)
    return job is not None and job.job_id != "" and (status.state == "waiting" or job.submitted > (status.updated or 0))


def _may_live_elsewhere(status: Status) -> bool:
    """Locks of another machine are not seen on every file system; its heartbeat is."""
    return status.host != socket.gethostname() and time.time() - (status.updated or 0) <= SILENCE


def of_cell(states: Mapping[str, State]) -> tuple[State, str]:
    """Where a cell stands, and at which stage, from those of its stages by run name: inputs first, its own last.

    What has been settled for its own stage holds, whatever became of those above. Otherwise it is blocked if one of
    those failed or was cancelled; or it is what the liveliest of its stages is.
    """
    *_, own = states or [""]
    if not own or states[own] in SETTLED:
        return states.get(own, "waiting"), own
    for state in (*STOPPING, *MOVING):
        if stage := next((name for name in states if states[name] == state), ""):
            return ("blocked" if state in STOPPING else state), stage
    return "waiting", own


def detail(state: State, stage: str, status: Status) -> str:
    """One line about a cell that `of_cell` found in `state` at `stage`: how far that is, or why it failed."""
    if state in ("done", "waiting"):
        return ""
    if state in ("failed", "blocked"):
        return ": ".join(filter(None, (stage, last_line(status.error))))
    return f"{stage}: step {status.step} of {status.steps}" if status.steps else stage


def last_line(error: str) -> str:
    """What a traceback comes down to."""
    return (error.strip().splitlines() or [""])[-1]
