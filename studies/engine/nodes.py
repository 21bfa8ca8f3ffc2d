"""The stages of a study that are wanted, and where each stands."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from analysis.standing import SETTLED, State
from fvar.config import Stage
from fvar.job import JOB_FILE, JobRecord
from fvar.rundir import RunDir, Status
from studies.engine.backends import Job

FINAL: frozenset[State] = SETTLED | {"blocked", "pruned"}


@dataclass
class Node:
    """A stage that is wanted, and where it stands."""

    stage: Stage
    run: RunDir
    record: JobRecord | None
    state: State = "waiting"
    status: Status = dataclasses.field(default_factory=Status)
    reason: str = ""  # why it is where it is, for people
    job: Job | None = None
    on_disk: State = "waiting"  # by its directory alone
    seen: bool = False  # whether its directory was looked at
    ended: float = 0.0  # since when its job is known to have ended without the stage; 0: it has not
    pause: float = 0.0  # seconds that it waits after trouble with the disk, the last time
    until: float = 0.0  # when that ends, by the monotonic clock

    @property
    def shown(self) -> State:
        """Its state for people: one that stopped half-way is "interrupted" until it goes on."""
        return "interrupted" if self.on_disk == "interrupted" and self.state in ("waiting", "ready") else self.state


def counts(nodes: Iterable[Node]) -> Counter[str]:
    """How many stages are in each state."""
    return Counter(node.state for node in nodes)


def allow_again(run: RunDir) -> None:
    """Let a stage that failed or was cancelled be started again."""
    settle(run, "waiting", "")
    (run.path / JOB_FILE).unlink(missing_ok=True)


def settle(run: RunDir, state: Literal["waiting", "failed", "cancelled"], error: str) -> None:
    """Write the end of a stage that could not do it itself. The lock makes sure that it is not at work after all."""
    with run.lock():
        run.update(state=state, error=error, pid=0, eta=None)
