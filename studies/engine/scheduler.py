"""Brings stages to their end by comparing, again and again, what run directories and backends say with what is wanted.

Nothing is remembered that is not on disk: a driver that starts anew over the same directories is in the same place.
One look at a stage gives its state:

    done, failed, cancelled    its status says so; these are final
    queued, running            a backend has a job for it, or it runs by the looks of its directory
    blocked                    a stage above it failed, was cancelled or is blocked itself; or its job is on a cluster
                               that cannot be asked from this machine
    ready                      its inputs are done and nobody works on it: it is submitted
    waiting                    neither of these
    pruned                     a search gave up all cells that need it: its job is ended, its checkpoint kept

What its directory alone says of a stage is `analysis.standing`'s to tell; here comes on top what backends know. What
becomes of a stage whose job ended without it is for `losses` to say.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from analysis import standing
from analysis.standing import SETTLED, STOPPING, State
from fvar.config import RuntimeConfig, Stage
from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir
from studies.engine import losses, packs
from studies.engine.backends import Backend, Job, in_parallel, submitting
from studies.engine.backends.answers import NotNow, require_room
from studies.engine.nodes import FINAL, Node, counts
from studies.engine.order import Order
from studies.engine.patience import Patience
from studies.engine.watch import Watch

FEW = 64  # stages whose directories are looked at between polls


class Scheduler:
    """Knows all wanted stages below `root` and moves them on, one `step` at a time.

    `on_change` is called with a node and its previous state. `backend_for` makes the backend that answers for jobs
    submitted elsewhere, such as by an earlier driver on SLURM. `allow` is asked before anything is submitted, and
    raises `UserError` where it must not be. `watch` finds stages that hang; `say` is told, before they are ended.
    """

    def __init__(
        self,
        root: Path,
        backend: Backend,
        runtime: RuntimeConfig,
        on_change: Callable[[Node, State], None],
        backend_for: Callable[[str], Backend],
        allow: Callable[[Sequence[Node], Mapping[str, Node]], None] = lambda chosen, nodes: None,
        watch: Watch | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.root = root
        self.backend = backend
        self.runtime = runtime
        self.on_change = on_change
        self.backend_for = backend_for
        self.allow = allow
        self.watch = watch or Watch(times=0, least=0)
        self.say = say
        self._patience = Patience(say)
        self._order = Order(root)
        self._begun: set[packs.Place] = set()  # jobs of several stages that are over, and of which one was begun
        self.nodes: dict[str, Node] = {}  # by run name, inputs before what needs them

    def add(self, stages: Iterable[Stage]) -> None:
        """Want these stages and all above them. What a finished stage was made from may be gone."""
        stages = list(stages)
        in_parallel(lambda stage: RunDir.create(self.root, stage, self.runtime), self._missing(stages))
        for stage in stages:
            if stage.name in self.nodes:
                self._want_again(stage)
                continue
            path = self.root / stage.name
            run = RunDir.open(path) if (path / "config.json").exists() else None
            self.add(
                upstream
                for upstream in stage.inputs.values()
                if run is None or not run.done or (self.root / upstream.name / "config.json").exists()
            )
            if run is None:
                run = RunDir.create(self.root, stage, self.runtime)
            run.follow(stage)
            self.nodes[stage.name] = Node(stage, run, JobRecord.read(run))

    def _want_again(self, stage: Stage) -> None:
        """What was given up, or failed and was allowed to start again since, is looked at like any other."""
        for part in stage.chain():
            node = self.nodes.get(part.name)
            if node is None or node.state not in FINAL or node.state == "done":
                continue
            if node.state in ("blocked", "pruned") or node.run.status.state not in SETTLED:
                node.state, node.seen, node.record, node.job = "waiting", False, JobRecord.read(node.run), None

    def give_up(self, stages: Iterable[Stage], reason: str) -> None:
        """Want these stages no more: the next steps end their jobs, as lost, so that whoever wants one continues it.

        Jobs of earlier drivers are ended, too: one may have died right after a search gave up a trial.
        """
        for stage in stages:
            node, path = self.nodes.get(stage.name), self.root / stage.name
            if node is None and (path / "config.json").exists():
                run = RunDir.open(path)
                node = self.nodes[stage.name] = Node(stage, run, JobRecord.read(run))
                node.on_disk, node.status = standing.of_stage(path)
            if node is None or node.state in SETTLED | {"pruned"} or node.on_disk in SETTLED:
                continue
            before, node.state, node.reason = node.state, "pruned", reason
            if node.record and node.record.cluster:
                node.job = Job("running")  # until its cluster says otherwise
            if before in ("queued", "running"):
                self.on_change(node, before)

    def _missing(self, stages: Iterable[Stage]) -> list[Stage]:
        """The distinct stages among these without a directory; `RunDir.create` makes those of their inputs."""
        named = {stage.name: stage for stage in stages if stage.name not in self.nodes}
        return [stage for name, stage in named.items() if not (self.root / name / "config.json").exists()]

    def step(self) -> bool:
        """Look at every open stage once, then submit what is ready as far as there is room. Whether anything was.

        Raises `NotNow` while the disk has no room for what stages write: each would be lost, again and again.
        """
        self.look()
        if given_up := [node for node in self.nodes.values() if node.state == "pruned" and node.job]:
            self.end(given_up, "pruned")
        self._end_what_hangs()
        if not self._fitting() and not any(map(self._is_over, self.open())):
            return False
        require_room(self.root)
        with submitting(self.root):
            self._look_again()
            chosen = self._fitting()
            if not self.backend.blocking:
                self._submit(chosen)
        if self.backend.blocking:  # a stage's own lock keeps others away for as long as it runs
            self._submit(chosen)
        return any(node.state != "ready" for node in chosen)

    def queue_all(self, wait: Callable[[], None]) -> list[Node]:
        """Submit every open stage, each after its inputs' jobs, waiting for what the cluster does not take for now.

        Returns those left: an input has no job here. Raises `NotNow` as `step` does.
        """
        while True:
            require_room(self.root)
            with submitting(self.root):
                self._look_again()
                # What became of jobs that have ended decides what is submitted.
                if not any(node.ended for node in self.open()) and self._queue_what_fits():
                    return [node for node in self.open() if node.state in ("waiting", "ready")]
            wait()

    def _queue_what_fits(self) -> bool:
        """Whether nothing is left that the cluster might take later."""
        while groups := self._next_groups():
            taken = [self._submit(nodes, jobs) for jobs, nodes in groups.items()]
            if not any(taken):
                return False
        return True

    def _next_groups(self) -> dict[tuple[JobRecord, ...], list[Node]]:
        """Open stages without a job whose inputs are done or have one, by these jobs."""
        groups: dict[tuple[JobRecord, ...], list[Node]] = {}
        for node in self.open():
            inputs = [self.nodes[stage.name] for stage in node.stage.inputs.values() if stage.name in self.nodes]
            jobs = [self._own_job(upstream) for upstream in inputs if upstream.state != "done"]
            if node.state in ("waiting", "ready") and all(jobs):
                groups.setdefault(tuple(job for job in jobs if job), []).append(node)
        return groups

    def _own_job(self, node: Node) -> JobRecord | None:
        """The job of this backend that a stage is queued or running as."""
        record = node.record
        own = record and record.cluster in self.backend.clusters and record.job_id
        return record if own and node.state in ("queued", "running") else None

    def look(self) -> None:
        """Bring the state of every open stage up to date. Changes nothing on disk."""
        self._look(deciding=False)

    def _look_again(self) -> None:
        """Look at what other drivers left, too, and decide on lost jobs. Only while nobody else submits.

        Every record is read again, not only those of stages that were ready: an input may have ended since, and
        another driver have submitted what needs it.
        """
        for node in self.open():
            node.record = JobRecord.read(node.run)
        self._look(deciding=True)

    def _look(self, deciding: bool) -> None:
        jobs = self._poll()
        records = {name: node.record for name, node in self.nodes.items() if node.record}
        self._begun = packs.begun(jobs, [(self.nodes[name].run, record) for name, record in records.items()])
        for node in self.nodes.values():
            if node.state == "pruned" and node.job:
                job = jobs.get(node.run.name)
                node.job = job if job and job.state in ("queued", "running") else None
            elif node.state not in FINAL:
                self._update(node, jobs.get(node.run.name), deciding)

    def open(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.state not in FINAL]

    def jobs(self) -> list[tuple[RunDir, JobRecord]]:
        """What is queued or running on this scheduler's own backend."""
        return [
            (node.run, node.record)
            for node in self.open()
            if node.record and node.record.cluster in self.backend.clusters and node.job
        ]

    def end(self, nodes: Sequence[Node], reason: str) -> None:
        """End the jobs of these stages, of whatever cluster, in such a way that a driver starts them again: as lost.

        Raises `NotNow` where a cluster does not do it.
        """
        jobs: dict[str, list[tuple[RunDir, JobRecord]]] = {}
        with submitting(self.root):
            for node in nodes:
                if node.record and node.job:
                    node.record = dataclasses.replace(node.record, ended=reason)
                    node.record.write(node.run)
                    jobs.setdefault(node.record.cluster, []).append((node.run, node.record))
        for cluster, records in jobs.items():
            try:
                self._backend(cluster).cancel(records)
            except UserError as error:
                for node in nodes:
                    node.record = node.record and dataclasses.replace(node.record, ended="")
                raise NotNow(str(error)) from None

    def some_of_few_ended(self) -> bool:
        """Whether a stage thought to be at work has ended, where there are few enough to look at each."""
        live = [node for node in self.nodes.values() if node.state in ("queued", "running")]
        return len(live) <= FEW and any(node.run.status.state in ("done", "failed") for node in live)

    def counts(self) -> Counter[str]:
        return counts(self.nodes.values())

    # ----------------------------------------------------------------------------------------------------- inside

    def _end_what_hangs(self) -> None:
        """End those of our jobs that have gained no step for too long: they are lost."""
        for node in self.watch.hanging(self.nodes.values(), self.say):
            self.end([node], f"it hung at step {node.status.step}")

    def _fitting(self) -> list[Node]:
        """The stages that are ready, as far as the backend may be offered them."""
        ready = {name: node for name, node in self.nodes.items() if node.state == "ready"}
        fitting = self.backend.fitting([node.run for node in ready.values()])
        if self.backend.jobs > 1 and 0 < len(fitting) < len(ready):  # at most polls there is nothing to choose
            ordered = self._order.urgent_first(list(ready.values()), self.nodes.values(), self.backend.jobs)
            fitting = self.backend.fitting([node.run for node in ordered])
        return [ready[run.name] for run in fitting]

    def _poll(self) -> dict[str, Job]:
        """What backends say of recorded jobs; one question to each."""
        asked: dict[str, list[tuple[RunDir, JobRecord]]] = {}
        given_up = [node for node in self.nodes.values() if node.state == "pruned" and node.job]
        for node in (*self.open(), *given_up):
            if node.record and node.record.cluster and not self._is_settled_elsewhere(node):
                own = node.record.cluster in self.backend.clusters
                asked.setdefault(self.backend.name if own else node.record.cluster, []).append((node.run, node.record))
        found: dict[str, Job] = {}
        asked.setdefault(self.backend.name, [])  # so that it knows when nothing of its own is left
        for cluster, records in asked.items():
            found |= self._backend(cluster).poll(records)
        return found

    def _is_settled_elsewhere(self, node: Node) -> bool:
        """Another cluster may be out of reach from here, which matters to nobody once a stage has ended."""
        elsewhere = node.record is not None and node.record.cluster not in self.backend.clusters
        return elsewhere and node.run.status.state in SETTLED

    def _backend(self, cluster: str) -> Backend:
        return self.backend if cluster in self.backend.clusters else self.backend_for(cluster)

    def _is_over(self, node: Node) -> bool:
        """Whether a job ended so long ago that its stage's last word must be visible here, were there one."""
        if not node.ended or node.record is None:
            return False
        return time.monotonic() - node.ended >= self._backend(node.record.cluster).grace

    def _update(self, node: Node, job: Job | None, deciding: bool) -> None:
        if job and job.state == "running" and node.record and node.record.pack > 1:
            job = packs.for_one(node.record, job, standing.of_stage(node.run.path).state)
        before, node.job = node.state, job if job and job.state in ("queued", "running") else None
        over = job is not None and job.state not in ("queued", "running", "dropped", "absent")
        node.ended = (node.ended or time.monotonic()) if over else 0.0
        above = self._above(node)
        # Nobody can have begun a stage whose inputs are not done, and whoever else begins one that is ready is noticed
        # when it would be submitted: one look at its directory is enough until then.
        if not node.seen or job or (above is None and (deciding or node.state != "ready")):
            node.seen = True
            node.on_disk, node.status = standing.of_stage(node.run.path)  # after the job, which wrote before it ended
            node.state, node.reason = self._judge(node, job, above, deciding) or above or ("ready", node.reason)
            if node.state == "ready" and time.monotonic() < node.until:
                node.state = "waiting"
        else:
            node.state, node.reason = above or (node.state, node.reason)
        if node.state != before:
            self.on_change(node, before)

    def _above(self, node: Node) -> tuple[State, str] | None:
        """What the stage's inputs make of it: "blocked" or "waiting"; None where they are done."""
        inputs = [self.nodes[upstream.name] for upstream in node.stage.inputs.values() if upstream.name in self.nodes]
        for upstream in inputs:
            if upstream.state in STOPPING:
                return "blocked", f"by {upstream.run.name}, which is {upstream.state}"
        return None if all(upstream.state == "done" for upstream in inputs) else ("waiting", node.reason)

    def _judge(
        self, node: Node, job: Job | None, above: tuple[State, str] | None, deciding: bool
    ) -> tuple[State, str] | None:
        """What its own directory and job make of a stage; None where nobody works on it."""
        if node.on_disk in SETTLED:
            return node.on_disk, node.status.error
        if job and job.state in ("queued", "running"):
            return job.state, job.reason
        # The last sign of life of a job that its cluster calls over is not taken for another process's.
        if node.on_disk == "running" and (node.run.locked or not self._is_over(node)):
            return "running", f"by process {node.status.pid} on {node.status.host}"
        if job and job.state == "absent":
            return "blocked", job.reason
        if job and job.state == "dropped":  # above says why, unless that has been mended since
            if deciding and above is None:
                losses.forget(node, losses.uncounted(node.record, node.status))
            return None
        if job and deciding and self._is_over(node):
            shared = node.record is not None and packs.place(node.record) in self._begun
            state, reason = losses.decide(node, job, shared, self._patience.remind)
            return None if state == "ready" and above else (state, reason)
        if job:
            return "running" if node.state == "running" else "queued", f"{job.reason}; looking again"
        return None

    def _submit(self, nodes: Sequence[Node], after: Sequence[JobRecord] | None = None) -> bool:
        """Offer stages to the backend; those that it does not take stay where they are. Whether it took any."""
        if not nodes:
            return False
        self.allow(nodes, self.nodes)
        if self.backend.blocking:
            self._announce(nodes, "running")
        before = [node.record for node in nodes]
        self.backend.submit([node.run for node in nodes], after)
        for node in nodes:
            node.record = JobRecord.read(node.run)
        if self.backend.blocking:
            return True
        taken = [node for node, old in zip(nodes, before, strict=True) if node.record != old]
        self._announce(taken, "queued")
        return bool(taken)

    def _announce(self, nodes: Sequence[Node], state: State) -> None:
        for node in nodes:
            before, node.state = node.state, state
            self.on_change(node, before)
