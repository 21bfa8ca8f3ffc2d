"""Optuna by ask, report and tell: nothing is asked twice, lost or told twice, whenever the driver dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest

from fvar.errors import UserError
from studies.engine.backends.answers import NotNow
from studies.engine.search import samplers
from studies.engine.search.judge import Judge
from studies.engine.search.space import Choice, Space, Uniform, grid, require_inside
from studies.engine.search.store import Store, dashboard_command

FIRST = {"x": 1.0, "side": 2}


@pytest.fixture
def results(tmp_path: Path, blank_optuna: bytes) -> Path:
    (tmp_path / "optuna.db").write_bytes(blank_optuna)
    return tmp_path


def open_search(results: Path, identity: str = "sig", high: float = 10.0, **more: Any) -> Judge:
    """As a freshly started driver sees it."""
    space: Space = {"x": Uniform(0.1, high, log=True), "side": Choice((1, 2))}
    return Judge(Store(results), "s/smoke", space, [FIRST], identity, **more)


def ask(search: Judge) -> Any:
    trial = search.ask()
    assert trial is not None
    return trial


def states(search: Judge) -> list[str]:
    return [trial.state.name for trial in search.study.trials]


def test_the_paper_s_point_comes_first_and_all_points_lie_in_the_space(results: Path) -> None:
    search = open_search(results)
    points = [ask(search).params for _ in range(6)]
    assert points[0] == FIRST
    assert all(0.1 <= point["x"] <= 10 and point["side"] in (1, 2) for point in points)
    assert len({point["x"] for point in points}) == 6


def test_a_restarted_driver_finds_every_point_it_handed_out(results: Path) -> None:
    asked = [ask(open_search(results)) for _ in range(4)]
    assert [(trial.number, trial.params) for trial in open_search(results).trials()] == [
        (trial.number, trial.params) for trial in asked
    ]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "gp"])
def test_restarts_do_not_change_what_is_proposed(
    results: Path, tmp_path: Path, blank_optuna: bytes, sampler: str
) -> None:
    """The same scores give the same points, from one driver or from one driver per step."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "optuna.db").write_bytes(blank_optuna)
    steady, points, restarted = open_search(other, sampler=sampler), [], []
    for _ in range(7):
        point = ask(steady)
        steady.tell(point.number, [abs(point.params["x"] - 3)])
        points.append(point.params)
        point = ask(open_search(results, sampler=sampler))
        open_search(results, sampler=sampler).tell(point.number, [abs(point.params["x"] - 3)])
        restarted.append(point.params)
    assert points == restarted


@pytest.mark.parametrize("dies_in", ["optuna.trial.Trial.set_user_attr", "optuna.study.Study.ask"])
def test_a_driver_killed_while_asking_loses_no_point_and_repeats_none(results: Path, dies_in: str) -> None:
    """Killed before or after Optuna wrote the trial, but before the point was stored as handed out."""
    with mock.patch(dies_in, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        open_search(results).ask()
    assert open_search(results).trials() == []
    first = ask(open_search(results))
    assert first.params == FIRST
    assert [trial.number for trial in open_search(results).trials()] == [first.number]
    assert states(open_search(results)).count("RUNNING") == 1


def test_a_score_is_told_once_and_a_failed_cell_fails_its_trial(results: Path) -> None:
    search = open_search(results)
    good, bad, empty = ask(search), ask(search), ask(search)
    search.tell(good.number, [2.5])
    search.tell(bad.number, [], "var-0123: diverged")
    search.tell(empty.number, [float("nan")])
    again = open_search(results)
    again.tell(good.number, [99.0])
    again.tell(bad.number, [1.0])
    assert states(again) == ["COMPLETE", "FAIL", "FAIL"]
    assert [trial.values for trial in again.trials()] == [(2.5,), (), ()]
    assert again.trials()[bad.number].reason == "var-0123: diverged"
    assert [trial.number for trial in again.best()] == [good.number]
    assert again.missing() == 0  # no job died: the points themselves are at fault


def test_a_trial_whose_job_died_is_asked_for_once_more_and_only_once(results: Path) -> None:
    first, second = ask(open_search(results)), ask(open_search(results))
    open_search(results).tell(second.number, [], "out of memory", died=True)
    assert open_search(results).missing() == 1
    again = ask(open_search(results))
    assert (again.params, again.again_of) == (second.params, second.number)
    assert open_search(results).missing() == 0
    open_search(results).tell(again.number, [], "out of memory", died=True)
    assert open_search(results).missing() == 0
    assert ask(open_search(results)).params not in (first.params, second.params)


def test_a_driver_killed_before_it_repeats_a_dead_trial_repeats_it_later(results: Path) -> None:
    ask(open_search(results))
    open_search(results).tell(0, [], "out of memory", died=True)
    with mock.patch("optuna.study.Study.ask", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        open_search(results).ask()  # it is queued in the store by then
    assert ask(open_search(results)).again_of == 0
    assert ask(open_search(results)).again_of is None


def test_the_median_pruner_ends_a_trial_that_is_worse_than_half_and_tells_so(results: Path) -> None:
    search = open_search(results, pruner="median", every=10, steps=30)
    for number in range(samplers.STARTUP):
        ask(search)
        assert not search.report(number, {10: 5.0 + number, 20: 4.0 + number})
        search.tell(number, [float(number)])
    good, poor = ask(search), ask(search)
    assert not search.report(good.number, {10: 5.5, 20: 4.5})
    assert not search.report(good.number, {10: 5.5, 20: 4.5})  # a driver that was restarted says it again
    assert search.report(poor.number, {10: 9.5})
    again = open_search(results, pruner="median")
    assert again.trials()[poor.number].state == "pruned"
    assert "median at step 10, with 9.5" in again.trials()[poor.number].reason
    assert not again.report(poor.number, {20: 1.0})
    again.tell(poor.number, [0.0])
    assert states(again)[poor.number] == "PRUNED"


@pytest.mark.parametrize("pruner", ["hyperband", "wilcoxon"])
def test_the_other_pruners_end_poor_trials_too(results: Path, pruner: str) -> None:
    search = open_search(results, pruner=pruner, every=1, steps=27)
    for number in range(20):
        ask(search)
        curve = {step: 10.0 * (number + 1) + 1 / step for step in range(1, 28)}
        if not search.report(number, curve):
            search.tell(number, [curve[27]])
    found = states(search)
    assert "PRUNED" in found
    assert found[0] == "COMPLETE"  # nothing is worse than nothing


def test_a_grid_walks_every_combination_once_and_ends(results: Path) -> None:
    search = open_search(results, sampler="grid")
    found = []
    while trial := search.ask():
        found.append(trial.params)
        search.tell(trial.number, [1.0])
    rest = [point for point in grid(search.space) if point != FIRST]
    assert found == [FIRST, *rest]


def test_two_objectives_are_minimised_together_and_the_front_is_told(results: Path) -> None:
    search = open_search(results, sampler="nsga2", objectives=("score", "hours"))
    for values in ((1.0, 9.0), (5.0, 5.0), (9.0, 1.0), (9.0, 9.0), (5.0, 6.0)):
        search.tell(ask(search).number, values)
    assert [trial.number for trial in search.best()] == [0, 1, 2]


def found_by(sampler: str, seed: int, function: Callable[[Any], float]) -> float:
    """The lowest value after 30 trials."""
    store = Store(Path())
    vars(store)["storage"] = optuna.storages.InMemoryStorage()
    space = {name: Uniform(-5.0, 5.0) for name in ("a", "b", "c", "d")}
    search = Judge(store, "s", space, [], "sig", sampler=sampler, seed=seed)
    values = []
    for _ in range(30):
        trial = ask(search)
        values.append(function(trial.params))
        search.tell(trial.number, values[-1:])
    return min(values)


def test_tpe_is_better_than_random_over_ten_seeds() -> None:
    def bowl(point: Any) -> float:
        return float(sum((value - place) ** 2 for value, place in zip(point.values(), (1, -2, 0.5, 3), strict=True)))

    pairs = [(found_by("tpe", seed, bowl), found_by("random", seed, bowl)) for seed in range(10)]
    assert sum(tpe < random for tpe, random in pairs) >= 9, pairs
    assert sum(tpe for tpe, _ in pairs) < sum(random for _, random in pairs) / 2


def test_another_configuration_or_space_is_another_search(results: Path) -> None:
    ask(open_search(results))
    assert open_search(results, identity="other").trials() == []
    assert open_search(results, high=20.0).trials() == []
    assert open_search(results, objectives=("score", "hours")).trials() == []
    assert len(open_search(results, sampler="random", pruner="median").trials()) == 1


def test_a_point_outside_the_space_is_named_with_what_the_axis_holds() -> None:
    space: Space = {"x": Uniform(0.1, 10.0, log=True), "side": Choice((1, 2))}
    require_inside(space, [FIRST])
    with pytest.raises(UserError, match=r"outside the space: x 20.0 is not in \[0.1, 10\]"):
        require_inside(space, [FIRST | {"x": 20.0}])
    with pytest.raises(UserError, match=r"outside the space: side 3 is not in 1, 2"):
        require_inside(space, [FIRST | {"side": 3}])
    with pytest.raises(UserError, match="has no side"):
        require_inside(space, [{"x": 1.0}])
    with pytest.raises(UserError, match="unknown axis of a first point 'z'"):
        require_inside(space, [FIRST | {"z": 3}])


@pytest.mark.parametrize(
    ("sampler", "pruner", "objectives", "says"),
    [
        ("tpee", "none", ("score",), "did you mean 'tpe'.*cmaes, gp, grid, nsga2, random, tpe"),
        ("tpe", "medium", ("score",), "did you mean 'median'"),
        ("tpe", "median", ("score", "hours"), "judges by one value, and this search has 2 objectives"),
        ("cmaes", "none", ("score", "hours"), "has one objective"),
    ],
)
def test_what_does_not_go_together_is_said(sampler: str, pruner: str, objectives: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        samplers.require(sampler, pruner, objectives)


def test_a_package_that_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--sampler cmaes needs the package cmaes: pip install cmaes"):
        samplers.require("cmaes", "none", ("score",))


# ----------------------------------------------------------------------------------------------------- the store


def test_a_damaged_store_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("not a data base at all" * 100)
    with pytest.raises(UserError, match=r"optuna\.db cannot be used"):
        open_search(tmp_path).trials()


def test_a_store_that_is_held_is_waited_for_but_not_at_the_start(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    for place in ("studies.database.PATIENCE", "studies.engine.search.store.PATIENCE"):
        monkeypatch.setattr(place, 0.1)
    search = open_search(results)
    ask(search)
    holder = sqlite3.connect(results / "optuna.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(NotNow, match="is held by another program"):
        search.tell(0, [1.0])
    with pytest.raises(UserError, match=r"is held by another program.*repeat the command"):
        open_search(results).store.require_reachable()
    holder.close()
    search.tell(0, [1.0])
    assert states(search) == ["COMPLETE"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+none://u:secret@127.0.0.1:1/db", "cannot be used|does not answer"),
        ("nonsense", "--storage is not the address of a data base"),
        ("oracle://u:secret@h/db", "searches are kept in sqlite, postgresql or mysql"),
        ("sqlite:////no/such/folder/x.db", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_said_without_its_password(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        Store(tmp_path, url).require_reachable()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_that_others_reach_is_driven_from_one_results_folder(results: Path) -> None:
    ask(open_search(results, owner="a:/results"))
    assert len(open_search(results, owner="a:/results").trials()) == 1
    with pytest.raises(UserError, match="driven from a:/results; continue it there"):
        open_search(results, owner="b:/results").trials()


def test_optuna_is_silent(results: Path) -> None:
    code = (
        "from pathlib import Path; from tests.studies.engine.test_search import open_search\n"
        f"s = open_search(Path({str(results)!r})); p = s.ask(); s.tell(p.number, [1.0]); s.ask()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_importing_the_search_does_not_import_optuna() -> None:
    code = "import sys, studies.search_distillation; print('optuna' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_dashboard_is_told_to_stay_on_this_machine(tmp_path: Path) -> None:
    assert "--host 127.0.0.1" in dashboard_command(tmp_path)
    assert "secret" not in dashboard_command(tmp_path, "postgresql://u:secret@h/db")
