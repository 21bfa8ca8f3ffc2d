"""How many more jobs a cluster takes: what its refusals taught, and what a study allows itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

FIRST_PAUSE = 5.0  # seconds after a refusal until the next try
LONGEST_PAUSE = 60.0


class Room:
    """Learns a limit on the jobs of a user from refusals, and forgets it when the cluster takes more.

    After a refusal that fewer jobs might pass, as many are offered as have ended since; and one, now and then, to find
    out whether the limit was raised. After any other nothing is, for a pause that doubles each time.

    Parameters
    ----------
    most
        Jobs that the cluster takes at all.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.reason = ""  # why less is offered than is ready
        self._clock = clock
        self._limit: int | None = None  # jobs of ours above which some were refused
        self._pause = 0.0
        self._until = 0.0  # when the pause ends

    def free(self, live: int) -> int:
        """How many jobs to offer now, where `live` of ours are queued or running."""
        due = self._clock() >= self._until
        if self._limit is None:
            return max(0, self.most - live) if due else 0
        return max(0, self._limit - live) or int(due)

    def taken(self, live: int) -> None:
        """Jobs were submitted; `live` of ours there are now."""
        if self._limit is None or live > self._limit:
            self.reason, self._limit, self._pause, self._until = "", None, 0.0, 0.0

    def refused(self, reason: str) -> None:
        """Nothing was taken, and fewer would not have been either."""
        self.reason, self._limit = reason, None
        self._wait()

    def full(self, reason: str, most: int) -> None:
        """More than `most` jobs of ours were refused."""
        self.reason, self._limit = reason, most
        self._wait()

    def _wait(self) -> None:
        self._pause = min(LONGEST_PAUSE, 2 * self._pause or FIRST_PAUSE)
        self._until = self._clock() + self._pause

    @property
    def pause(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._until - self._clock())


class Lanes:
    """Keeps to a number of jobs at once where no driver stays to count: each job waits for the last one in its lane.

    Parameters
    ----------
    live
        Jobs that may run at once already, by id of their array.
    """

    def __init__(self, parallel: int, live: Mapping[str, int]) -> None:
        occupied = [array for array, members in live.items() for _ in range(members)]
        self._last = (occupied + [""] * parallel)[:parallel]

    def take(self, members: int, after: Collection[str]) -> tuple[list[int], list[str]]:
        """Lanes for a wave, and the jobs it has to wait for there. Those it waits for anyway (`after`) cost nothing."""
        order = sorted(range(len(self._last)), key=lambda lane: (self._last[lane] not in ("", *after), lane))
        lanes = order[:members]
        return lanes, sorted({self._last[lane] for lane in lanes} - {"", *after})

    def occupy(self, lanes: Sequence[int], job: str) -> None:
        """Behind these lanes is now this job."""
        for lane in lanes:
            self._last[lane] = job
        # What comes next fills the lanes that have been free for longest.
        self._last = [last for lane, last in enumerate(self._last) if lane not in lanes] + [job] * len(lanes)
