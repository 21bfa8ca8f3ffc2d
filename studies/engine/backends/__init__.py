"""Where stages run: in this process (inline), in processes of this machine (local), or on a SLURM cluster (slurm).

A backend is told which run directories to work on and, later, asked what became of its jobs. Whether a stage is done is
none of its business: that stands in the run directory.

    inline.py, local.py     this machine                        job.py       what a local job carries
    routed.py               some kinds here, the rest on SLURM
    slurm.py                submits waves, judges jobs          sbatch.py    one sbatch
    states.py               what SLURM calls the states of jobs
    answers.py              do it now, not now, or never        room.py      how many jobs fit
    throttle.py             how many run at once, over all waves
    queries.py, clients.py  what is asked of SLURM              listing.py   what it prints
    probe.py                do nodes see the results folder     snapshot.py  the code a job runs
    pack.py                 several stages in one job
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fvar.config import STAGE_CONFIGS
from fvar.errors import unknown
from fvar.job import JobRecord
from fvar.machine import locks
from fvar.rundir import RunDir
from studies.engine.profile import Profile

WRITERS = 8
CLUSTERS = ("inline", "local", "slurm")
JobState = Literal["queued", "running", "lost", "dropped", "failed", "cancelled", "absent"]


@dataclass(frozen=True)
class Job:
    """What a backend knows of a stage's job. Only "queued" and "running" mean that there is one.

    lost: it ended without finishing the stage, and starting it again may (preemption, node failure, kill).
    dropped: it never started, since a job it waited for did not succeed, or since sbatch did not come through.
    failed: it ended in a way that would repeat, for the `reason` given (out of memory).
    absent: its cluster cannot be asked from this machine.
    """

    state: JobState
    reason: str = ""


def in_parallel(function: Callable[..., object], *arguments: Iterable[Any]) -> None:
    """Call a function that writes files for each of many run directories; one after another each waits for the disk."""
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(function, *arguments):
            pass


class Backend(Protocol):
    """Runs stages. All methods are called from the driver's main thread."""

    name: str  # that --cluster asks for it by
    blocking: bool  # whether `submit` returns only when the stages have ended; there is no job to ask for then
    jobs: int  # stages at work side by side, at most; 0: as many as its cluster lets in
    interval: float  # seconds between two polls
    grace: float  # seconds from a job's end until what it wrote last is surely visible here

    @property
    def clusters(self) -> Sequence[str]:
        """Whose jobs are its own, as job records name them."""
        ...

    @property
    def refused(self) -> Mapping[str, str]:
        """What it does not take for now: the reason in a line, by stage kind."""
        ...

    def fitting(self, runs: Sequence[RunDir]) -> Sequence[RunDir]:
        """Those of the stages that may be offered to it now."""
        ...

    def check(self, say: Callable[[str], None]) -> None:
        """Whatever must hold before anything is submitted. Raises `UserError`, or `NotNow` where waiting helps."""
        ...

    def submit(self, runs: Sequence[RunDir], after: Sequence[JobRecord] | None = None) -> None:
        """Start these stages and leave a `JobRecord` in each, or run them to their end where this is `blocking`.

        What the backend does not take for now is left as it was, and `refused` says why. Only SLURM takes `after`, of a
        driver that will not stay: jobs that must succeed first.
        """
        ...

    def poll(self, records: Sequence[tuple[RunDir, JobRecord]]) -> dict[str, Job]:
        """What became of jobs of this or an earlier driver, by run name."""
        ...

    def cancel(self, records: Sequence[tuple[RunDir, JobRecord]]) -> None:
        """Stop these jobs for good."""
        ...

    def stop(self, records: Sequence[tuple[RunDir, JobRecord]]) -> str:
        """The driver is leaving: end what cannot go on without it, and say in a line what goes on."""
        ...


def factory(results: Path, profile: Profile, jobs: int = 1) -> Callable[[str], Backend]:
    """Makes each backend once, when it is first asked for by name: `jobs` is for local, the profile for slurm."""

    from studies.engine.backends.routed import Routed

    @functools.cache
    def make(name: str) -> Backend:
        if name not in CLUSTERS:
            raise unknown("cluster", name, CLUSTERS)
        module = importlib.import_module(f"studies.engine.backends.{name}")
        if name == "slurm":
            slurm: Backend = module.Slurm(profile, results)
            here = [kind for kind in STAGE_CONFIGS if profile.of(kind).cluster == "local"]
            return Routed(slurm, make("local"), here) if here else slurm
        return module.Local(jobs) if name == "local" else module.Inline()  # type: ignore[no-any-return]

    return make


@contextlib.contextmanager
def submitting(root: Path, patience: float = 600.0, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the right to submit stages below `root`: two studies must not both start the tokenizer they share.

    `say` is told at once, where another driver has it now.
    """
    with locks.holding(
        root / ".submitting",
        lambda owner: f"another driver ({owner}) has been submitting to {root} for {patience:g} s; stop it",
        patience,
        lambda owner: (
            say(f"another driver ({owner}) is submitting to {root}; waiting for it, for up to {patience:g} s")
            if say
            else None
        ),
    ):
        yield
