"""What a job of several stages means for each of them: see `studies.engine.backends.pack`, which runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.standing import State
from fvar.job import JobRecord
from fvar.rundir import RunDir
from studies.engine.backends import Job
from studies.engine.losses import was_begun

Place = tuple[str, int]  # a job: name of its array, and place in that


def place(record: JobRecord) -> Place:
    return record.wave, record.index


def for_one(record: JobRecord, job: Job, on_disk: State) -> Job:
    """What such a job is to one stage, which its directory says to be `on_disk`."""
    if record.pack == 1 or job.state != "running" or on_disk == "running":
        return job
    if record.ended:  # this stage was, the others of the job go on
        return Job("lost", record.ended)
    return Job("queued", f"in job {record.job_id}, which runs {record.pack} stages")


def begun(jobs: Mapping[str, Job], records: Sequence[tuple[RunDir, JobRecord]]) -> set[Place]:
    """The jobs of several stages that are over, and in which one stage at least was begun.

    Parameters
    ----------
    jobs
        What backends say, by run name.
    records
        Those of all stages that have one.
    """
    over = {
        place(record)
        for run, record in records
        if record.pack > 1 and run.name in jobs and jobs[run.name].state not in ("queued", "running")
    }
    if not over:
        return set()
    return {place(record) for run, record in records if place(record) in over and was_begun(record, run.status)}
