"""What the loss of a job means for its stage: it is started again, at once or after a pause, or given up.

Two things are counted. Jobs lost in a row in which the stage worked and gained no step: something in it kills them, so
few are borne. Jobs lost before the stage began, to a full disk, a node or a controller: that is nothing against it, so
more are borne, with growing pauses between them; but not for ever, since one may be unable to begin.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Literal

from analysis import standing
from analysis.standing import SETTLED, State
from fvar.job import JobRecord
from fvar.rundir import Status
from studies.engine.backends import Job
from studies.engine.nodes import Node, settle
from studies.engine.patience import LONGEST_PAUSE

MAX_LOSSES = 3  # in a row without a step gained, before a stage is given up
MAX_UNBEGUN = 10  # in a row before the stage began
FIRST_PAUSE = 5.0  # seconds, doubled each time


def counted(record: JobRecord, status: Status) -> JobRecord:
    """What is kept of a stage whose job was lost."""
    if not was_begun(record, status):
        return JobRecord(losses=record.losses, unbegun=record.unbegun + 1, step=status.step)
    return JobRecord(losses=1 if status.step > record.step else record.losses + 1, step=status.step)


def uncounted(record: JobRecord | None, status: Status) -> JobRecord:
    """The same where the job's end says nothing of the stage."""
    record = record or JobRecord()
    return JobRecord(losses=record.losses, unbegun=record.unbegun, step=status.step)


def was_begun(record: JobRecord, status: Status) -> bool:
    """Whether a stage was begun since it was handed over."""
    return status.attempts > record.attempts


def too_many(record: JobRecord) -> str:
    """Why the stage is given up; empty while it is not."""
    if record.losses >= MAX_LOSSES:
        return f"{record.losses} times without progress"
    return f"{record.unbegun} times before it began" if record.unbegun >= MAX_UNBEGUN else ""


def pause(record: JobRecord) -> float:
    """Seconds until the stage is started again: none after a first loss."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (record.unbegun - 2)) if record.unbegun > 1 else 0.0


def decide(node: Node, job: Job, shared: bool, remind: Callable[[str], None]) -> tuple[State, str]:
    """The state of a stage whose job ended without it, and why; writes it down.

    Parameters
    ----------
    node
        The stage, which has a record of its job.
    job
        What the backend says of the job.
    shared
        The job ran several stages, of which some were begun.
    remind
        Is told where the disk failed the stage.
    """
    assert node.record is not None
    if job.state == "cancelled" and node.record.ended:
        job = Job("lost", node.record.ended)
    node.on_disk, node.status = standing.of_stage(node.run.path)  # it may have ended since we looked
    if node.on_disk in SETTLED:
        return node.on_disk, node.status.error
    if node.status.disk_trouble and job.state != "cancelled":
        return _put_off(node, remind)
    after = counted(node.record, node.status)
    if shared and not was_begun(node.record, node.status) and job.state != "cancelled":
        # It was another stage's turn: what befell the job is nothing against this one.
        job, after = Job("lost", job.reason), uncounted(node.record, node.status)
    why = too_many(after)
    if job.state == "lost" and not why:
        forget(node, after)
        seconds = pause(after)
        node.until = time.monotonic() + seconds
        return "ready", f"again{f' in {seconds:g} s' if seconds else ''}, since {job.reason}"
    reason = job.reason if job.state != "lost" else f"{job.reason}, {why}"
    state: Literal["cancelled", "failed"] = "cancelled" if job.state == "cancelled" else "failed"
    node.record = dataclasses.replace(node.record, ended=reason)
    node.record.write(node.run)  # first: it tells that the stage did not fail by itself
    settle(node.run, state, reason)
    return state, reason


def forget(node: Node, record: JobRecord) -> None:
    """Write down that a stage has no job any more; with that, it may be submitted again."""
    node.record = record
    node.record.write(node.run)


def _put_off(node: Node, remind: Callable[[str], None]) -> tuple[State, str]:
    """The disk failed the stage, which is nothing against it: it is started again after a while."""
    assert node.record is not None
    longer = node.status.step <= node.record.step
    node.pause = min(LONGEST_PAUSE, 2 * node.pause or FIRST_PAUSE) if longer else FIRST_PAUSE
    node.until = time.monotonic() + node.pause
    remind(f"not now: {node.run.name}: {node.status.error}; it is started again by itself")
    forget(node, uncounted(node.record, node.status))
    return "waiting", f"again in {node.pause:g} s, since {node.status.error}"
