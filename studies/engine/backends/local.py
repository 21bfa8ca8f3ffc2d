"""Stages run as processes of this machine, a few at a time, and outlive a driver that is killed.

submitit starts and watches them but knows no limit, gives every process all cores and hides the GPUs: the number of
jobs, the threads and the GPU of each are decided here. So is how Python starts: once more than the first stages have
begun, each is forked from a process with torch in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fvar.job import JobRecord
from fvar.machine.forkserver import ForkServer
from fvar.machine.names import plain, search_path
from fvar.rundir import RunDir
from fvar.usage import visible_gpus
from studies.engine.backends import Job
from studies.engine.backends.job import StageJob

STOP_SECONDS = 60.0  # a stage writes a checkpoint within this
A_MONTH = 60 * 24 * 30  # minutes; submitit's default limit is two


class Local:
    """At most `jobs` stages at once, each with its share of the cores and, where there are GPUs, one GPU."""

    name = "local"
    clusters = ("local",)
    blocking = False
    interval = 0.5
    grace = 0.0
    refused: Mapping[str, str] = MappingProxyType({})

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.gpus = visible_gpus()
        self._started: dict[str, Any] = {}  # submitit's jobs, by run name
        self._alive: set[str] = set()
        self._gpu_of: dict[str, str] = {}  # the GPU of each job of ours, by run name
        self._with_torch: ForkServer | None = None

    def fitting(self, runs: Sequence[RunDir]) -> Sequence[RunDir]:
        return runs[: max(0, self.jobs - len(self._alive))]

    def check(self, say: Callable[[str], None]) -> None:
        return None

    def submit(self, runs: Sequence[RunDir], after: Sequence[JobRecord] | None = None) -> None:
        import submitit

        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        with _environment(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads), _deaf_to_ctrl_c():
            if self._started and self._with_torch is None:  # where one stage has followed another, more will
                self._with_torch = ForkServer()
        options = self._with_torch.options if self._with_torch else ()
        python = shlex.join([sys.executable, *options])
        for run in runs:
            # submitit expands %j and the like anywhere in the path of its folder.
            executor = submitit.LocalExecutor(plain(run.path.parent, "%") / run.name / "submitit", python=python)
            executor.update_parameters(timeout_min=A_MONTH, stderr_to_stdout=True, gpus_per_node=min(1, len(self.gpus)))
            if self.gpus:
                self._gpu_of[run.name] = self._idlest_gpu()
                # submitit's own check takes numbers only, and hands on whatever stands here.
                executor.parameters["visible_gpus"] = (self._gpu_of[run.name],)
            record = JobRecord.next(run, JobRecord.read(run))  # before the job, which counts an attempt more
            with _environment(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads), _deaf_to_ctrl_c():
                job = executor.submit(StageJob(str(run.path)))
            dataclasses.replace(
                record,
                cluster=self.name,
                job_id=job.job_id,
                host=socket.gethostname(),
                submitted=time.time(),
                born=born(int(job.job_id)),
            ).write(run)
            self._started[run.name] = job
            self._alive.add(run.name)

    def poll(self, records: Sequence[tuple[RunDir, JobRecord]]) -> dict[str, Job]:
        found = {run.name: self._look(run, record) for run, record in records}
        self._alive = {name for name, job in found.items() if job.state == "running"}
        return found

    def cancel(self, records: Sequence[tuple[RunDir, JobRecord]]) -> None:
        """End the jobs after a checkpoint each; returns when they have gone."""
        deadline = time.monotonic() + STOP_SECONDS
        while alive := [pair for pair in records if self._look(*pair).state == "running"]:
            late = time.monotonic() > deadline
            for _, record in alive:
                with contextlib.suppress(ProcessLookupError):
                    # submitit's controller hands TERM to the stage, which only hears it once it has begun.
                    os.kill(int(record.job_id), signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(0.5)

    def stop(self, records: Sequence[tuple[RunDir, JobRecord]]) -> str:
        self.cancel(records)
        return ""

    def _look(self, run: RunDir, record: JobRecord) -> Job:
        if run.name in self._started:
            self._started[run.name].done()  # collects the ended child, which would count as alive otherwise
        if record.host != socket.gethostname():
            return Job("lost", f"its process was on {record.host}")  # where it still is, it holds the run's lock
        return Job("running") if born(int(record.job_id)) == record.born != "" else Job("lost", "its process ended")

    def _idlest_gpu(self) -> str:
        used = [self._gpu_of.get(name) for name in self._alive]
        return min(self.gpus, key=used.count)


def born(pid: int) -> str:
    """What tells a living process from a later one with its id; empty for one that is gone (or only not yet collected).

    Linux says when it was started; elsewhere the id must do.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        return "alive"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Ctrl-C goes to every process of the terminal; submitit's would kill its stage within a second. Ours is asked."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables for the processes started meanwhile; what the user set stays."""
    new = {key: value for key, value in values.items() if key not in os.environ}
    path = os.environ.get("PYTHONPATH")
    os.environ.update(new, PYTHONPATH=search_path(Path(__file__).resolve().parents[3]))
    try:
        yield
    finally:
        for key in new:
            del os.environ[key]
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
