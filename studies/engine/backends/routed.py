"""Two backends in one study: stages of some kinds run on this machine, all others on SLURM.

A profile asks for it by kind: `[scores]` with `cluster = "local"`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir
from studies.engine.backends import Backend, Job

Records = Sequence[tuple[RunDir, JobRecord]]


class Routed:
    """Hands stages to a backend by their kind, and asks of a job the backend that has it."""

    blocking = False
    jobs = 0

    def __init__(self, there: Backend, here: Backend, kinds_here: Collection[str]) -> None:
        self.name = there.name
        self.clusters = (*there.clusters, *here.clusters)
        self.interval = min(there.interval, here.interval)
        self.grace = max(there.grace, here.grace)
        self._there, self._here, self._kinds_here = there, here, kinds_here

    @property
    def refused(self) -> Mapping[str, str]:
        return {**self._there.refused, **self._here.refused}

    def fitting(self, runs: Sequence[RunDir]) -> Sequence[RunDir]:
        return [run for backend, own in self._by_kind(runs) for run in backend.fitting(own)]

    def check(self, say: Callable[[str], None]) -> None:
        self._there.check(say)
        self._here.check(say)

    def submit(self, runs: Sequence[RunDir], after: Sequence[JobRecord] | None = None) -> None:
        if after is not None and any(run.kind in self._kinds_here for run in runs):
            raise UserError(
                f"--detach leaves all to SLURM, and the profile keeps {', '.join(sorted(self._kinds_here))} on this "
                'machine; leave --detach out, or take cluster = "local" from the profile'
            )
        for backend, own in self._by_kind(runs):
            backend.submit(own, after)

    def poll(self, records: Records) -> dict[str, Job]:
        return {name: job for backend, own in self._by_cluster(records) for name, job in backend.poll(own).items()}

    def cancel(self, records: Records) -> None:
        for backend, own in self._by_cluster(records):
            backend.cancel(own)

    def stop(self, records: Records) -> str:
        return "; ".join(filter(None, [backend.stop(own) for backend, own in self._by_cluster(records)]))

    def _by_kind(self, runs: Sequence[RunDir]) -> list[tuple[Backend, Sequence[RunDir]]]:
        here = [run for run in runs if run.kind in self._kinds_here]
        there = [run for run in runs if run.kind not in self._kinds_here]
        return [(self._there, there), (self._here, here)]

    def _by_cluster(self, records: Records) -> list[tuple[Backend, Records]]:
        """Each backend with its own records, also where there are none: it must know that."""
        return [
            (backend, [(run, record) for run, record in records if record.cluster in backend.clusters])
            for backend in (self._there, self._here)
        ]
