"""The scheduler over toy stages in this process: sharing, order, failures, restarts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.standing import State
from fvar.config import (
    DataConfig,
    RuntimeConfig,
    SamplesConfig,
    ScoresConfig,
    Stage,
    TokenizerConfig,
    TokensConfig,
    TrainConfig,
    VarConfig,
)
from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir, Status
from studies.engine.backends import Job, submitting
from studies.engine.backends.answers import NotNow
from studies.engine.losses import MAX_LOSSES, MAX_UNBEGUN, counted
from studies.engine.nodes import Node, allow_again
from studies.engine.scheduler import Scheduler
from studies.engine.watch import Verdict, Watch
from tests.studies.toy import stage as toy


def cell(seed: int, tokenizer_seed: int = 0) -> Stage:
    tokenizer = Stage(TokenizerConfig(train=TrainConfig(seed=tokenizer_seed)))
    tokens = Stage(TokensConfig(data=DataConfig()), {"tokenizer": tokenizer})
    var = Stage(VarConfig(train=TrainConfig(seed=seed)), {"tokens": tokens})
    return Stage(ScoresConfig(), {"samples": Stage(SamplesConfig(), {"var": var})})


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)  # a busy disk takes its time


class Recorder:
    """An inline backend that notes what it was given; `answers` are the fates of jobs it claims to have."""

    interval = grace = 0.0

    def __init__(self, name: str = "inline", room: int = 1) -> None:
        self.name = name
        self.clusters = (name,)
        self.blocking = name == "inline"
        self.jobs = 0
        self.room = room
        self.submitted: list[str] = []
        self.answers: dict[str, Job] = {}
        self.fates: dict[str, Job] = {}  # likewise by job id
        self.refused: dict[str, str] = {}

    def fitting(self, runs: Sequence[RunDir]) -> Sequence[RunDir]:
        return runs[: self.room]

    def check(self, say: Callable[[str], None]) -> None: ...

    def submit(self, runs: Sequence[RunDir], after: Sequence[JobRecord] | None = None) -> None:
        for run in runs:
            self.submitted.append(run.name)
            if self.blocking:
                try:
                    toy.execute(run.path)
                except UserError:
                    continue
            else:
                old = JobRecord.read(run)
                old = old or JobRecord()
                made = replace(old, cluster=self.name, job_id=str(1 + old.losses + old.unbegun))
                replace(made, attempts=run.status.attempts).write(run)

    def poll(self, records: Sequence[tuple[RunDir, JobRecord]]) -> dict[str, Job]:
        fates = {run.name: self.fates.get(record.job_id, Job("running")) for run, record in records}
        return fates | {run.name: self.answers[run.name] for run, _ in records if run.name in self.answers}

    def cancel(self, records: Sequence[tuple[RunDir, JobRecord]]) -> None: ...

    def stop(self, records: Sequence[tuple[RunDir, JobRecord]]) -> str:
        return ""


def scheduler(root: Path, backend: Recorder, *stages: Stage) -> Scheduler:
    root.mkdir(exist_ok=True)
    made = Scheduler(root, backend, RuntimeConfig(), lambda node, before: None, lambda name: backend)
    made.add(stages)
    return made


def drive(made: Scheduler) -> None:
    made.look()
    while made.open():
        made.step()


def test_stages_run_once_and_after_their_inputs(tmp_path: Path) -> None:
    backend = Recorder()
    drive(scheduler(tmp_path / "runs", backend, cell(0), cell(1), cell(2)))
    assert len(backend.submitted) == len(set(backend.submitted)) == 2 + 3 * 3  # one tokenizer, one token store
    assert [name.partition("-")[0] for name in backend.submitted][:2] == ["tokenizer", "tokens"]
    for path in (tmp_path / "runs").glob("*-*"):
        assert (path / "attempts").read_text().count("\n") == 1


def test_second_driver_runs_nothing(tmp_path: Path) -> None:
    drive(scheduler(tmp_path / "runs", Recorder(), cell(0)))
    again = Recorder()
    drive(scheduler(tmp_path / "runs", again, cell(0)))
    assert again.submitted == []


def test_finished_cell_does_not_want_back_what_it_was_made_from(tmp_path: Path) -> None:
    drive(scheduler(tmp_path / "runs", Recorder(), cell(0)))
    stage = cell(0)
    tokenizer = next(stage.chain())
    for file in (tmp_path / "runs" / tokenizer.name).iterdir():
        file.unlink()
    (tmp_path / "runs" / tokenizer.name).rmdir()
    again = Recorder()
    drive(scheduler(tmp_path / "runs", again, stage))
    assert again.submitted == []


def test_failure_blocks_what_needs_it_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, fine = cell(0, tokenizer_seed=1), cell(0)
    monkeypatch.setenv("TOY_FAIL", next(broken.chain()).name)
    backend = Recorder()
    made = scheduler(tmp_path / "runs", backend, broken, fine)
    drive(made)
    assert made.nodes[fine.name].state == "done"
    assert made.nodes[broken.name].state == "blocked"
    states = [made.nodes[stage.name].state for stage in broken.chain()]
    assert states == ["failed", "blocked", "blocked", "blocked", "blocked"]
    assert next(broken.chain()).name in made.nodes[list(broken.chain())[1].name].reason


def test_failed_stage_is_not_retried_blindly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_FAIL", "var")
    drive(scheduler(tmp_path / "runs", Recorder(), cell(0)))
    monkeypatch.delenv("TOY_FAIL")
    again = Recorder()
    drive(scheduler(tmp_path / "runs", again, cell(0)))
    assert again.submitted == []


def test_edited_configuration_is_refused(tmp_path: Path) -> None:
    drive(scheduler(tmp_path / "runs", Recorder(), cell(0)))
    config = tmp_path / "runs" / next(cell(0).chain()).name / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 7'))
    with pytest.raises(UserError, match=r"train.seed: 0 -> 7"):
        scheduler(tmp_path / "runs", Recorder(), cell(0))


def test_live_job_of_an_earlier_driver_is_attached_not_repeated(tmp_path: Path) -> None:
    first = scheduler(tmp_path / "runs", Recorder("slurm"), cell(0))
    first.step()
    backend = Recorder("slurm")
    second = scheduler(tmp_path / "runs", backend, cell(0))
    second.step()
    assert backend.submitted == []
    assert second.nodes[next(cell(0).chain()).name].state == "running"


def test_job_submitted_by_another_study_since_we_looked_is_ours_too(tmp_path: Path) -> None:
    backend, other = Recorder("slurm"), Recorder("slurm")
    ours = scheduler(tmp_path / "runs", backend, cell(0))
    ours.look()
    scheduler(tmp_path / "runs", other, cell(0)).step()
    ours.step()
    assert len(other.submitted) == 1
    assert backend.submitted == []


def test_stage_that_another_driver_submitted_while_its_input_ended_is_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, tokens = list(cell(0).chain())[:2]
    backend, other = Recorder("slurm"), Recorder("slurm")
    ours = scheduler(tmp_path / "runs", backend, cell(0))
    ours.step()

    @contextlib.contextmanager
    def meanwhile(root: Path) -> Iterator[None]:
        """The input ends, and the other driver goes on with it, just before ours may submit."""
        monkeypatch.setattr("studies.engine.scheduler.submitting", submitting)
        RunDir.open(root / tokenizer.name).update(state="done")
        scheduler(root, other, cell(0)).step()
        with submitting(root):
            yield

    ours.add([cell(0, tokenizer_seed=1)])  # gives it something to submit
    monkeypatch.setattr("studies.engine.scheduler.submitting", meanwhile)
    ours.step()
    assert other.submitted == [tokens.name]
    assert tokens.name not in backend.submitted
    assert ours.nodes[tokens.name].state == "running"


def test_job_lost_to_two_drivers_is_replaced_by_one(tmp_path: Path) -> None:
    backend, other = Recorder("slurm"), Recorder("slurm")
    ours, theirs = (scheduler(tmp_path / "runs", one, cell(0)) for one in (backend, other))
    tokenizer = next(cell(0).chain()).name
    theirs.step()
    ours.step()
    backend.fates["1"] = other.fates["1"] = Job("lost", "its node failed")
    theirs.step()  # finds it lost and submits job 2
    ours.step()
    assert other.submitted == [tokenizer] * 2
    assert backend.submitted == []
    record = JobRecord.read(ours.nodes[tokenizer].run)
    assert record is not None
    assert (record.job_id, record.unbegun) == ("2", 1)


def test_job_that_ended_is_not_lost_before_its_status_can_be_seen(tmp_path: Path) -> None:
    backend = Recorder("slurm")
    backend.grace = 3600.0
    made = scheduler(tmp_path / "runs", backend, cell(0))
    tokenizer = next(cell(0).chain()).name
    made.step()
    backend.answers[tokenizer] = Job("lost", "its job ended")
    for _ in range(5):
        made.step()
    assert backend.submitted == [tokenizer]
    made.nodes[tokenizer].run.update(state="done")
    made.look()
    assert made.nodes[tokenizer].state == "done"


def test_queued_job_that_the_cluster_forgot_is_blocked_by_its_failed_input(tmp_path: Path) -> None:
    tokenizer, tokens = list(cell(0).chain())[:2]
    backend = Recorder("slurm")
    made = scheduler(tmp_path / "runs", backend, cell(0))
    made.queue_all(lambda: None)
    assert backend.submitted == [stage.name for stage in cell(0).chain()]
    made.nodes[tokenizer.name].run.update(state="failed", error="broken")
    backend.answers = {name: Job("lost", "the cluster no longer knows its job") for name in backend.submitted}
    for _ in range(3):
        made.step()
    assert made.nodes[tokens.name].state == "blocked"
    assert len(backend.submitted) == 5


def test_dropped_job_is_submitted_again_once_its_input_is_done(tmp_path: Path) -> None:
    tokenizer, tokens = list(cell(0).chain())[:2]
    backend = Recorder("slurm")
    made = scheduler(tmp_path / "runs", backend, cell(0))
    made.queue_all(lambda: None)
    backend.answers = {name: Job("dropped", "its input failed") for name in backend.submitted[1:]}
    made.step()
    assert made.nodes[tokens.name].state == "waiting"
    made.nodes[tokenizer.name].run.update(state="done")
    made.step()
    assert backend.submitted[5:] == [tokens.name]
    record = JobRecord.read(made.nodes[tokens.name].run)
    assert record is not None
    assert record.losses == 0


def test_lost_job_is_started_again_a_few_times_then_given_up(tmp_path: Path) -> None:
    backend = Recorder("slurm")
    made = scheduler(tmp_path / "runs", backend, cell(0))
    tokenizer = next(cell(0).chain()).name
    backend.answers[tokenizer] = Job("lost", "its node failed")
    for attempt in range(2 * MAX_LOSSES):
        made.step()
        RunDir.open(tmp_path / "runs" / tokenizer).update(attempts=attempt + 1)
    assert backend.submitted == [tokenizer] * MAX_LOSSES
    assert made.nodes[tokenizer].state == "failed"
    assert RunDir.open(tmp_path / "runs" / tokenizer).status.error == "its node failed, 3 times without progress"


def test_job_lost_before_its_stage_began_is_started_again_after_growing_pauses_and_at_last_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, now = Recorder("slurm"), [1000.0]
    monkeypatch.setattr("studies.engine.scheduler.time.monotonic", lambda: now[0])
    made = scheduler(tmp_path / "runs", backend, cell(0))
    tokenizer = next(cell(0).chain()).name
    pauses: list[float] = []
    for number in range(1, MAX_UNBEGUN):
        made.step()
        assert backend.submitted == [tokenizer] * number
        backend.answers[tokenizer] = Job("lost", "its job ended")
        made.step()  # and submitted again, where there is no pause
        del backend.answers[tokenizer]
        pauses.append(max(0.0, made.nodes[tokenizer].until - now[0]))
        now[0] += pauses[-1]
    assert pauses == [0, 5, 10, 20, 40, 60, 60, 60, 60]
    made.step()
    backend.answers[tokenizer] = Job("lost", "its job ended")
    made.step()
    assert len(backend.submitted) == MAX_UNBEGUN
    assert made.nodes[tokenizer].state == "failed"
    assert RunDir.open(tmp_path / "runs" / tokenizer).status.error == "its job ended, 10 times before it began"


def test_a_stage_that_began_has_all_its_chances_to_begin_again(tmp_path: Path) -> None:
    status = Status(attempts=4, step=7)
    lost = JobRecord("slurm", "1", attempts=4, losses=1, unbegun=2, step=7)
    assert counted(lost, status) == JobRecord(losses=1, unbegun=3, step=7)
    assert counted(lost, replace(status, attempts=5)) == JobRecord(losses=2, unbegun=0, step=7)
    assert counted(lost, replace(status, attempts=5, step=8)) == JobRecord(losses=1, unbegun=0, step=8)


def test_job_that_gains_steps_may_be_lost_any_number_of_times(tmp_path: Path) -> None:
    backend = Recorder("slurm")
    made = scheduler(tmp_path / "runs", backend, cell(0))
    tokenizer = next(cell(0).chain()).name
    backend.answers[tokenizer] = Job("lost", "it was preempted")
    for step in range(1, 3 * MAX_LOSSES):
        made.step()
        RunDir.open(tmp_path / "runs" / tokenizer).update(step=step, attempts=step)
    assert made.nodes[tokenizer].state != "failed"
    assert len(backend.submitted) > 2 * MAX_LOSSES


def test_job_out_of_memory_fails_with_its_reason(tmp_path: Path) -> None:
    backend = Recorder("slurm")
    made = scheduler(tmp_path / "runs", backend, cell(0))
    tokenizer = next(cell(0).chain()).name
    backend.answers[tokenizer] = Job("failed", "out of memory; raise it")
    made.step()
    made.step()
    assert made.nodes[tokenizer].state == "failed"
    assert made.nodes[cell(0).name].state in ("waiting", "blocked")
    assert RunDir.open(tmp_path / "runs" / tokenizer).status.error == "out of memory; raise it"


def test_no_more_is_submitted_than_there_is_room(tmp_path: Path) -> None:
    backend = Recorder("local", room=2)
    made = scheduler(tmp_path / "runs", backend, *(cell(0, tokenizer_seed=seed) for seed in range(5)))
    made.step()
    assert len(backend.submitted) == 2


def test_changes_are_reported_once(tmp_path: Path) -> None:
    seen: list[tuple[str, State]] = []

    def note(node: Node, before: State) -> None:
        seen.append((node.run.kind, node.state))

    backend = Recorder()
    (tmp_path / "runs").mkdir()
    made = Scheduler(tmp_path / "runs", backend, RuntimeConfig(), note, lambda name: backend)
    made.add([cell(0)])
    drive(made)
    assert seen[:3] == [("tokenizer", "ready"), ("tokenizer", "running"), ("tokenizer", "done")]
    assert len(seen) == len(set(seen)) == 15


class Hanging(Watch):
    """A watch that finds what hangs without waiting for it."""

    def __init__(self) -> None:
        super().__init__(times=1, least=0)
        self.verdicts: list[Verdict] = ["", "slow", "slow", "hangs"]

    def look(self, name: str, status: Status) -> Verdict:
        return self.verdicts.pop(0) if self.verdicts else ""

    def silent(self, name: str) -> float:
        return 600.0


def test_a_stage_that_hangs_is_ended_with_an_alarm_and_counts_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, said = Recorder("slurm"), list[str]()
    made = scheduler(tmp_path / "runs", backend, cell(0))
    made.watch, made.say = Hanging(), said.append
    tokenizer = next(cell(0).chain()).name
    cancelled: list[str] = []

    def cancel(records: Sequence[tuple[RunDir, JobRecord]]) -> None:
        cancelled.extend(run.name for run, _ in records)
        backend.answers[tokenizer] = Job("cancelled", "job 1 was cancelled in SLURM")

    monkeypatch.setattr(backend, "cancel", cancel)
    made.step()
    made.nodes[tokenizer].run.update(attempts=1)
    for _ in range(4):
        made.step()
    assert len(said) == 2
    assert "10.0 minutes" in said[0]
    assert cancelled == [tokenizer]
    made.step()
    assert backend.submitted == [tokenizer] * 2
    record = JobRecord.read(made.nodes[tokenizer].run)
    assert record is not None
    assert (record.losses, record.ended) == (1, "")


def test_what_the_backend_refuses_for_now_stays_ready_and_is_offered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Recorder("slurm", room=10)
    stages = [cell(0, tokenizer_seed=seed) for seed in range(3)]
    made = scheduler(tmp_path / "runs", backend, *stages)
    take = backend.submit
    monkeypatch.setattr(backend, "submit", lambda runs, after=None: take(runs[:1], after))
    for taken in (1, 2, 3):
        made.step()
        assert len(backend.submitted) == taken
    assert made.counts()["running"] + made.counts()["queued"] == 3


def test_nothing_is_submitted_or_given_up_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Recorder("slurm")
    made = scheduler(tmp_path / "runs", backend, cell(0))
    tokenizer = next(cell(0).chain()).name
    made.step()
    backend.answers[tokenizer] = Job("lost", "its job ended")
    monkeypatch.setattr("studies.engine.backends.answers.MIN_FREE_BYTES", 1 << 60)
    for _ in range(2 * MAX_LOSSES):
        with pytest.raises(NotNow, match="MiB are free"):
            made.step()
    monkeypatch.undo()
    made.step()
    assert backend.submitted == [tokenizer] * 2
    assert made.nodes[tokenizer].state == "queued"


def test_trouble_with_the_disk_is_waited_for_and_never_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, said, now = Recorder("slurm"), list[str](), [1000.0]
    monkeypatch.setattr("studies.engine.scheduler.time.monotonic", lambda: now[0])
    made = scheduler(tmp_path / "runs", backend, cell(0))
    made._patience.say = said.append
    tokenizer = next(cell(0).chain()).name
    run, pauses = made.nodes[tokenizer].run, []
    for attempt in range(2 * MAX_LOSSES):
        made.step()
        assert backend.submitted == [tokenizer] * (attempt + 1)
        run.update(state="interrupted", error="the disk is full (model)", disk_trouble=True, attempts=attempt + 1)
        backend.answers[tokenizer] = Job("lost", "its job ended")
        made.step()
        del backend.answers[tokenizer]
        pauses.append(made.nodes[tokenizer].until - now[0])
        made.step()
        assert made.nodes[tokenizer].state == "waiting"
        assert "the disk is full (model)" in made.nodes[tokenizer].reason
        now[0] += pauses[-1]
    assert pauses == [5, 10, 20, 40, 60, 60]
    assert said == [f"not now: {tokenizer}: the disk is full (model); it is started again by itself"]
    record = JobRecord.read(run)
    assert record is not None
    assert record.losses == 0


def packed(tmp_path: Path, backend: Recorder, count: int = 3) -> tuple[Scheduler, list[Node]]:
    """Stages that a driver has packed into one job."""
    tokenizers = [next(cell(0, tokenizer_seed=seed).chain()) for seed in range(count)]
    made = scheduler(tmp_path / "runs", backend, *tokenizers)
    nodes = [made.nodes[stage.name] for stage in tokenizers]
    for node in nodes:
        JobRecord("slurm", "7_0", "fvar-tokenizer-0123456789ab", pack=count).write(node.run)
        node.record = JobRecord.read(node.run)
    return made, nodes


def test_a_lost_job_of_several_stages_counts_against_those_alone_that_had_begun(tmp_path: Path) -> None:
    backend = Recorder("slurm", room=0)
    made, (done, begun, waiting) = packed(tmp_path, backend)
    done.run.update(state="done", attempts=1)
    begun.run.update(state="interrupted", attempts=1)
    backend.fates["7_0"] = Job("lost", "its node failed")
    made.step()
    made.step()
    assert [node.state for node in (done, begun, waiting)] == ["done", "ready", "ready"]
    assert [JobRecord.read(node.run).losses for node in (begun, waiting)] == [1, 0]  # type: ignore[union-attr]


def test_a_job_of_several_stages_that_never_began_counts_against_all(tmp_path: Path) -> None:
    backend = Recorder("slurm", room=0)
    made, nodes = packed(tmp_path, backend)
    backend.fates["7_0"] = Job("lost", "its node did not start")
    made.step()
    made.step()
    assert [JobRecord.read(node.run).unbegun for node in nodes] == [1, 1, 1]  # type: ignore[union-attr]


def test_a_job_out_of_memory_fails_the_stage_at_work_and_not_those_behind_it(tmp_path: Path) -> None:
    backend = Recorder("slurm", room=0)
    made, (begun, *behind) = packed(tmp_path, backend)
    begun.run.update(state="interrupted", attempts=1)
    backend.fates["7_0"] = Job("failed", "out of memory")
    made.step()
    made.step()
    assert begun.state == "failed"
    assert [node.state for node in behind] == ["ready", "ready"]


def test_of_a_running_job_of_several_stages_only_those_at_work_run(tmp_path: Path) -> None:
    backend = Recorder("slurm", room=0)
    made, (begun, halfway, waiting) = packed(tmp_path, backend)
    halfway.run.update(state="interrupted", step=3, steps=9)  # by an earlier job: it must not look as if it hung
    with begun.run.lock():
        begun.run.update(state="running", attempts=1)
        made.look()
        assert [node.state for node in (begun, halfway, waiting)] == ["running", "queued", "queued"]


def test_a_stage_that_is_ended_alone_is_started_again_while_its_job_goes_on(tmp_path: Path) -> None:
    backend = Recorder("slurm", room=1)
    made, (hung, other, _) = packed(tmp_path, backend)
    backend.fates["7_0"] = Job("running")
    with hung.run.lock():
        hung.run.update(state="running", attempts=1, step=4)
        made.look()
        made.end([hung], "it hung at step 4")
        made.look()
        assert hung.state == "running"  # until it has stopped
    hung.run.update(state="interrupted")
    made.step()
    made.step()
    assert backend.submitted == [hung.run.name]
    record = JobRecord.read(hung.run)
    assert record is not None
    assert (record.wave, record.losses) == ("", 1)
    assert other.state == "queued"


def test_what_a_search_gives_up_is_cancelled_until_it_is_gone_and_what_others_need_goes_on(tmp_path: Path) -> None:
    """Also a job that an earlier driver left, which died right after it had given the trial up."""
    backend = Recorder("slurm", room=9)
    kept, given_up = cell(0), cell(1)
    cancelled: list[str] = []
    backend.cancel = lambda records: cancelled.extend(run.name for run, _ in records)  # type: ignore[method-assign]
    first = scheduler(tmp_path / "runs", backend, kept, given_up)
    first.step()
    for name in list(backend.submitted):
        RunDir.open(tmp_path / "runs" / name).update(state="done")
    while not any(name.startswith("var-") for name in backend.submitted):
        first.step()
        for name in backend.submitted:
            if not name.startswith("var-"):
                RunDir.open(tmp_path / "runs" / name).update(state="done")
    (ours,) = [stage for stage in given_up.chain() if stage.kind == "var"]
    needed = {stage.name for stage in kept.chain()}
    for driver in (first, scheduler(tmp_path / "runs", backend, kept)):
        cancelled.clear()
        driver.give_up([stage for stage in given_up.chain() if stage.name not in needed], "pruned")
        driver.step()
        driver.step()
        assert cancelled == [ours.name] * 2
        backend.answers[ours.name] = Job("cancelled")
        driver.step()
        driver.step()
        assert cancelled == [ours.name] * 2
        assert driver.nodes[ours.name].state == "pruned"
        assert backend.submitted.count(ours.name) == 1
        backend.answers.clear()
    assert JobRecord.read(RunDir.open(tmp_path / "runs" / ours.name)).ended == "pruned"  # type: ignore[union-attr]
    backend.answers[ours.name] = Job("cancelled")
    driver.add([given_up])  # somebody wants it after all: it continues
    driver.step()
    assert backend.submitted.count(ours.name) == 2


def test_a_stage_that_may_start_again_is_noticed_when_it_is_wanted_again(tmp_path: Path) -> None:
    backend, stage = Recorder(room=9), cell(0)
    made = scheduler(tmp_path / "runs", backend, stage)
    (var,) = [part for part in stage.chain() if part.kind == "var"]
    run = RunDir.open(tmp_path / "runs" / var.name)
    run.update(state="failed", error="out of memory")
    while made.step():
        pass
    assert made.nodes[stage.name].state == "blocked"
    allow_again(run)
    made.add([stage])
    while made.open():
        made.step()
    assert made.nodes[stage.name].state == "done"
