"""A results folder of any name: SLURM, shells and lists of paths read meaning into some characters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.driving import ToyStudy

Toy = Callable[..., ToyStudy]
ODD = ["100%j %A%a%t%%", 'a:b it\'s "odd" $HOME;&|', "q?x#y%20[z]*\ntwo"]


@pytest.mark.parametrize("name", ODD)
def test_a_study_runs_in_a_folder_of_any_name(toy: Toy, tmp_path: Path, name: str) -> None:
    study = toy(name, cells=3, chain=True, probed=False)
    assert study.run() == 0, study.output()
    assert set(study.executions().values()) == {1}
    copy = study.results / "slurm" / "code"
    assert all((run.path / "code").read_text().startswith(str(copy)) for run in study.runs())
    waves = list(study.results.glob("slurm/fvar-*"))
    assert sum(len(list(wave.glob("*_0_log.out"))) for wave in waves) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]  # nothing was written beside it


def test_the_commands_work_in_such_a_folder(toy: Toy) -> None:
    study = toy("100%j it's: [x]*\nq?y#%20", cells=2, orders={"*": {"steps": 1000, "seconds": 0.1}})
    assert study.run("--detach") == 0, study.output()
    assert study.command("status", "toy").returncode == 0
    stopped = study.command("cancel", "toy", "--profile", str(study.profile))
    assert stopped.returncode == 0, stopped.stderr
    assert set(study.states()) == {"cancelled"}
    study.order(**{"*": {"steps": 1, "seconds": 0.0, "then": "raise"}})
    assert study.command("retry", "toy").returncode == 0
    assert study.run() == 1, study.output()
    shown = study.command("logs", "toy", "toy/seed1")
    assert "ZeroDivisionError" in shown.stdout, shown.stderr
    assert study.command("gc").returncode == 0


def test_running_out_of_memory_is_seen_there_too(toy: Toy) -> None:
    study = toy("100%j", cells=1, orders={"*": {"steps": 1, "seconds": 0.0, "then": "eat memory"}})
    assert study.run() == 1, study.output()
    assert "out of memory" in study.output()


def test_a_backslash_is_refused_before_anything_is_submitted(toy: Toy) -> None:
    study = toy("back\\slash")
    assert study.run() == 2
    assert "for its backslash; name another folder by --results" in study.output()
    assert study.records() == []
