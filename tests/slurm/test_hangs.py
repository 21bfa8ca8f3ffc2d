"""A stage that lives but gains no step is noticed, ended, and started again."""

from __future__ import annotations

from collections.abc import Callable

from tests.slurm.driving import ToyStudy

STEPS = {"steps": 8, "seconds": 0.3}


def test_a_stage_that_hangs_is_ended_and_continues_where_it_was(toy: Callable[..., ToyStudy]) -> None:
    study = toy(cells=2, orders={"*": [{**STEPS, "hang": 4}, STEPS]})
    assert study.run("--hang", "4", "--hang-minutes", "0.2") == 0, study.output()
    assert study.states() == {"done": 2}
    assert set(study.executions().values()) == {2}
    assert "after twice as long it is ended and started again" in study.output()
    assert "again, since it hung at step 4" in study.output()


def test_a_stage_that_hangs_at_the_same_step_each_time_is_given_up(toy: Callable[..., ToyStudy]) -> None:
    study = toy(cells=1, orders={"*": {**STEPS, "hang": 4}})
    assert study.run("--hang", "2", "--hang-minutes", "0.1") == 1, study.output()
    assert "it hung at step 4, 3 times without progress" in study.output()


def test_a_spent_budget_lets_what_runs_end_or_stops_it(toy: Callable[..., ToyStudy]) -> None:
    slow = {"steps": 60, "seconds": 0.5}
    study = toy(cells=2, chain=True, orders={"tokenizer": slow})
    hours = 2 * 4 * 6.0 / 3600  # of two jobs of four GPUs each for six seconds
    arguments = ("--set", "slurm.gres=gpu:4", "--max-gpu-hours", str(hours))
    assert study.run(*arguments, "--hard") == 2, study.output()
    assert "2 jobs are stopped" in study.output()
    steps = {run.status.step for run in study.runs() if run.kind == "tokenizer"}
    assert 0 < min(steps) <= max(steps) < 60
    study.order(**{"*": {"steps": 60, "seconds": 0.01}})
    assert study.run("--set", "slurm.gres=gpu:4") == 0, study.output()  # stopped, not cancelled
    assert study.states() == {"done": 4}
