"""After a stage's revision was raised: what is old is told apart, in status and gc, and removed only when asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import cells
from fvar.config import VarConfig
from fvar.rundir import RunDir
from studies.__main__ import main as look
from studies.run import main
from tests.studies.test_run import runs, toys  # noqa: F401


@pytest.fixture
def results(tmp_path: Path, toys: None, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A study that was finished before the var stage's revision was raised."""
    assert main(["ablation_table2", "--results", str(tmp_path), "--only", "full"]) == 0
    monkeypatch.setattr(VarConfig, "REVISION", VarConfig.REVISION + 1)
    return tmp_path


def note() -> str:
    return f"var of revision {VarConfig.REVISION - 1}, now {VarConfig.REVISION}"


def listed(results: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    assert look(["gc", "--results", str(results), *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_status_says_that_older_code_computed_it(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look(["status", "ablation_table2", "--results", str(results)])
    assert f"computed by older code ({note()})" in capsys.readouterr().out


def test_a_study_run_again_computes_the_stage_and_what_follows_anew(results: Path) -> None:
    before = {path.name for path in runs(results)}
    assert main(["ablation_table2", "--results", str(results), "--only", "full"]) == 0
    new = {path.name.partition("-")[0] for path in runs(results) if path.name not in before}
    # cells.json of the other variants names directories that are made when they are run
    assert new == {"var", "samples", "scores"}
    (place,) = cells.started(results)
    assert cells.read(place).outdated() == []


def test_gc_marks_what_is_old_and_keeps_what_a_study_names_until_asked(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(results, capsys)[-1] == "nothing to delete"
    old = listed(results, capsys, "--old-revisions")
    assert sorted(line.split()[2].rpartition("/")[2].partition("-")[0] for line in old[:-1]) == [
        "samples",
        "scores",
        "var",
    ]
    assert all(line.endswith(f"({note()})") for line in old[:-1])
    main(["ablation_table2", "--results", str(results), "--only", "full"])
    unnamed = listed(results, capsys)
    assert len(unnamed) == 4
    assert all(line.endswith(f"({note()})") for line in unnamed[:-1])
    listed(results, capsys, "--delete")
    assert not [path for path in runs(results) if RunDir.open(path).outdated]


def test_a_record_from_before_there_were_revisions_is_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "s" / "smoke"
    folder.mkdir(parents=True)
    (folder / "cells.json").write_text('{"cells": [{"name": "a", "variant": "a", "chain": ["var-1"]}]}')
    (place,) = cells.started(tmp_path)
    expected = [f"var of revision 1, now {VarConfig.REVISION}"] if VarConfig.REVISION > 1 else []
    assert cells.read(place).outdated() == expected
