"""--recompute KIND: what was computed from a stage goes with it, nothing is lost, and a killed command goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir, read_status
from studies.engine import recompute
from studies.run import main
from tests.studies.test_run import runs, toys  # noqa: F401

ONLY = ("--only", "full")


def kinds(paths: list[Path]) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in paths)


def run(results: Path, *arguments: str, study: str = "ablation_table2") -> int:
    return main([study, "--results", str(results), *ONLY, *arguments])


@pytest.fixture
def results(tmp_path: Path, toys: None) -> Path:  # noqa: F811
    assert run(tmp_path) == 0
    return tmp_path


def attempts(results: Path) -> dict[str, int]:
    """How often each stage's present directory was run."""
    present = (path for path in runs(results) if "." not in path.name)
    return {path.name: len((path / "attempts").read_text().splitlines()) for path in present}


def test_a_kind_and_all_that_was_computed_from_it_is_computed_anew(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_ino for path in runs(results)}
    assert run(results, "--recompute", "var") == 0
    now = {path.name: path.stat().st_ino for path in runs(results)}
    anew = [name for name in before if now[name] != before[name]]
    assert sorted(name.partition("-")[0] for name in anew) == ["samples", "scores", "var"]
    aside = [name for name in now if recompute.ASIDE in name]
    assert sorted(aside) == sorted(f"{name}.replaced-1" for name in anew)
    assert {now[f"{name}.replaced-1"] for name in anew} == {before[name] for name in anew}
    assert f"set aside, to be computed anew: {anew[0]}" in capsys.readouterr().out


def test_results_of_other_studies_that_were_computed_from_it_go_too(results: Path) -> None:
    main(["ablation_table2", "--results", str(results), "--only", "no_teacher"])  # on the same structure tokenizer
    done = {path.name for path in runs(results)}
    assert run(results, "--recompute", "tokenizer") == 0
    aside = {path.name.partition(".")[0] for path in runs(results) if recompute.ASIDE in path.name}
    assert kinds([Path(name) for name in done - aside]) == []


def test_repeating_the_command_goes_on_where_it_was_stopped(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_FAIL", "samples")
    assert run(results, "--recompute", "var") == 1
    monkeypatch.delenv("TOY_FAIL")
    made = {path.name: path.stat().st_ino for path in runs(results) if path.name.startswith("var")}
    failed = next(path for path in runs(results) if read_status(path).state == "failed")
    RunDir.open(failed).update(state="waiting")
    assert run(results, "--recompute", "var") == 0
    assert {path.name: path.stat().st_ino for path in runs(results) if path.name.startswith("var")} == made
    assert not (results / "ablation_table2" / "smoke" / recompute.REQUEST).exists()
    assert run(results, "--recompute", "var") == 0  # a request of its own
    assert len([path for path in runs(results) if path.name.startswith("var")]) == 3


def test_a_dry_run_only_says_what_would_be_set_aside(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = attempts(results)
    assert run(results, "--recompute", "scores", "--dry-run") == 0
    assert "would be set aside and computed anew: scores-" in capsys.readouterr().out
    assert attempts(results) == before
    assert not [path for path in runs(results) if recompute.ASIDE in path.name]


def test_a_stage_at_work_is_left_alone(results: Path) -> None:
    var = next(path for path in runs(results) if path.name.startswith("var"))
    with RunDir.open(var).lock(), pytest.raises(UserError, match="is being worked on; wait for it"):
        run(results, "--recompute", "var")
    RunDir.open(var).update(state="waiting")
    JobRecord("slurm", "17", host=os.uname().nodename, submitted=time.time()).write(RunDir.open(var))
    with pytest.raises(UserError, match=f"{var.name} is being worked on"):
        run(results, "--recompute", "tokenizer")
    assert not [path for path in runs(results) if recompute.ASIDE in path.name]


@pytest.mark.parametrize(("kind", "message"), [("vra", "did you mean 'var'"), ("readability", "unknown kind")])
def test_a_kind_the_study_lacks_is_refused(results: Path, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(results, "--recompute", kind)
