"""Brings stages to their end by comparing, again and again, what run directories and backends say with what is wanted.

Nothing is remembered that is not on disk: a driver that starts anew over the same directories is in the same place.
One look at a stage gives its state:

    done, failed, cancelled    its status says so; these are final
    queued, running            a backend has a job for it, or some process holds its lock
    blocked                    a stage above it failed, was cancelled or is blocked itself
    ready                      its inputs are done and nobody works on it: it is submitted
    waiting                    neither of these
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fvar.config import RuntimeConfig, Stage
from fvar.rundir import RunDir, Status
from studies.backends import Backend, Job, JobRecord, submitting

StageState = Literal["waiting", "ready", "queued", "running", "done", "failed", "cancelled", "blocked"]
FINAL: frozenset[str] = frozenset({"done", "failed", "cancelled", "blocked"})
STUCK: frozenset[str] = frozenset({"failed", "cancelled", "blocked"})
MAX_LOSSES = 3  # jobs lost in a row without a step gained, before a stage is given up


@dataclass
class Node:
    """A stage that is wanted, and where it stands."""

    stage: Stage
    run: RunDir
    record: JobRecord | None
    state: StageState = "waiting"
    status: Status = dataclasses.field(default_factory=Status)
    reason: str = ""  # why it is where it is, for people
    job: Job | None = None
    seen: bool = False  # whether its directory was looked at


class Scheduler:
    """Knows all wanted stages below `root` and moves them on, one `step` at a time.

    `on_change` is called with a node and its previous state. `backend_for` makes the backend that answers for jobs
    submitted elsewhere, such as by an earlier driver on SLURM.
    """

    def __init__(
        self,
        root: Path,
        backend: Backend,
        runtime: RuntimeConfig,
        on_change: Callable[[Node, StageState], None],
        backend_for: Callable[[str], Backend],
    ) -> None:
        self.root = root
        self.backend = backend
        self.runtime = runtime
        self.on_change = on_change
        self.backend_for = backend_for
        self.nodes: dict[str, Node] = {}  # by run name, inputs before what needs them

    def add(self, stages: Iterable[Stage]) -> None:
        """Want these stages and all above them. What a finished stage was made from may be gone."""
        for stage in stages:
            if stage.name in self.nodes:
                continue
            path = self.root / stage.name
            run = RunDir.open(path) if (path / "config.json").exists() else None
            self.add(
                upstream
                for upstream in stage.inputs.values()
                if run is None or not run.done or (self.root / upstream.name / "config.json").exists()
            )
            run = run or RunDir.create(self.root, stage, self.runtime)
            self.nodes[stage.name] = Node(stage, run, JobRecord.read(run))

    def step(self) -> bool:
        """Look at every open stage once, then submit what is ready as far as there is room. Whether anything was."""
        self.look()
        if not self._ready() or not self.backend.free():
            return False
        # Inline, a stage's own lock keeps others away for as long as it runs.
        with contextlib.nullcontext() if self.backend.name == "inline" else submitting(self.root):
            for node in self._ready():  # another study's driver may have been faster: its job is ours, too
                node.record = JobRecord.read(node.run)
            self.look()
            chosen = self._ready()[: self.backend.free()]
            self._submit(chosen)
        return bool(chosen)

    def look(self) -> None:
        """Bring the state of every open stage up to date."""
        jobs = self._poll()
        for node in self.nodes.values():
            if node.state not in FINAL:
                self._update(node, jobs.get(node.run.name))

    def open(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.state not in FINAL]

    def jobs(self) -> list[tuple[RunDir, JobRecord]]:
        """What is queued or running on this scheduler's own backend."""
        return [
            (node.run, node.record)
            for node in self.open()
            if node.record and node.record.cluster == self.backend.name and node.job
        ]

    def counts(self) -> Counter[str]:
        return Counter(node.state for node in self.nodes.values())

    # ----------------------------------------------------------------------------------------------------- inside

    def _ready(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.state == "ready"]

    def _poll(self) -> dict[str, Job]:
        """What backends say of recorded jobs; one question to each."""
        asked: dict[str, list[tuple[RunDir, JobRecord]]] = {}
        for node in self.open():
            if node.record and node.record.cluster:
                asked.setdefault(node.record.cluster, []).append((node.run, node.record))
        found: dict[str, Job] = {}
        asked.setdefault(self.backend.name, [])  # so that it knows when nothing of its own is left
        for cluster, records in asked.items():
            backend = self.backend if cluster == self.backend.name else self.backend_for(cluster)
            found |= backend.poll(records)
        return found

    def _update(self, node: Node, job: Job | None) -> None:
        before, node.job = node.state, job if job and job.state in ("queued", "running") else None
        above = self._above(node)
        # Nobody can have begun a stage whose inputs are not done, so one look at its directory is enough until then.
        if not node.seen or job or above is None:
            node.seen = True
            node.status = node.run.status  # after the job: one that has ended wrote its status before
            node.state, node.reason = self._judge(node, job) or above or ("ready", node.reason)
        else:
            node.state, node.reason = above
        if node.state != before:
            self.on_change(node, before)

    def _above(self, node: Node) -> tuple[StageState, str] | None:
        """What the stage's inputs make of it: "blocked" or "waiting"; None where they are done."""
        inputs = [self.nodes[upstream.name] for upstream in node.stage.inputs.values() if upstream.name in self.nodes]
        for upstream in inputs:
            if upstream.state in STUCK:
                return "blocked", f"by {upstream.run.name}, which is {upstream.state}"
        return None if all(upstream.state == "done" for upstream in inputs) else ("waiting", node.reason)

    def _judge(self, node: Node, job: Job | None) -> tuple[StageState, str] | None:
        """What its own directory and job make of a stage; None where nobody works on it."""
        if node.status.state in ("done", "failed", "cancelled"):
            return node.status.state, node.status.error
        if job and job.state in ("queued", "running"):
            return job.state, job.reason
        if node.run.locked:
            return "running", "" if node.job else f"by process {node.status.pid} on {node.status.host}"
        if job:
            return self._lost(node, job)
        return None

    def _lost(self, node: Node, job: Job) -> tuple[StageState, str]:
        """A job ended without its stage: start the stage again, unless that is known to be in vain."""
        assert node.record is not None
        node.status = node.run.status  # it may have ended since we looked
        if node.status.state in ("done", "failed", "cancelled"):
            return node.status.state, node.status.error
        gained = node.status.step > node.record.step
        losses = 1 if gained else node.record.losses + 1
        if job.state == "lost" and losses < MAX_LOSSES:
            node.record = JobRecord(cluster="", losses=losses, step=node.status.step)
            node.record.write(node.run)
            return "ready", f"again, since {job.reason}"
        reason = job.reason if job.state != "lost" else f"{job.reason}, {losses} times without progress"
        state: Literal["cancelled", "failed"] = "cancelled" if job.state == "cancelled" else "failed"
        settle(node.run, state, reason)
        return state, reason

    def _submit(self, nodes: Sequence[Node]) -> None:
        if self.backend.name == "inline":
            self._announce(nodes, "running")
        self.backend.submit([node.run for node in nodes])
        for node in nodes:
            node.record = JobRecord.read(node.run)
        if self.backend.name != "inline":
            self._announce(nodes, "queued")

    def _announce(self, nodes: Sequence[Node], state: StageState) -> None:
        for node in nodes:
            before, node.state = node.state, state
            self.on_change(node, before)


def settle(run: RunDir, state: Literal["waiting", "failed", "cancelled"], error: str) -> None:
    """Write the end of a stage that could not do it itself. The lock makes sure that it is not at work after all."""
    with run.lock():
        run.update(state=state, error=error, pid=0, eta=None)


def summarise(states: Mapping[str, str]) -> str:
    """The state of a cell from those of its stages, inputs first: what stops it, else what moves, else what is next."""
    values = list(states.values())
    for state in ("failed", "cancelled", "blocked", "running", "queued", "ready"):
        if state in values:
            return state if values[-1] == state or state not in STUCK else "blocked"
    return "done" if values and values[-1] == "done" else "waiting"
