"""Stages run one after another in the driver's own process: the way to debug, and the fastest on a small machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from fvar.errors import DiskTrouble, UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir
from fvar.usage import recording, visible_gpus
from studies.engine.backends import Job
from studies.engine.backends.answers import NotNow


class Inline:
    """No job is left behind: the run directory's lock says whether a stage is being worked on."""

    name = "inline"
    clusters = ("inline",)
    blocking = True
    jobs = 1
    interval = 0.5  # only waits where another driver works on a stage this one needs
    grace = 0.0
    refused: Mapping[str, str] = MappingProxyType({})

    def fitting(self, runs: Sequence[RunDir]) -> Sequence[RunDir]:
        return runs[:1]

    def check(self, say: Callable[[str], None]) -> None:
        return None

    def submit(self, runs: Sequence[RunDir], after: Sequence[JobRecord] | None = None) -> None:
        from fvar.run import execute

        for run in runs:
            try:
                with recording(run.path, gpus=min(1, len(visible_gpus()))):
                    execute(run.path)
            except DiskTrouble as error:
                raise NotNow(str(error)) from error
            except UserError:
                # A failure stands in the status; a busy directory is another driver's. The rest is for the user.
                if run.status.state != "failed" and not run.locked:
                    raise

    def poll(self, records: Sequence[tuple[RunDir, JobRecord]]) -> dict[str, Job]:
        return {}

    def cancel(self, records: Sequence[tuple[RunDir, JobRecord]]) -> None:
        return None

    def stop(self, records: Sequence[tuple[RunDir, JobRecord]]) -> str:
        return ""
