"""What is asked of SLURM about jobs: squeue knows those of now and of the last minutes, sacct all that ever were.

Nothing here depends on a clock: jobs are asked for by id, and those whose id is not known, by name within hours.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

from fvar.job import JobRecord
from studies.engine.backends.clients import CALL_SECONDS, SlurmDown, call
from studies.engine.backends.listing import Entries, accounts, queue

ACCOUNTING_SECONDS = 600.0  # a silent accounting is waited for until then
CHUNK = 2000  # names or ids in one question; a command line has an end
SKEW_HOURS = 1  # clocks that differ by less do no harm
MAX_ARRAY = 1000  # where the cluster does not say
MAX_JOBS = 10_000


class Queries:
    """Asks, remembering only what the client programs can do and since when the accounting is silent."""

    def __init__(self) -> None:
        self._silent_since = 0.0
        self._expands = True  # whether this sacct has --array; what it has not expanded, `listing` does
        self._limits: tuple[int, int] | None = None

    def queue(self, waves: Sequence[str], patience: float = CALL_SECONDS) -> Entries:
        """What squeue knows of these waves, jobs that ended in the last minutes among them. Raises `SlurmDown`."""
        found: Entries = {}
        for part in _chunks(waves):
            options = ("--noheader", "--array", "--states=all", f"--name={','.join(part)}", "--format=%F|%K|%T|%j|%r")
            found |= queue(call("squeue", *options, patience=patience), set(part))
        return found

    def accounts(self, records: Sequence[JobRecord]) -> Entries | None:
        """What the accounting knows of these jobs; None where the cluster keeps none.

        Raises `SlurmDown` while it is silent, for a few minutes: without it a job cancelled by hand looks lost.
        """
        waves = {record.wave for record in records}
        ids = dict.fromkeys(record.job_id.partition("_")[0] for record in records if record.job_id)
        unnumbered = dict.fromkeys(record.wave for record in records if not record.job_id)
        questions: list[tuple[str, ...]] = [(f"--jobs={','.join(part)}",) for part in _chunks(list(ids))]
        if unnumbered:
            age = max(0.0, time.time() - min(record.submitted for record in records if not record.job_id))
            window = (f"--starttime=now-{int(age / 3600) + SKEW_HOURS}hours", f"--endtime=now+{SKEW_HOURS}hours")
            questions += [(f"--name={','.join(part)}", *window) for part in _chunks(list(unnumbered))]
        found: Entries = {}
        try:
            for question in questions:
                found |= accounts(self._sacct(*question), waves)
        except SlurmDown as error:
            self._silent_since = self._silent_since or time.monotonic()
            if "disabled" in str(error) or time.monotonic() - self._silent_since > ACCOUNTING_SECONDS:
                return None
            raise
        self._silent_since = 0.0
        return found

    def _sacct(self, *question: str) -> str:
        options = ("--allocations", "--noheader", "--parsable2", "--format=JobID,State,JobName,Reason", *question)
        if self._expands:
            try:
                return call("sacct", "--array", *options)
            except SlurmDown as error:
                if "--array" not in str(error):
                    raise
                self._expands = False
        return call("sacct", *options)

    def limits(self) -> tuple[int, int]:
        """The largest array, and the jobs in all, that the cluster takes."""
        if self._limits is None:
            try:
                text = call("scontrol", "show", "config")
            except SlurmDown:
                return MAX_ARRAY, MAX_JOBS
            array, jobs = (re.search(rf"^{name}\s*=\s*(\d+)", text, re.M) for name in ("MaxArraySize", "MaxJobCount"))
            # The largest index of an array is one less than its "size".
            self._limits = max(1, int(array[1]) - 1) if array else MAX_ARRAY, int(jobs[1]) if jobs else MAX_JOBS
        return self._limits


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]
