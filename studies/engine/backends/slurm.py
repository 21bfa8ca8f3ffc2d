"""Stages run as SLURM jobs: one array per wave of ready stages of a kind, through submitit.

A wave is written into the run directories before sbatch and carries its jobs' name, so a driver that dies between
sbatch and its bookkeeping finds the jobs again by that name. States come from one squeue per poll, and from sacct for
jobs that squeue has forgotten; both may be missing or silent for a while.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir
from studies.engine.backends import Job, in_parallel
from studies.engine.backends.clients import SlurmDown, call
from studies.engine.backends.probe import require_shared
from studies.engine.backends.snapshot import snapshot
from studies.engine.profile import Profile, Resources

ORPHAN_SECONDS = 60.0  # an sbatch that was under way when its driver died has ended by then, see `sbatch`
ACCOUNTING_SECONDS = 600.0  # for so long a silent accounting is waited for
GRACE_SECONDS = 5.0  # file systems that are shared show a change after a while
QUEUED = {"PENDING", "CONFIGURING", "SUSPENDED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
QUEUED |= {"REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}
RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}
LOST = {
    "PREEMPTED": "it was preempted",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
    "REVOKED": "the cluster withdrew it",
    "TIMEOUT": "it reached its time limit",
    "DEADLINE": "it reached its deadline",
    "FAILED": "its job ended",
    "COMPLETED": "its job ended",
}
OUT_OF_MEMORY = re.compile(rb"oom-kill event|: Out Of Memory|exceeded (job )?memory limit", re.IGNORECASE)
GONE = "the cluster no longer knows its job"
ROOT = Path(__file__).resolve().parents[3]
Records = Sequence[tuple[RunDir, JobRecord]]


@dataclass(frozen=True)
class Entry:
    """A job as SLURM lists it."""

    job_id: str
    state: str
    reason: str


Entries = dict[tuple[str, int], Entry]  # by name of the array and place in it


class Slurm:
    """Submits to, and asks, the cluster that SLURM_CONF or the default configuration names."""

    name = "slurm"
    blocking = False
    grace = GRACE_SECONDS

    def __init__(self, profile: Profile, results: Path) -> None:
        self.profile = profile
        self.folder = results.resolve() / "slurm"
        self.interval = profile.common.poll
        self.code = snapshot(ROOT, self.folder / "code")
        self._last: dict[str, Job] = {}  # as of the last answer, without what had ended
        self._silent_since = 0.0  # since when the accounting gives no answer
        self._max_array = 0
        try:
            configuration = os.environ.get("SLURM_CONF")
            if configuration and not Path(configuration).exists():
                raise SlurmDown(f"SLURM_CONF names {configuration}, which does not exist")
            self._queue()
        except SlurmDown as error:
            raise UserError(
                f"cannot reach SLURM ({error}); check that squeue works here, or use --cluster local"
            ) from None

    def free(self) -> int:
        return 1_000_000  # queueing is SLURM's own business

    # ------------------------------------------------------------------------------------------------------ submitting

    def check(self, say: Callable[[str], None]) -> None:
        """Make sure that the nodes see the results folder. Raises `UserError` where they do not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            require_shared(self.folder, self.profile.of("scores"), say)
        except SlurmDown as error:
            raise UserError(f"sbatch refused a first job of profile {self.profile.name}: {error}") from None

    def submit(self, runs: Sequence[RunDir], after: Sequence[JobRecord] = ()) -> None:
        for kind in sorted({run.kind for run in runs}):
            resources = self.profile.of(kind)
            same = [run for run in runs if run.kind == kind]
            size = min(resources.array_size, self._max_array_size()) if len(same) > 1 else 1
            for start in range(0, len(same), size):
                self._submit_wave(kind, same[start : start + size], resources, [record.job_id for record in after])

    def _submit_wave(self, kind: str, runs: Sequence[RunDir], resources: Resources, after: Sequence[str]) -> None:
        from studies.engine.backends import sbatch

        wave = f"fvar-{kind}-{uuid.uuid4().hex[:12]}"
        records = []
        for index, run in enumerate(runs):
            old = JobRecord.read(run)
            record = JobRecord(self.name, wave=wave, index=index, host=socket.gethostname(), submitted=time.time())
            records.append(dataclasses.replace(record, losses=old.losses if old else 0, step=old.step if old else 0))
        in_parallel(JobRecord.write, records, runs)
        try:
            jobs = sbatch.submit(self.folder / wave, [run.path for run in runs], resources, self.code, after)
        except sbatch.SubmissionRefused as error:
            for run, record in zip(runs, records, strict=True):
                if error.temporary:  # it may have come through: the poll finds the wave by its name, or loses it
                    dataclasses.replace(record, submitted=time.time() - ORPHAN_SECONDS).write(run)
                else:
                    (run.path / "job.json").unlink(missing_ok=True)
            if error.temporary:
                return
            raise UserError(f"sbatch refused the {kind} stages of profile {self.profile.name}: {error}") from None
        records = [dataclasses.replace(record, job_id=job) for record, job in zip(records, jobs, strict=True)]
        in_parallel(JobRecord.write, records, runs)

    def _max_array_size(self) -> int:
        if not self._max_array:
            with contextlib.suppress(SlurmDown):
                found = re.search(r"MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"))
                self._max_array = int(found[1]) - 1 if found else 0  # the largest index is one less
        return max(1, self._max_array or 1000)

    # --------------------------------------------------------------------------------------------------------- polling

    def poll(self, records: Records) -> dict[str, Job]:
        if not records:
            return {}
        waves = sorted({record.wave for _, record in records})
        try:
            known = self._queue(waves)
            if any((record.wave, record.index) not in known for _, record in records):
                oldest = min(record.submitted for _, record in records)
                known = self._accounts(waves, oldest) | known
        except SlurmDown as error:
            # Nothing is known now; what was known is assumed to hold.
            silent = Job("queued", f"SLURM does not answer ({error})")
            return {run.name: self._last.get(run.name, silent) for run, _ in records}
        found = {run.name: self._look(run, record, known.get((record.wave, record.index))) for run, record in records}
        self._last = {name: job for name, job in found.items() if job.state in ("queued", "running")}
        return found

    def _look(self, run: RunDir, record: JobRecord, entry: Entry | None) -> Job:
        if entry is None:
            young = not record.job_id and time.time() - record.submitted < ORPHAN_SECONDS
            return Job("queued", "being submitted") if young else Job("lost", GONE)
        if not record.job_id and JobRecord.read(run) == record:  # its driver died right after sbatch
            dataclasses.replace(record, job_id=entry.job_id).write(run)
        if entry.state in QUEUED:
            return Job("queued", "" if entry.reason in ("", "None", "Priority") else entry.reason)
        if entry.state in RUNNING:
            return Job("running")
        logs = list((self.folder / record.wave).glob(f"{entry.job_id}_*_log.out"))
        if entry.state == "OUT_OF_MEMORY" or (entry.state == "FAILED" and any(map(_ran_out_of_memory, logs))):
            memory = self.profile.of(run.kind).memory or "the cluster's default"
            return Job("failed", f"out of memory; raise it by --set slurm.{run.kind}.memory=… (now {memory})")
        if entry.state in LOST:
            return Job("lost", LOST[entry.state])
        if entry.state == "CANCELLED" and entry.reason == "DependencyNeverSatisfied":
            return Job("dropped", "a job it waited for did not succeed")
        if entry.state == "CANCELLED":
            return Job("cancelled", f"job {entry.job_id} was cancelled in SLURM")
        return Job("lost", f"its job ended as {entry.state}")

    def _queue(self, waves: Sequence[str] = ("fvar",)) -> Entries:
        """Jobs that squeue knows, ended ones of the last minutes among them."""
        text = call(
            "squeue", "--noheader", "--array", "--states=all", f"--name={','.join(waves)}", "--format=%F|%K|%T|%j|%r"
        )
        found: Entries = {}
        for line in text.splitlines():
            array, index, state, name, reason = line.split("|", 4)
            single = not index.isdigit()
            job_id = array if single else f"{array}_{index}"
            found[name, 0 if single else int(index)] = Entry(job_id, state, reason)
        return found

    def _accounts(self, waves: Sequence[str], since: float) -> Entries:
        """The same from the accounting, which forgets nothing; empty where the cluster keeps none.

        Raises `SlurmDown` while it is silent, for a few minutes: without it a job cancelled by hand looks lost.
        """
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 60))
        try:
            text = call(
                "sacct",
                "--allocations",
                "--noheader",
                "--parsable2",
                f"--name={','.join(waves)}",
                f"--starttime={start}",
                "--format=JobID,State,JobName,Reason",
            )
        except SlurmDown as error:
            self._silent_since = self._silent_since or time.monotonic()
            if "disabled" in str(error) or time.monotonic() - self._silent_since > ACCOUNTING_SECONDS:
                return {}
            raise
        self._silent_since = 0.0
        found: Entries = {}
        for line in text.splitlines():
            job_id, state, name, reason = line.split("|", 3)
            _, _, index = job_id.partition("_")
            found[name, int(index) if index.isdigit() else 0] = Entry(job_id, state.split()[0], reason)
        return found

    # -------------------------------------------------------------------------------------------------------- stopping

    def cancel(self, records: Records) -> None:
        ids = [record.job_id for _, record in records if record.job_id]
        names = sorted({record.wave for _, record in records if not record.job_id})
        try:
            if ids:
                call("scancel", *ids)
            if names:
                call("scancel", f"--name={','.join(names)}")
        except SlurmDown as error:
            raise UserError(f"cannot cancel: {error}; try again when SLURM answers") from None

    def stop(self, records: Records) -> str:
        return f"{len(records)} jobs go on in SLURM" if records else ""


def _ran_out_of_memory(log: Path) -> bool:
    """Whether slurmd wrote so at the end of a job's output.

    The stage is a step of its job (submitit calls srun): the step ends OUT_OF_MEMORY, but the job only FAILED.
    """
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        return bool(OUT_OF_MEMORY.search(file.read()))
