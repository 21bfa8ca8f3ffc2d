"""Optuna by ask and tell: nothing is asked twice, lost or told twice, whenever the driver dies."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import optuna
import pytest

from analysis.results import StudyResults
from fvar.config import RuntimeConfig, SamplesConfig
from fvar.errors import UserError
from fvar.rundir import RunDir
from studies import presets, search_distillation
from studies.engine.search import Choice, Search, Uniform, dashboard_command
from studies.search_distillation import PAPER, SPACE
from studies.study import Cell, Context, record
from tests import fakes

FIRST = {"x": 1.0, "side": 2}


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An initialised store, made once: its migration takes a second."""
    folder = tmp_path_factory.mktemp("optuna")
    open_search(folder).proposals()
    path = folder / "optuna.db"
    with optuna.storages.RDBStorage(f"sqlite:///{path}").engine.connect():
        pass
    return path.read_bytes()


@pytest.fixture
def results(tmp_path: Path, blank: bytes) -> Path:
    (tmp_path / "optuna.db").write_bytes(blank)
    return tmp_path


def open_search(results: Path, identity: str = "sig", high: float = 10.0) -> Search:
    """As a freshly started driver sees it."""
    return Search(results, "s/smoke", {"x": Uniform(0.1, high, log=True), "side": Choice((1, 2))}, FIRST, identity)


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search._study.trials]


def test_the_paper_s_point_comes_first_and_all_points_lie_in_the_space(results: Path) -> None:
    search = open_search(results)
    points = [search.ask().params for _ in range(6)]
    assert points[0] == FIRST
    assert all(0.1 <= point["x"] <= 10 and point["side"] in (1, 2) for point in points)
    assert len({point["x"] for point in points}) == 6


def test_a_restarted_driver_finds_every_point_it_handed_out(results: Path) -> None:
    asked = [open_search(results).ask() for _ in range(4)]
    assert open_search(results).proposals() == asked


def test_restarts_do_not_change_what_is_proposed(results: Path, tmp_path: Path, blank: bytes) -> None:
    """The same scores give the same points, from one driver or from one driver per step."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "optuna.db").write_bytes(blank)
    steady, points, restarted = open_search(other), [], []
    for _ in range(7):
        point = steady.ask()
        steady.tell(point.number, abs(point.params["x"] - 3))
        points.append(point.params)
        point = open_search(results).ask()
        open_search(results).tell(point.number, abs(point.params["x"] - 3))
        restarted.append(point.params)
    assert points == restarted


@pytest.mark.parametrize("dies_in", ["optuna.trial.Trial.set_user_attr", "optuna.study.Study.ask"])
def test_a_driver_killed_while_asking_loses_no_point_and_repeats_none(results: Path, dies_in: str) -> None:
    """Killed before or after Optuna wrote the trial, but before the point was stored as handed out."""
    with mock.patch(dies_in, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        open_search(results).ask()
    assert open_search(results).proposals() == []
    first = open_search(results).ask()
    assert first.params == FIRST
    assert open_search(results).proposals() == [first]
    assert states(open_search(results)).count("RUNNING") == 1


def test_a_score_is_told_once_and_a_failed_cell_fails_its_trial(results: Path) -> None:
    search = open_search(results)
    good, bad, empty = search.ask(), search.ask(), search.ask()
    search.tell(good.number, 2.5)
    search.tell(bad.number, None, "var-0123: diverged")
    search.tell(empty.number, float("nan"))
    again = open_search(results)
    again.tell(good.number, 99.0)
    again.tell(bad.number, 1.0)
    assert states(again) == ["COMPLETE", "FAIL", "FAIL"]
    assert again._study.trials[good.number].value == 2.5
    assert again._study.trials[bad.number].user_attrs["failure"] == "var-0123: diverged"
    assert again.best() == good


def test_telling_a_trial_that_was_never_asked_is_an_error(results: Path) -> None:
    with pytest.raises(ValueError, match="no trial 7"):
        open_search(results).tell(7, 1.0)


def test_another_configuration_or_space_is_another_search(results: Path) -> None:
    open_search(results).ask()
    assert open_search(results, identity="other").proposals() == []
    assert open_search(results, high=20.0).proposals() == []
    assert len(open_search(results).proposals()) == 1


def test_a_damaged_store_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("not a data base at all" * 100)
    with pytest.raises(UserError, match=r"optuna\.db cannot be used"):
        open_search(tmp_path).proposals()


def test_optuna_is_silent(results: Path) -> None:
    code = (
        "from pathlib import Path; from tests.studies.engine.test_search import open_search\n"
        f"s = open_search(Path({str(results)!r})); p = s.ask(); s.tell(p.number, 1.0); s.ask()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_importing_the_search_does_not_import_optuna() -> None:
    code = "import sys, studies.search_distillation; print('optuna' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_dashboard_is_told_to_stay_on_this_machine(tmp_path: Path) -> None:
    assert "--host 127.0.0.1" in dashboard_command(tmp_path)


# ------------------------------------------------------------------------------------------- the study built on it


def drive(ctx: Context, ends: int, fail: tuple[str, ...] = ()) -> list[Cell]:
    """One round of the driver: ask the study for cells, record them, and let up to `ends` open ones end."""
    cells = list(ctx.study.cells(ctx))
    record(ctx, cells)
    for cell in cells:
        run = RunDir.create(ctx.results / "runs", cell.stage, RuntimeConfig())
        if ends and run.status.state == "waiting":
            ends -= 1
            if cell.name in fail:
                run.update(state="failed", error="ValueError: diverged")
            else:
                fakes.finish(ctx.results, cell.stage, quality=1 / cell.params["lambda_feat"], seed=0)
    return cells


@pytest.fixture
def ctx(results: Path) -> Context:
    small = replace(presets.PRESETS["smoke"], sampling=SamplesConfig(count=fakes.COUNT))
    return Context(search_distillation.STUDY, small, results=results, trials=8, width=2)


def test_eight_trials_run_two_at_a_time_and_share_their_tokenizers(ctx: Context) -> None:
    for _ in range(6):
        cells = drive(ctx, ends=2)
        open_now = [cell for cell in ctx.read().cells if cell.state[0] == "waiting"]
        assert len(open_now) <= 2
    assert [cell.name for cell in cells] == [f"trial{number:03d}" for number in range(8)]
    assert cells[0].params == PAPER
    assert len({cell.stage.name for cell in cells}) == 8
    assert len([path for path in (ctx.results / "runs").iterdir() if path.name.startswith("tokenizer")]) == 2


def test_scores_reach_optuna_and_a_failed_trial_does_not_stop_the_search(ctx: Context) -> None:
    for _ in range(6):
        cells = drive(ctx, ends=2, fail=("trial002",))
    search = Search(ctx.results, "search_distillation/smoke", SPACE, PAPER, cells[0].stage.signature)
    results = {cell.name: cell for cell in ctx.read().cells}
    told = {f"trial{trial.number:03d}": trial for trial in search._study.trials}
    assert len(told) == 8
    assert told["trial002"].state.name == "FAIL"
    assert "diverged" in told["trial002"].user_attrs["failure"]
    assert all(told[name].value == cell.score("kid") for name, cell in results.items() if name != "trial002")


def test_a_dry_run_opens_no_store(tmp_path: Path) -> None:
    ctx = Context(search_distillation.STUDY, presets.PRESETS["paper"], results=tmp_path / "results", dry=True)
    assert [cell.params for cell in ctx.study.cells(ctx)] == [PAPER]
    assert not (tmp_path / "results").exists()


def test_the_paper_s_trial_is_table_2_s_full_variant(tmp_path: Path) -> None:
    """So that a search after the ablation starts with a finished cell."""
    ctx = Context(search_distillation.STUDY, presets.PRESETS["smoke"], results=tmp_path, dry=True)
    from studies.variants import chain

    assert next(iter(ctx.study.cells(ctx))).stage == chain(ctx.preset, "full", 0)


def test_results_are_read_like_any_study_s(ctx: Context) -> None:
    drive(ctx, ends=2)
    assert isinstance(ctx.read(), StudyResults)
    assert ctx.read().cells[0].params == PAPER
