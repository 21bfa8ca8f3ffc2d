"""The SLURM backend over scripted client programs: jobs that are not listed, packs, and limits by stage kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fvar.config import RuntimeConfig, Stage, TokenizerConfig, TrainConfig
from fvar.job import JobRecord
from fvar.rundir import RunDir
from studies.engine.backends import queries, slurm, throttle
from studies.engine.backends.clients import SlurmDown
from studies.engine.backends.slurm import GONE_SECONDS, Slurm
from studies.engine.profile import Profile
from tests.studies.engine.test_scheduler import cell

WAVE = "fvar-tokenizer-0123456789ab"
DISABLED = SlurmDown("Slurm accounting storage is disabled")


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)


class Cluster:
    """Client programs that answer as told, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.squeue = ""
        self.sacct: str | SlurmDown = DISABLED
        self.called: list[tuple[str, ...]] = []
        self.now = 1000.0
        monkeypatch.setattr(queries, "call", self)
        monkeypatch.setattr(slurm, "call", self)
        monkeypatch.setattr(throttle, "call", self)
        monkeypatch.setattr("studies.engine.backends.slurm.time.monotonic", lambda: self.now)

    def __call__(self, *command: str, patience: float = 0.0) -> str:
        self.called.append(command)
        answer = {"squeue": self.squeue, "sacct": self.sacct}.get(command[0], "")
        if isinstance(answer, SlurmDown):
            raise answer
        return answer


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


@pytest.fixture
def backend(tmp_path: Path) -> Callable[..., Slurm]:
    def make(text: str = "") -> Slurm:
        (tmp_path / "mine.toml").write_text(text)
        return Slurm(Profile.read(tmp_path / "mine.toml"), tmp_path)

    return make


def tokenizers(root: Path, count: int) -> list[RunDir]:
    stages = [Stage(TokenizerConfig(train=TrainConfig(seed=seed))) for seed in range(count)]
    return [RunDir.create(root / "runs", stage, RuntimeConfig()) for stage in stages]


def test_an_empty_squeue_of_a_controller_that_restarts_is_not_believed_at_once(
    cluster: Cluster, backend: Callable[..., Slurm], tmp_path: Path
) -> None:
    (run,), made = tokenizers(tmp_path, 1), backend()
    record = JobRecord("slurm", "7", WAVE)
    cluster.squeue = f"7|N/A|RUNNING|{WAVE}|None\n"
    assert made.poll([(run, record)])[run.name].state == "running"
    cluster.squeue = ""
    for _ in range(3):
        assert made.poll([(run, record)])[run.name].state == "running"
        cluster.now += GONE_SECONDS / 4
    cluster.squeue = f"7|N/A|RUNNING|{WAVE}|None\n"
    made.poll([(run, record)])
    cluster.squeue = ""
    cluster.now += GONE_SECONDS / 2
    assert made.poll([(run, record)])[run.name].state == "running"  # it was there meanwhile
    cluster.now += GONE_SECONDS
    found = made.poll([(run, record)])[run.name]
    assert (found.state, found.reason) == ("lost", "the cluster no longer knows its job")


def test_a_driver_that_starts_meanwhile_waits_as_long(
    cluster: Cluster, backend: Callable[..., Slurm], tmp_path: Path
) -> None:
    (run,), made = tokenizers(tmp_path, 1), backend()
    record = JobRecord("slurm", "7", WAVE)
    found = made.poll([(run, record)])[run.name]
    assert (found.state, found.reason) == ("queued", "SLURM does not list its job; looking again")


def test_what_the_accounting_knows_is_believed_at_once(
    cluster: Cluster, backend: Callable[..., Slurm], tmp_path: Path
) -> None:
    (run,), made = tokenizers(tmp_path, 1), backend()
    cluster.sacct = f"7|NODE_FAIL|{WAVE}|None"
    assert made.poll([(run, JobRecord("slurm", "7", WAVE))])[run.name].state == "lost"


def test_stages_wait_for_a_whole_pack_but_not_for_ever(
    cluster: Cluster, backend: Callable[..., Slurm], tmp_path: Path
) -> None:
    runs, made = tokenizers(tmp_path, 7), backend("packing = 4\ngather = 60.0")
    assert made.fitting(runs[:3]) == []
    cluster.now += 59
    assert made.fitting(runs[:4]) == runs[:4]
    assert made.fitting(runs) == runs[:4]  # the rest has waited since now
    cluster.now += 59
    assert made.fitting(runs[4:]) == []
    cluster.now += 2
    assert made.fitting(runs[4:]) == runs[4:]


def test_without_packing_nothing_waits(cluster: Cluster, backend: Callable[..., Slurm], tmp_path: Path) -> None:
    runs = tokenizers(tmp_path, 3)
    assert backend().fitting(runs) == runs


def test_a_limit_of_a_kind_holds_over_its_waves_and_leaves_room_for_others(
    cluster: Cluster, backend: Callable[..., Slurm], tmp_path: Path
) -> None:
    made = backend("array_parallelism = 10\n[scores]\narray_parallelism = 2\n")
    *_, last = cell(0).chain()
    run = RunDir.create(tmp_path / "runs", last, RuntimeConfig())
    wave = "fvar-scores-0123456789ab"
    cluster.squeue = "".join(f"7|{place}|PENDING|{wave}|Resources\n" for place in range(2))
    records = [(run, JobRecord("slurm", f"7_{place}", wave, place)) for place in range(2)]
    made.poll(records[:1])
    assert made.fitting([run]) == [run]
    made._throttle.update(("scores", record) for _, record in records)
    assert made.fitting([run]) == []
    (first,) = tokenizers(tmp_path, 1)
    assert made.fitting([first, run]) == [first]


@pytest.mark.parametrize("whole", [False, True])
def test_a_job_is_cancelled_only_if_no_other_stage_of_it_is_wanted(
    cluster: Cluster, backend: Callable[..., Slurm], tmp_path: Path, whole: bool
) -> None:
    runs, made = tokenizers(tmp_path, 3), backend("packing = 3")
    (tmp_path / "slurm" / WAVE).mkdir(parents=True)
    (tmp_path / "slurm" / WAVE / "runs").write_text("".join(f"{run.path}\n" for run in runs))
    records = [(run, JobRecord("slurm", "7_0", WAVE, 0, pack=3)) for run in runs]
    for run, record in records:
        record.write(run)
    runs[2].update(state="done")
    made.cancel(records[: 2 if whole else 1])
    ended = [JobRecord.read(run).ended for run in runs]  # type: ignore[union-attr]
    assert cluster.called == ([("scancel", "7_0")] if whole else [])
    assert ended == (["", "", ""] if whole else ["cancelled", "", ""])


def test_jobs_that_go_on_are_counted_not_their_stages(backend: Callable[..., Slurm], tmp_path: Path) -> None:
    records = [(run, JobRecord("slurm", "7_0", WAVE, 0, pack=3)) for run in tokenizers(tmp_path, 3)]
    assert backend().stop(records) == "1 job goes on in SLURM"
