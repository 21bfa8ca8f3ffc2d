"""Everything that can happen to a job, told apart: one study, in which every cell meets another fate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slurm.loopback import Cluster
from tests.slurm.drive import first_stage
from tests.slurm.driving import QUICK, ToyStudy, lines, wait_until

RAISES, EATS, TOO_LONG, CANCELLED, REQUEUED, SIGNALLED, WARNED, UNHARMED = range(8)
STEPS = {REQUEUED: 40, SIGNALLED: 40, WARNED: 100}
LONG = {"steps": 40, "seconds": 0.5}
DEAF = {"steps": 1000, "seconds": 0.5, "then": "ignore signals"}
FATES = {
    RAISES: {**QUICK, "then": "raise"},
    EATS: {**QUICK, "then": "eat memory"},
    TOO_LONG: [DEAF, QUICK],
    CANCELLED: LONG,
    REQUEUED: LONG,
    SIGNALLED: LONG,
    WARNED: {"steps": STEPS[WARNED], "seconds": 0.5},
}


@pytest.fixture(scope="module")
def study(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyStudy]:
    """A study of eight chains of two stages, after all this has happened to them and its driver has ended."""
    orders = {first_stage(cell).name: order for cell, order in FATES.items()}
    one = ToyStudy(cluster, tmp_path_factory.mktemp("fates"), cells=8, chain=True, orders=orders)
    driver = one.start()
    try:
        meddled = (TOO_LONG, CANCELLED, REQUEUED, SIGNALLED, WARNED)
        wait_until(lambda: len(one.runs()) == 16, 30)
        wait_until(lambda: all(one.first(cell).status.step >= 2 for cell in meddled), 60)
        jobs = {cell: one.job_id(one.first(cell)) for cell in meddled}
        for command in (
            ("scontrol", "update", f"JobId={jobs[TOO_LONG]}", "TimeLimit=1"),
            ("scancel", jobs[CANCELLED]),
            ("scontrol", "requeue", jobs[REQUEUED]),
            ("scancel", "--signal=USR2", jobs[SIGNALLED]),
            ("scontrol", "update", f"JobId={jobs[WARNED]}", "TimeLimit=1"),  # shorter than the warning
        ):
            done = cluster.client(*command)
            assert done.returncode == 0, done.stderr
        assert driver.wait(200) == 1, one.output()
        yield one
    finally:
        one.stop()


def ended(study: ToyStudy, cell: int) -> tuple[str, str, int]:
    """State, error and number of executions of a cell's first stage."""
    run = study.first(cell)
    return run.status.state, run.status.error, len(lines(run.path / "executions"))


def test_an_error_in_the_code_is_shown_with_its_log_and_never_retried(study: ToyStudy) -> None:
    assert ended(study, RAISES) == ("failed", "ZeroDivisionError: division by zero", 1)
    assert f"failed {study.first(RAISES).name}: ZeroDivisionError: division by zero" in study.output()
    assert "  | about to divide" in study.output()


def test_out_of_memory_is_told_with_the_setting_to_change(study: ToyStudy) -> None:
    state, error, executions = ended(study, EATS)
    assert (state, executions) == ("failed", 1)
    assert error == "out of memory; raise it by --set slurm.tokenizer.memory=… (now 200M)"
    assert error in study.output()


def test_a_job_above_its_time_limit_is_started_again(study: ToyStudy) -> None:
    assert ended(study, TOO_LONG) == ("done", "", 2)
    assert f"{study.first(TOO_LONG).name}" in study.output()
    assert "again, since it reached its time limit" in study.output()


def test_a_job_cancelled_by_hand_stays_cancelled(study: ToyStudy) -> None:
    state, error, executions = ended(study, CANCELLED)
    assert (state, executions) == ("cancelled", 1)
    assert "was cancelled in SLURM" in error


def test_a_job_warned_of_its_time_limit_continues_where_it_was_as_often_as_needed(study: ToyStudy) -> None:
    state, error, executions = ended(study, WARNED)
    assert (state, error) == ("done", "")
    assert executions >= 2
    steps = [int(step) for step in lines(study.first(WARNED).path / "steps")]
    assert sorted(set(steps)) == list(range(1, STEPS[WARNED] + 1))
    assert len(steps) <= STEPS[WARNED] + executions - 1
    assert len(set(lines(study.first(WARNED).path / "executions"))) == 1  # requeued, not submitted again


@pytest.mark.parametrize("fate", [REQUEUED, SIGNALLED], ids=["requeued", "signalled"])
def test_an_interrupted_job_continues_where_it_was(study: ToyStudy, fate: int) -> None:
    assert ended(study, fate) == ("done", "", 2)
    steps = [int(step) for step in lines(study.first(fate).path / "steps")]
    assert sorted(set(steps)) == list(range(1, STEPS[fate] + 1))
    assert len(steps) <= STEPS[fate] + 1  # at most the step that was under way is done twice
    jobs = lines(study.first(fate).path / "executions")
    assert jobs[0] == jobs[1]  # SLURM's requeue, not a second job


def test_what_needs_a_failed_stage_is_blocked_and_the_rest_goes_on(study: ToyStudy) -> None:
    downstream = [run for run in study.runs() if run.kind == "tokens"]
    assert sorted(run.status.state for run in downstream) == ["done"] * 5 + ["waiting"] * 3
    assert "5 of 8 cells done" in study.output()


def test_repeating_the_command_retries_nothing_blindly(study: ToyStudy) -> None:
    before = study.executions()
    assert study.run() == 1
    assert study.executions() == before


def test_retry_runs_again_what_failed(study: ToyStudy) -> None:
    study.order(**{"*": QUICK})
    assert study.command("retry", "toy").returncode == 0
    assert study.run() == 0, study.output()
    assert "8 of 8 cells done" in study.output()
