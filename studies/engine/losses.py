"""What the loss of a job means for its stage: it is started again, at once or after a pause, or given up.

Two things are counted. Jobs lost in a row in which the stage worked and gained no step: something in it kills them, so
few are borne. Jobs lost before the stage began, to a full disk, a node or a controller: that is nothing against it, so
more are borne, with growing pauses between them; but not for ever, since one may be unable to begin.
"""

from __future__ import annotations

from fvar.job import JobRecord
from fvar.rundir import Status
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
