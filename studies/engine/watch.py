"""Notices stages that hang: alive by their heartbeat and their job, but gaining no step any more."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from fvar.rundir import Status
from studies.engine.nodes import Node

Verdict = Literal["", "slow", "hangs"]
GAPS = 9  # as many gaps between two steps make the usual one
UNKNOWN = 4  # times the least patience, before the first steps: data is read, code is compiled


@dataclass
class _Progress:
    """When a stage was last seen to gain a step."""

    step: int
    since: float
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS))


class Watch:
    """Knows how long each stage usually takes from one step to the next that its status shows.

    Parameters
    ----------
    times
        A stage is slow after this number of usual gaps without a step, and hangs after twice that; 0: never.
    least
        Seconds without a step that are never too long.
    """

    def __init__(self, times: float, least: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.times = times
        self.least = least
        self._clock = clock
        self._progress: dict[str, _Progress] = {}
        self._warned: set[str] = set()  # stages that an alarm was raised for

    def hanging(self, nodes: Iterable[Node], say: Callable[[str], None]) -> list[Node]:
        """The stages with a job of ours that hang; `say` is told of them, and once of each that is slow."""
        found = []
        for node in nodes:
            name = node.run.name
            if node.state != "running" or node.job is None or node.record is None or node.record.ended:
                self.forget(name)
                continue
            verdict = self.look(name, node.status)
            if not verdict:
                self._warned.discard(name)
                continue
            silent = f"{name} has gained no step for {self.silent(name) / 60:.1f} minutes, at step {node.status.step}"
            if verdict == "hangs":
                say(f"ALARM     {silent}: ended, to be started again")
                found.append(node)
            elif name not in self._warned:
                self._warned.add(name)
                say(f"ALARM     {silent}; after twice as long it is ended and started again")
        return found

    def look(self, name: str, status: Status) -> Verdict:
        """What to think of a running stage; call it at every poll."""
        now, known = self._clock(), self._progress.get(name)
        if known is None or status.step < known.step:  # begun again
            self._progress[name] = _Progress(status.step, now)
        elif status.step > known.step:
            known.gaps.append(now - known.since)
            known.step, known.since = status.step, now
        elif self.times and 0 <= status.step < status.steps:
            limit = self.limit(name)
            return "hangs" if now - known.since > 2 * limit else "slow" if now - known.since > limit else ""
        return ""

    def limit(self, name: str) -> float:
        """Seconds without a step after which a stage is slow."""
        gaps = self._progress[name].gaps
        if len(gaps) < 2:  # the first is seen from its middle
            return UNKNOWN * self.least
        return max(self.least, self.times * statistics.median(gaps))

    def silent(self, name: str) -> float:
        """Seconds since a stage gained a step."""
        return self._clock() - self._progress[name].since

    def forget(self, name: str) -> None:
        """The stage does not run any more."""
        self._progress.pop(name, None)
        self._warned.discard(name)
