"""Studies left to the cluster: everything is queued at once, and a later driver finds what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.slurm.drive import first_stage
from tests.slurm.driving import QUICK, ToyStudy, lines, wait_until

Toy = Callable[..., ToyStudy]
SLOW_FIRST = {"tokenizer": {"steps": 4, "seconds": 0.5}}


def left_in_the_queue(study: ToyStudy) -> list[str]:
    """Jobs of the study that may still run."""
    names = ",".join(path.name for path in study.results.glob("slurm/fvar-*"))
    return study.cluster.client("squeue", "--noheader", f"--name={names}", "--format=%i").stdout.split()


def test_a_detached_study_ends_without_a_driver_and_a_later_one_submits_nothing(toy: Toy) -> None:
    study = toy(cells=3, chain=True, orders=SLOW_FIRST)
    assert study.run("--detach") == 0, study.output()
    assert study.states()["done"] < 6
    assert study.submitted() == 6
    assert "6 queued" in study.output()
    wait_until(lambda: study.states()["done"] == 6)
    assert study.run() == 0, study.output()
    assert "3 of 3 cells done" in study.output()
    assert set(study.executions().values()) == {1}
    assert study.submitted() == 6


def test_a_driver_attaches_to_what_was_detached(toy: Toy) -> None:
    study = toy(cells=3, chain=True, orders=SLOW_FIRST)
    assert study.run("--detach") == 0, study.output()
    assert study.run("--detach") == 0, study.output()
    assert study.run() == 0, study.output()
    assert set(study.executions().values()) == {1}
    assert study.submitted() == 6


def test_what_needs_a_failed_stage_leaves_the_queue_is_blocked_and_can_be_retried(toy: Toy) -> None:
    failing = first_stage(0).name
    study = toy(cells=2, chain=True, orders={failing: {**QUICK, "then": "raise"}})
    assert study.run("--detach") == 0, study.output()
    wait_until(lambda: not left_in_the_queue(study))
    shown = study.command("status", "toy")
    assert shown.returncode == 1
    assert [line.split()[:2] for line in shown.stdout.splitlines() if line.startswith("toy/")] == [
        ["toy/seed0", "blocked"],
        ["toy/seed1", "done"],
    ]
    assert study.run() == 1
    assert f"blocked   {next(run.name for run in study.runs() if run.input_names.get('tokenizer') == failing)}" in (
        study.output()
    )
    assert "cancelled" not in study.output()
    study.order(**{"*": QUICK})
    assert study.command("retry", "toy").returncode == 0
    assert study.run() == 0, study.output()
    assert study.executions()[failing] == 2


def test_gpu_hours_are_those_the_jobs_held_and_end_a_study_at_its_budget(toy: Toy) -> None:
    study = toy(cells=2, orders={"*": {"steps": 4, "seconds": 0.5}})
    gpus = ("--set", "slurm.gres=gpu:2")
    assert study.run(*gpus, "--only", "toy/seed0") == 0, study.output()
    start, end = map(json.loads, (study.first(0).path / "jobs.jsonl").read_text().splitlines())
    assert (start["gpus"], start["nodes"]) == (2, 1)
    assert end["end"] - start["start"] >= 2
    shown = study.command("status", "toy").stdout
    assert "GPU h" in shown
    hours = float(next(line for line in shown.splitlines() if "GPU hours spent" in line).split()[0])
    assert hours == pytest.approx(2 * (end["end"] - start["start"]) / 3600, rel=0.01)
    assert study.run(*gpus, "--max-gpu-hours", str(hours / 2)) == 2
    assert f"over --max-gpu-hours {hours / 2:g}" in study.output()
    assert lines(study.first(1).path / "executions") == []
    assert study.run(*gpus, "--max-gpu-hours", "1") == 0, study.output()
