"""How many jobs of a study run at once, over all its arrays: in all, and of each stage kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from fvar.job import JobRecord
from studies.engine.backends.clients import SlurmDown, call


class Throttle:
    """Knows the arrays in the queue, and hands what the older ones no longer need to the younger.

    Parameters
    ----------
    parallel
        Jobs that may run at once.
    limits
        The same by stage kind.
    """

    def __init__(self, parallel: int, limits: Mapping[str, int]) -> None:
        self.parallel = parallel
        self.limits = limits
        self._left: dict[str, int] = {}  # jobs that have not ended, by id of their array, the oldest first
        self._kinds: dict[str, str] = {}  # the stage kind of each array
        self._at_once: dict[str, int] = {}  # how many of each array may run at once, as far as we know

    @property
    def live(self) -> int:
        """Jobs in the queue or running."""
        return sum(self._left.values())

    def running(self) -> dict[str, int]:
        """How many jobs of each array may run at once."""
        return {array: min(left, self._at_once.get(array, left)) for array, left in self._left.items()}

    def free(self, kind: str) -> int:
        """How many more jobs of a kind may run at once."""
        running = self.running()
        own = sum(jobs for array, jobs in running.items() if self._kinds.get(array) == kind)
        return min(self.parallel - sum(running.values()), self.limits[kind] - own)

    def add(self, array: str, kind: str, jobs: int, at_once: int) -> None:
        """An array was submitted."""
        self._left[array], self._kinds[array], self._at_once[array] = jobs, kind, at_once

    def update(self, live: Iterable[tuple[str, JobRecord]]) -> None:
        """Take over what is left, as the cluster says: stage kind and record of each job."""
        live = list(live)
        self._left = arrays(record for _, record in live)
        self._kinds = {array_of(record): kind for kind, record in live}
        for array, jobs in shares(self._left, self.parallel, self._kinds, self.limits).items():
            if array.isdigit() and self._left[array] > 1 and jobs > self._at_once.get(array, 0):
                with contextlib.suppress(SlurmDown):
                    throttle(array, jobs)
                self._at_once[array] = jobs


def throttle(array: str, members: int) -> None:
    """Let this number of an array's members run at once. Raises `SlurmDown`."""
    call("scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={members}")


def arrays(records: Iterable[JobRecord]) -> dict[str, int]:
    """How many of these jobs each array has, by its id, the oldest array first."""
    places: dict[str, set[int]] = {}
    for record in sorted(records, key=lambda record: record.submitted):
        places.setdefault(array_of(record), set()).add(record.index)
    return {array: len(members) for array, members in places.items()}


def array_of(record: JobRecord) -> str:
    """The id of a job's array; its name where sbatch's answer was not seen."""
    return record.job_id.partition("_")[0] or record.wave


def shares(
    left: Mapping[str, int],
    parallel: int,
    kinds: Mapping[str, str] | None = None,
    limits: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """How many members of each array may run at once, where `left` have not ended and `parallel` may run in all.

    The earlier come first. An array that is in the queue already gets one at least, since SLURM knows no limit of 0.

    Parameters
    ----------
    kinds
        The stage kind of each array, and in `limits` how many of a kind may run at once.
    """
    kinds, limits = kinds or {}, limits or {}
    given: dict[str, int] = {}
    for array, members in left.items():
        kind = kinds.get(array, "")
        alike = [other for other in left if kinds.get(other, "") == kind]
        own = limits.get(kind, parallel) - sum(given.get(other, 1) for other in alike if other != array)
        later = len(left) - len(given) - 1
        given[array] = max(1, min(members, parallel - sum(given.values()) - later, own))
    return given
