"""Stages run as SLURM jobs: one array per wave of ready stages of a kind, through submitit.

A wave is written into the run directories before sbatch and carries its jobs' name, so a driver that dies between
sbatch and its bookkeeping finds the jobs again by that name. States come from one squeue per poll, and from sacct for
jobs that squeue has forgotten; both may be missing or silent for a while.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shlex
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvar.errors import UserError
from fvar.rundir import RunDir
from studies.backends import Job, JobRecord
from studies.backends.job import StageJob
from studies.backends.snapshot import snapshot
from studies.profile import Profile, Resources

ORPHAN_SECONDS = 10.0  # an sbatch that was under way when its driver died has come through by then
CALL_SECONDS = 60.0
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
ROOT = Path(__file__).resolve().parents[2]
Records = Sequence[tuple[RunDir, JobRecord]]


@dataclass(frozen=True)
class Entry:
    """A job as SLURM lists it."""

    job_id: str
    state: str
    reason: str


Entries = dict[tuple[str, int], Entry]  # by name of the array and place in it


class SlurmDown(Exception):
    """The controller or the accounting did not answer; jobs may be fine all the same."""


class Slurm:
    """Submits to, and asks, the cluster that SLURM_CONF or the default configuration names."""

    name = "slurm"

    def __init__(self, profile: Profile, results: Path) -> None:
        self.profile = profile
        self.folder = results.resolve() / "slurm"
        self.interval = profile.common.poll
        self.calls = 0  # of SLURM's client programs
        self.code = snapshot(ROOT, self.folder / "code")
        self._last: dict[str, Job] = {}
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

    def submit(self, runs: Sequence[RunDir]) -> None:
        for kind in sorted({run.kind for run in runs}):
            resources = self.profile.of(kind)
            same = [run for run in runs if run.kind == kind]
            size = min(resources.array_size, self._max_array_size()) if len(same) > 1 else 1
            for start in range(0, len(same), size):
                self._submit_wave(kind, same[start : start + size], resources)

    def _submit_wave(self, kind: str, runs: Sequence[RunDir], resources: Resources) -> None:
        import submitit

        wave = f"fvar-{kind}-{uuid.uuid4().hex[:12]}"
        records = []
        for index, run in enumerate(runs):
            old = JobRecord.read(run)
            record = JobRecord(self.name, wave=wave, index=index, host=socket.gethostname(), submitted=time.time())
            record = dataclasses.replace(record, losses=old.losses if old else 0, step=old.step if old else 0)
            record.write(run)
            records.append(record)
        executor = submitit.SlurmExecutor(self.folder / wave, max_num_timeout=resources.requeues)
        executor.update_parameters(**_parameters(resources, wave, self.code))
        try:
            # submitit repeats sbatch's complaints on stderr.
            with _clean_environment(), contextlib.redirect_stderr(io.StringIO()) as said:
                self.calls += 1
                jobs = executor.submit_array([StageJob(str(run.path)) for run in runs])
        except (RuntimeError, subprocess.SubprocessError, OSError) as error:
            message = _complaints(said.getvalue()) or _last_line(str(error))
            if _temporary(message):
                return  # sbatch may have come through: the poll finds the wave by its name, or submits it again
            for run in runs:
                (run.path / "job.json").unlink(missing_ok=True)
            raise UserError(f"sbatch refused the {kind} stages of profile {self.profile.name}: {message}") from None
        for run, record, job in zip(runs, records, jobs, strict=True):
            dataclasses.replace(record, job_id=job.job_id).write(run)

    def _max_array_size(self) -> int:
        if not self._max_array:
            with contextlib.suppress(SlurmDown):
                found = re.search(r"MaxArraySize\s*=\s*(\d+)", self._call("scontrol", "show", "config"))
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
        except SlurmDown:
            # Nothing is known now; what was known is assumed to hold.
            return {run.name: self._last.get(run.name, Job("queued", "SLURM does not answer")) for run, _ in records}
        self._last = {
            run.name: self._look(run, record, known.get((record.wave, record.index))) for run, record in records
        }
        return self._last

    def _look(self, run: RunDir, record: JobRecord, entry: Entry | None) -> Job:
        if entry is None:
            young = time.time() - record.submitted < ORPHAN_SECONDS
            return Job("queued", "being submitted") if young else Job("lost", GONE)
        if not record.job_id:
            self._adopt(run, record, entry)
        if entry.state in QUEUED:
            return Job("queued", "" if entry.reason in ("", "None", "Priority") else entry.reason)
        if entry.state in RUNNING:
            return Job("running")
        logs = list((self.folder / record.wave).glob(f"{entry.job_id}_*_log.out"))
        if entry.state == "OUT_OF_MEMORY" or (entry.state == "FAILED" and any(map(_ran_out_of_memory, logs))):
            memory = self.profile.of(run.kind).memory or "the cluster's default"
            return Job("failed", f"out of memory; raise it by --set slurm.{run.kind}.memory=… (now {memory})")
        if entry.state == "FAILED" and not logs:
            return Job("lost", f"its job could not write to {self.folder}: --results must be a folder the nodes share")
        if entry.state in LOST:
            return Job("lost", LOST[entry.state])
        if entry.state == "CANCELLED":
            return Job("cancelled", f"job {entry.job_id} was cancelled in SLURM")
        return Job("lost", f"its job ended as {entry.state}")

    def _adopt(self, run: RunDir, record: JobRecord, entry: Entry) -> None:
        """Complete the bookkeeping of a job whose driver died right after sbatch."""
        from submitit.core.utils import DelayedSubmission, JobPaths

        resources = self.profile.of(run.kind)
        pickle = JobPaths(self.folder / record.wave, entry.job_id).submitted_pickle
        if not pickle.exists():
            # submitit names this file only after sbatch has answered; the job waits a minute for it.
            work = DelayedSubmission(StageJob(str(run.path)))
            work.set_timeout(resources.minutes, resources.requeues)
            work.dump(pickle)
        dataclasses.replace(record, job_id=entry.job_id).write(run)

    def _queue(self, waves: Sequence[str] = ("fvar",)) -> Entries:
        """Jobs that squeue knows, ended ones of the last minutes among them."""
        text = self._call(
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
        """The same from the accounting, which forgets nothing; empty where the cluster keeps none."""
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 60))
        try:
            text = self._call(
                "sacct",
                "--allocations",
                "--noheader",
                "--parsable2",
                f"--name={','.join(waves)}",
                f"--starttime={start}",
                "--format=JobID,State,JobName",
            )
        except SlurmDown:
            return {}
        found: Entries = {}
        for line in text.splitlines():
            job_id, state, name = line.split("|", 2)
            _, _, index = job_id.partition("_")
            found[name, int(index) if index.isdigit() else 0] = Entry(job_id, state.split()[0], "")
        return found

    # -------------------------------------------------------------------------------------------------------- stopping

    def cancel(self, records: Records) -> None:
        ids = [record.job_id for _, record in records if record.job_id]
        names = sorted({record.wave for _, record in records if not record.job_id})
        try:
            if ids:
                self._call("scancel", *ids)
            if names:
                self._call("scancel", f"--name={','.join(names)}")
        except SlurmDown as error:
            raise UserError(f"cannot cancel: {error}; try again when SLURM answers") from None

    def stop(self, records: Records) -> str:
        return f"{len(records)} jobs go on in SLURM" if records else ""

    def _call(self, *command: str) -> str:
        """Output of a SLURM client program."""
        self.calls += 1
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_SECONDS)
        except FileNotFoundError:
            raise SlurmDown(f"{command[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise SlurmDown(f"{command[0]} gave no answer for {CALL_SECONDS:g} s") from None
        if done.returncode:
            raise SlurmDown(_last_line(done.stderr) or f"{command[0]} ended with {done.returncode}")
        return done.stdout


def _parameters(resources: Resources, wave: str, code: Path) -> dict[str, Any]:
    """submitit's names for what a job asks for. It runs in the copy of the code, where Python looks first."""
    asked = {
        "job_name": wave,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "cpus_per_task": resources.cpus_per_task,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "gres": resources.gres,
        "mem": resources.memory,
        "setup": [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}", *resources.setup],
        "signal_delay_s": resources.warning,
        "array_parallelism": resources.array_parallelism,
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, "chdir": str(code)},
        # srun does not take this over from the batch job since SLURM 22.05.
        "srun_args": [f"--cpus-per-task={resources.cpus_per_task}"],
    }
    return {key: value for key, value in asked.items() if value not in ("", ())}


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Without what a surrounding job left in the environment, which sbatch would obey; SLURM_CONF names the cluster."""
    from submitit.helpers import clean_env

    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _ran_out_of_memory(log: Path) -> bool:
    """Whether slurmd wrote so at the end of a job's output.

    The stage is a step of its job (submitit calls srun): the step ends OUT_OF_MEMORY, but the job only FAILED.
    """
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        return bool(OUT_OF_MEMORY.search(file.read()))


def _complaints(text: str) -> str:
    """What sbatch says in several lines, as one."""
    return "; ".join(line.removeprefix("sbatch: error: ") for line in text.splitlines() if "error: " in line)


def _temporary(message: str) -> bool:
    """Whether sbatch failed for want of a controller rather than for what was asked of it."""
    return any(part in message.lower() for part in ("unable to contact", "timed out", "connection", "temporarily"))
