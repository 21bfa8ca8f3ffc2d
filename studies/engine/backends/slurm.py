"""Stages run as SLURM jobs: one array per wave of ready stages of a kind, through submitit.

A member of an array is a job of one stage, or of several short ones (see `pack`).

A wave is written into the run directories before sbatch and carries its jobs' name, so a driver that dies between
sbatch and its bookkeeping, or cannot read sbatch's answer, finds the jobs again by that name. States come from one
squeue per poll, and from sacct for jobs that squeue has forgotten; both may be missing or silent for a while.

What the cluster refuses for now is offered again later, as far as there is room (see `answers` and `room`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from math import ceil
from pathlib import Path

from fvar import plugins
from fvar.config import STAGE_CONFIGS
from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir
from studies.engine.backends import Job, in_parallel
from studies.engine.backends.answers import Answer, NotNow, refusal, trouble
from studies.engine.backends.clients import SlurmAbsent, SlurmDown, call
from studies.engine.backends.listing import Entries, Entry
from studies.engine.backends.pack import is_wanted, members
from studies.engine.backends.probe import require_shared
from studies.engine.backends.queries import Queries
from studies.engine.backends.room import Lanes, Room
from studies.engine.backends.snapshot import snapshot
from studies.engine.backends.states import (
    LOST,
    NEVER_STARTED,
    QUEUED,
    RUNNING,
    is_doubtful,
    owners,
    ran_out_of_memory,
    user_name,
)
from studies.engine.backends.throttle import Throttle
from studies.engine.prediction import Speeds, timed
from studies.engine.profile import Profile, Resources

ORPHAN_SECONDS = 60.0  # an sbatch whose answer was not seen has come through by then, or never will, see `sbatch`
WHO_SECONDS = 60.0  # the accounting may lag behind by this in saying who cancelled a job
GONE_SECONDS = 30.0  # a job that is not listed for as long is gone; a restarting controller may list nothing
GRACE_SECONDS = 5.0  # file systems that are shared show a change after a while
GONE = "the cluster no longer knows its job"
ROOT = Path(__file__).resolve().parents[3]
Records = Sequence[tuple[RunDir, JobRecord]]


class Slurm:
    """Submits to, and asks, the cluster that SLURM_CONF or the default configuration names."""

    name = "slurm"
    clusters = ("slurm",)
    blocking = False
    jobs = 0
    grace = GRACE_SECONDS

    def __init__(self, profile: Profile, results: Path) -> None:
        self.profile = profile
        self.folder = results.resolve() / "slurm"
        self.interval = profile.common.poll
        self.code = Path()  # where jobs find the packages; see `check`
        self.refused: dict[str, str] = {}
        self._queries = Queries()
        self._resources = {kind: profile.of(kind) for kind in STAGE_CONFIGS}
        self._rooms: dict[str, Room] = {}  # by stage kind, since kinds may ask for different partitions
        self._lanes: Lanes | None = None
        self._say: Callable[[str], None] = lambda line: None
        self._speeds = Speeds(self.folder.parent / "runs")
        self._said: set[str] = set()  # kinds whose time limit was remarked on
        self._proven: set[str] = set()  # kinds of which something was taken
        limits = {kind: resources.array_parallelism for kind, resources in self._resources.items()}
        self._throttle = Throttle(profile.common.array_parallelism, limits)
        self._gathering: dict[str, dict[str, float]] = {}  # since when stages wait for a whole pack, by kind
        self._last: dict[str, Job] = {}  # as of the last answer, without what had ended
        self._met: dict[str, float] = {}  # since when we know of a wave
        self._missing: dict[tuple[str, int], float] = {}  # since when a job is not listed
        self._cancelled: dict[tuple[str, int], float] = {}  # since when a job is known to be cancelled

    # ------------------------------------------------------------------------------------------------------ submitting

    def fitting(self, runs: Sequence[RunDir]) -> Sequence[RunDir]:
        chosen: list[RunDir] = []
        for kind in dict.fromkeys(run.kind for run in runs):
            if self._throttle.free(kind) >= 1 and (jobs := self._room(kind).free(self._throttle.live)):
                own = self._whole_packs(kind, [run for run in runs if run.kind == kind])
                chosen += own[: jobs * self._resources[kind].packing]
        return chosen

    def _whole_packs(self, kind: str, runs: Sequence[RunDir]) -> Sequence[RunDir]:
        """Stages that fill whole jobs, and the rest once one of it has waited for long enough."""
        resources, now = self._resources[kind], time.monotonic()
        whole = len(runs) - len(runs) % resources.packing
        since = self._gathering.get(kind, {})
        rest = self._gathering[kind] = {run.name: since.get(run.name, now) for run in runs[whole:]}
        return runs if any(now - began >= resources.gather for began in rest.values()) else runs[:whole]

    def check(self, say: Callable[[str], None]) -> None:
        """Reach the cluster, copy the code, and make sure that the nodes see the results folder, once each.

        Raises `UserError` where that is in vain, `NotNow` where it may work later.
        """
        from studies.engine.backends import sbatch

        self._say = say
        if self.code == Path():
            sbatch.literal(self.folder)
            try:
                self._queries.queue(["fvar"])
            except SlurmDown as error:
                raise UserError(
                    f"cannot reach SLURM ({error}); check that squeue works here, or use --cluster local"
                ) from None
            self.folder.mkdir(parents=True, exist_ok=True)
            self.code = snapshot(ROOT, self.folder / "code", plugins.sources())
        try:
            require_shared(self.folder, self.profile.of("scores"), say)
        except SlurmDown as error:
            if refusal(str(error)).never:
                raise UserError(f"sbatch refused a first job of profile {self.profile.name}: {error}") from None
            raise NotNow(f"sbatch refused a first job for now ({error})") from None

    def submit(self, runs: Sequence[RunDir], after: Sequence[JobRecord] | None = None) -> None:
        if after is not None and self._lanes is None:
            self._lanes = Lanes(self.profile.common.array_parallelism, self._throttle.running())
        for kind in sorted({run.kind for run in runs}):
            self._submit_kind(kind, [run for run in runs if run.kind == kind], after)

    def _submit_kind(self, kind: str, runs: Sequence[RunDir], after: Sequence[JobRecord] | None) -> None:
        """Submit stages of a kind wave by wave, as many as fit: half of them again and again, down to one."""
        room = self._room(kind)
        resources, remark = timed(self._resources[kind], runs, self._speeds.of(kind).job)
        if remark and kind not in self._said:
            self._said.add(kind)
            self._say(remark)
        largest = min(resources.array_size, self._queries.limits()[0])
        while runs and (after is not None or self._throttle.free(kind) >= 1):
            size = min(ceil(len(runs) / resources.packing), largest, room.free(self._throttle.live))
            if not size:
                break
            stages = size * resources.packing
            answer = self._submit_wave(kind, runs[:stages], resources, after)
            if answer is None:
                runs = runs[stages:]
                self._proven.add(kind)
                room.taken(self._throttle.live)
            elif answer.fewer:
                room.full(answer.reason, self._throttle.live + size - 1)
                largest = max(1, size // 2)
            else:
                room.refused(answer.reason)
        if room.reason:
            self.refused[kind] = f"sbatch refuses {kind} stages for now ({room.reason})"
        else:
            self.refused.pop(kind, None)

    def _submit_wave(
        self, kind: str, runs: Sequence[RunDir], resources: Resources, after: Sequence[JobRecord] | None
    ) -> Answer | None:
        """One sbatch. Returns why nothing was taken, if so; raises `UserError` where that would never be."""
        from studies.engine.backends import sbatch

        if len(runs) == 1:
            resources = dataclasses.replace(resources, packing=1, side_by_side=1)
        packing = resources.packing
        jobs_needed = ceil(len(runs) / packing)
        wave, limit, lanes, dependency = self._place(kind, jobs_needed, resources, after)
        before = [JobRecord.read(run) for run in runs]
        now, host = time.time(), socket.gethostname()
        records = [
            dataclasses.replace(
                JobRecord.next(run, old),
                cluster=self.name,
                wave=wave,
                index=place // packing,
                pack=packing,
                host=host,
                submitted=now,
            )
            for place, (run, old) in enumerate(zip(runs, before, strict=True))
        ]
        try:
            in_parallel(JobRecord.write, records, runs)
            jobs = sbatch.submit(
                self.folder / wave, [run.path for run in runs], resources, self.code, limit, dependency
            )
        except (sbatch.SubmissionRefused, OSError) as error:
            answer = trouble(error) if isinstance(error, OSError) else refusal(str(error), kind in self._proven)
            if answer.unsure:  # it may have come through: the poll finds the wave by its name
                self._throttle.add(wave, kind, jobs_needed, limit)
                return answer
            for run, old in zip(runs, before, strict=True):
                _restore(run, old)
            if answer.never:
                raise UserError(
                    f"sbatch refused the {kind} stages of profile {self.profile.name}: {answer.reason}"
                ) from None
            return answer
        array = jobs[0].partition("_")[0]
        self._throttle.add(array, kind, jobs_needed, limit)
        if self._lanes:
            self._lanes.occupy(lanes, array)
        with contextlib.suppress(OSError):  # found again by the wave's name
            in_parallel(
                JobRecord.write,
                [dataclasses.replace(record, job_id=jobs[record.index]) for record in records],
                runs,
            )
        return None

    def _place(
        self, kind: str, members: int, resources: Resources, after: Sequence[JobRecord] | None
    ) -> tuple[str, int, list[int], str]:
        """A wave's name, how many of it may run at once, its lanes, and what it waits for."""
        wave = f"fvar-{kind}-{uuid.uuid4().hex[:12]}"
        limit = min(members, resources.array_parallelism)
        if after is None or self._lanes is None:
            return wave, min(limit, max(1, self._throttle.free(kind))), [], ""
        succeeding = list(dict.fromkeys(record.job_id for record in after))
        lanes, ending = self._lanes.take(limit, succeeding)
        conditions = [
            f"{how}:{':'.join(jobs)}" for how, jobs in (("afterok", succeeding), ("afterany", ending)) if jobs
        ]
        return wave, len(lanes), lanes, ",".join(conditions)

    def _room(self, kind: str) -> Room:
        if kind not in self._rooms:
            self._rooms[kind] = Room(self._queries.limits()[1])
        return self._rooms[kind]

    # --------------------------------------------------------------------------------------------------------- polling

    def poll(self, records: Records) -> dict[str, Job]:
        if not records:
            self._throttle.update([])
            return {}
        for _, record in records:
            self._met.setdefault(record.wave, time.monotonic())
        try:
            known = self._queries.queue(sorted({record.wave for _, record in records}))
            doubtful = [record for _, record in records if is_doubtful(known.get((record.wave, record.index)))]
            accounted = self._queries.accounts(doubtful) if doubtful else None
        except SlurmAbsent as error:
            return {
                run.name: Job(
                    "absent",
                    f"its job was given to SLURM, which cannot be asked here ({error}); continue where it can, or, "
                    f"where that cluster is gone for good, delete {run.path / 'job.json'}",
                )
                for run, _ in records
            }
        except SlurmDown as error:
            # Nothing is known now; what was known is assumed to hold.
            self.refused["cluster"] = f"SLURM does not answer ({error})"
            silent = Job("queued", self.refused["cluster"])
            return {run.name: self._last.get(run.name, silent) for run, _ in records}
        self.refused.pop("cluster", None)
        found = {run.name: self._look(run, record, known, accounted) for run, record in records}
        self._last = {name: job for name, job in found.items() if job.state in ("queued", "running")}
        self._throttle.update((run.kind, record) for run, record in records if run.name in self._last)
        return found

    def _look(self, run: RunDir, record: JobRecord, known: Entries, accounted: Entries | None) -> Job:
        place = record.wave, record.index
        entry = known.get(place) or (accounted or {}).get(place)
        if entry is None or not entry.state:
            missing = time.monotonic() - self._missing.setdefault(place, time.monotonic())
            if record.job_id and missing < GONE_SECONDS:
                return self._last.get(run.name) or Job("queued", "SLURM does not list its job; looking again")
            return self._unknown(record, entry)
        self._missing.pop(place, None)
        if not record.job_id and JobRecord.read(run) == record:  # its driver died right after sbatch
            with contextlib.suppress(OSError):
                dataclasses.replace(record, job_id=entry.job_id).write(run)
        if entry.state in QUEUED:
            reason = "" if entry.reason in ("", "None", "Priority") else entry.reason
            return Job("queued", "suspended in SLURM" if entry.state == "SUSPENDED" else reason)
        if entry.state in RUNNING:
            return Job("running")
        logs = list((self.folder / record.wave).glob(f"{entry.job_id}_*_log.out"))
        if entry.state == "OUT_OF_MEMORY" or (entry.state == "FAILED" and any(map(ran_out_of_memory, logs))):
            return Job("failed", self._memory_advice(run.kind, record))
        if entry.state in LOST:
            return Job("lost", LOST[entry.state])
        if entry.state == "CANCELLED":
            return self._cancellation(run, record, entry, accounted)
        return Job("lost", f"its job ended as {entry.state}")

    def _memory_advice(self, kind: str, record: JobRecord) -> str:
        asked = self._resources[kind]
        beside = asked.side_by_side > 1 and record.pack > 1
        fewer = f", or run fewer side by side (now {asked.side_by_side})" if beside else ""
        now = asked.memory or "the cluster's default"
        return f"out of memory; raise it by --set slurm.{kind}.memory=… (now {now}){fewer}"

    def _unknown(self, record: JobRecord, entry: Entry | None) -> Job:
        """A job without a row, or with one that has no state."""
        met = self._met[record.wave]
        if entry is not None and time.monotonic() - met < ORPHAN_SECONDS:
            return Job("queued", "SLURM lists its job without a state; looking again")
        if record.job_id:
            return Job("lost", GONE)
        if time.monotonic() - met < ORPHAN_SECONDS:
            return Job("queued", "being submitted")
        return Job("dropped", "sbatch did not come through")

    def _cancellation(self, run: RunDir, record: JobRecord, entry: Entry, accounted: Entries | None) -> Job:
        """Whose wish it was: that of the user, who means it, or the cluster's."""
        if entry.reason == NEVER_STARTED:
            return Job("dropped", "a job it waited for did not succeed")
        told = (accounted or {}).get((record.wave, record.index))
        since = self._cancelled.setdefault((record.wave, record.index), time.monotonic())
        if accounted is not None and (told is None or told.state != "CANCELLED"):
            if time.monotonic() - since < WHO_SECONDS:
                return Job("queued", "cancelled; the accounting has yet to say by whom")
            told = None
        if told is None or told.by in owners(run):
            return Job("cancelled", f"job {entry.job_id} was cancelled in SLURM")
        by = "the cluster" if told.by is None else f"{user_name(told.by)}, not by you"
        return Job("lost", f"its job was cancelled by {by}")

    # -------------------------------------------------------------------------------------------------------- stopping

    def cancel(self, records: Records) -> None:
        """Cancel jobs; one that other stages are packed into goes on without these, as job.json tells it."""
        records, shared = self._apart(records)
        for run, record in shared:
            if not record.ended:
                dataclasses.replace(record, ended="cancelled").write(run)
        ids = list(dict.fromkeys(record.job_id for _, record in records if record.job_id))
        names = sorted({record.wave for _, record in records if not record.job_id})
        try:
            if ids:
                call("scancel", *ids)
            if names:
                call("scancel", f"--name={','.join(names)}")
        except SlurmDown as error:
            raise UserError(f"cannot cancel: {error}; try again when SLURM answers") from None

    def _apart(self, records: Records) -> tuple[Records, Records]:
        """Those whose whole job is meant, and those whose job has other stages to run."""
        names = {run.name for run, _ in records}
        shared = [(run, record) for run, record in records if record.pack > 1 and self._has_others(record, names)]
        kept = {run.name for run, _ in shared}
        return [(run, record) for run, record in records if run.name not in kept], shared

    def _has_others(self, record: JobRecord, names: Collection[str]) -> bool:
        try:
            stages = members(self.folder / record.wave / "runs", record.index, record.pack)
        except OSError:
            return False
        return any(path.name not in names and is_wanted(path, record.wave) for path in stages)

    def stop(self, records: Records) -> str:
        jobs = len({(record.wave, record.index) for _, record in records})
        return f"{jobs} job{' goes' if jobs == 1 else 's go'} on in SLURM" if records else ""


def _restore(run: RunDir, old: JobRecord | None) -> None:
    """Take back the record of a job that was not submitted."""
    with contextlib.suppress(OSError):
        if old:
            old.write(run)
            return
    (run.path / "job.json").unlink(missing_ok=True)
