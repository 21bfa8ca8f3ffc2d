"""job.json in a run directory: the job last submitted for it. Written by the driver alone."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fvar.machine import atomic, records
from fvar.rundir import RunDir

JOB_FILE = "job.json"


@dataclass(frozen=True)
class JobRecord:
    """Which job of which cluster a stage was handed to, and how often in a row that came to nothing."""

    cluster: str = ""  # empty where the stage has no job any more
    job_id: str = ""  # empty between the decision to submit and the scheduler's answer
    wave: str = ""  # SLURM: name of the job array
    index: int = 0  # SLURM: place in the array
    pack: int = 1  # SLURM: stages that this place runs
    attempts: int = 0  # that the stage had made when it was handed over
    host: str = ""
    submitted: float = 0.0
    born: str = ""  # local: tells the process from a later one with the same id
    losses: int = 0  # jobs lost in a row in which it worked without a step gained
    unbegun: int = 0  # jobs lost in a row before the stage began
    step: int = 0  # when the last one was lost
    ended: str = ""  # why the driver itself ended the job, which then counts as lost, or gave the stage up with it

    @classmethod
    def read(cls, run: RunDir) -> JobRecord | None:
        return cls.read_in(run.path)

    @classmethod
    def read_in(cls, path: Path) -> JobRecord | None:
        """The record in a run directory, without opening that.

        None where there is none, or none that can be read: a job that is then submitted a second time finds the
        directory locked by the first, or its stage done.
        """
        with contextlib.suppress(records.Damaged):
            return records.read(cls, f"{path}/{JOB_FILE}")
        return None

    @classmethod
    def next(cls, run: RunDir, previous: JobRecord | None) -> JobRecord:
        """The record of another job for a stage, before that is submitted: what is counted over its jobs goes on."""
        old = previous or cls()
        return cls(attempts=run.status.attempts, losses=old.losses, unbegun=old.unbegun, step=old.step)

    def write(self, run: RunDir) -> None:
        atomic.write_json(run.path / JOB_FILE, dataclasses.asdict(self))
