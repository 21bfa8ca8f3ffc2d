"""Some kinds of stages on this machine, the rest on SLURM, in one study."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvar.config import RuntimeConfig
from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir
from studies.engine.backends import Job, factory
from studies.engine.backends.routed import Routed
from studies.engine.profile import Profile
from studies.engine.scheduler import Scheduler
from tests.studies.engine.test_scheduler import Recorder, cell


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)


def routed(there: Recorder, here: Recorder) -> Routed:
    return Routed(there, here, ["scores", "tokens"])


def test_each_stage_goes_where_the_profile_says_and_is_asked_for_there(tmp_path: Path) -> None:
    there, here = Recorder("slurm", room=9), Recorder("local", room=1)
    backend = routed(there, here)
    made = Scheduler(tmp_path / "runs", backend, RuntimeConfig(), lambda node, before: None, lambda name: backend)
    made.add([cell(0), cell(1, tokenizer_seed=1)])
    for _ in range(40):
        made.step()
        for name in [*there.submitted, *here.submitted]:
            made.nodes[name].run.update(state="done")
        if not made.open():
            break
    assert {node.state for node in made.nodes.values()} == {"done"}
    assert {name.partition("-")[0] for name in there.submitted} == {"tokenizer", "var", "samples"}
    assert {name.partition("-")[0] for name in here.submitted} == {"tokens", "scores"}
    assert len(there.submitted) + len(here.submitted) == len(made.nodes)


def test_a_full_machine_here_does_not_hold_up_what_goes_there(tmp_path: Path) -> None:
    there, here = Recorder("slurm", room=1), Recorder("local", room=0)
    runs = [RunDir.create(tmp_path, stage, RuntimeConfig()) for stage in cell(0).chain()]
    assert [run.kind for run in routed(there, here).fitting(runs)] == ["tokenizer"]


def test_jobs_are_polled_stopped_and_cancelled_by_who_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = Recorder("slurm"), Recorder("local")
    here.fates["1"] = Job("lost", "its process ended")
    first, *_, last = (RunDir.create(tmp_path, stage, RuntimeConfig()) for stage in cell(0).chain())
    records = [(first, JobRecord("slurm", "1")), (last, JobRecord("local", "1"))]
    backend = routed(there, here)
    assert backend.poll(records) == {first.name: Job("running"), last.name: Job("lost", "its process ended")}
    stopped: list[str] = []
    for one in (there, here):
        monkeypatch.setattr(one, "cancel", lambda own: stopped.extend(run.name for run, _ in own))
    backend.cancel(records)
    assert stopped == [first.name, last.name]


def test_detached_nothing_can_run_here(tmp_path: Path) -> None:
    runs = [RunDir.create(tmp_path, stage, RuntimeConfig()) for stage in cell(0).chain()]
    with pytest.raises(UserError, match="--detach leaves all to SLURM"):
        routed(Recorder("slurm"), Recorder("local")).submit(runs, after=[])


def test_a_profile_asks_for_it_by_kind(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('partition = "gpu"\n[scores]\ncluster = "local"\n')
    make = factory(tmp_path, Profile.read(profile), jobs=3)
    backend = make("slurm")
    assert isinstance(backend, Routed)
    assert backend.clusters == ("slurm", "local")
    assert not isinstance(make("local"), Routed)
    profile.write_text('[scores]\ncluster = "lokal"\n')
    with pytest.raises(UserError, match="valid: local, slurm"):
        Profile.read(profile)
