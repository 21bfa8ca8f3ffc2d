"""What stages to come will cost: every kind, by what it cost before, else by an assumption that is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fvar.config import RuntimeConfig, Stage
from fvar.rundir import RunDir
from fvar.workload import flops
from studies.engine.bill import CPU_SPEED, DEVICE, SHARES, bill, planned_gpu_hours, price
from studies.engine.budget import Budget, OverBudget
from studies.engine.nodes import Node
from studies.engine.prediction import Speeds, speed
from studies.presets import preset
from studies.variants import chain


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)


def stages(size: str, seed: int = 0) -> dict[str, Stage]:
    return {stage.kind: stage for stage in chain(preset(size), "full", seed).chain()}


def finished(runs: Path, stage: Stage, seconds: float, gpus: int = 0) -> RunDir:
    run = RunDir.create(runs, stage, RuntimeConfig())
    run.update(state="done", seconds=seconds)
    if gpus:
        lines = [
            {"job": "1", what: time, "seen": 0, "nodes": 1, "gpus": gpus}
            for what, time in (("start", 0), ("end", seconds))
        ]
        (run.path / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_speeds_are_told_apart_by_the_gpus_that_were_held(tmp_path: Path) -> None:
    stage = stages("small")["samples"]
    finished(tmp_path, stage, 100.0, gpus=8)
    found, work = speed(tmp_path, "samples"), flops(stage)
    assert found.job == pytest.approx(work / 100)
    assert found.gpu == pytest.approx(work / 800)
    assert found.processor is None
    assert speed(tmp_path, "scores").job is None


def test_stages_that_train_nothing_cost_gpu_hours_too(tmp_path: Path) -> None:
    nothing = Speeds(tmp_path)
    for kind, stage in stages("paper").items():
        share = SHARES.get(kind, 0.4)
        assert planned_gpu_hours(stage, nothing) == pytest.approx(flops(stage) / (share * DEVICE.peak) / 3600)
    finished(tmp_path, stages("paper", seed=1)["samples"], 3600.0, gpus=8)
    measured = Speeds(tmp_path)
    assert planned_gpu_hours(stages("paper")["samples"], measured) == pytest.approx(8.0)


def test_the_bill_names_every_kind_and_what_it_rests_on(tmp_path: Path) -> None:
    wanted = stages("paper")
    finished(tmp_path, stages("paper", seed=1)["samples"], 3600.0, gpus=8)
    total, basis = bill(wanted.values(), Speeds(tmp_path)).splitlines()
    assert total.startswith("to come: ")
    assert "GPU hours" in total
    assert "samples 8" in total
    assert all(f"{kind} " in total for kind in wanted)
    assert basis == (
        "as measured in this results folder: samples; "
        "assumed (A100 at 40%, 20%, 5% of its peak): tokenizer, tokens, var, scores"
    )


def test_a_small_plan_is_told_in_minutes_of_a_processor(tmp_path: Path) -> None:
    wanted = stages("smoke")
    total, basis = bill(wanted.values(), Speeds(tmp_path)).splitlines()
    minutes = sum(map(flops, wanted.values())) / CPU_SPEED / 60
    assert f"estimated at {minutes:.3g} minutes of a processor" in total or f"{minutes:,.0f} minutes" in total
    assert "as measured" not in basis
    assert bill([], Speeds(tmp_path)) == "to come: nothing"


def test_a_budget_counts_samples_and_scores(tmp_path: Path) -> None:
    finished(tmp_path, stages("paper", seed=1)["scores"], 3600.0, gpus=1)
    stage = stages("paper")["scores"]
    node = Node(stage, RunDir.create(tmp_path, stage, RuntimeConfig()), None, "ready")
    Budget(1.01).require([node])
    with pytest.raises(OverBudget, match="planned 1 more"):
        Budget(0.99).require([node])


def test_what_was_measured_on_processors_alone_is_told_in_their_hours_unless_nobody_waits_for_them(
    tmp_path: Path,
) -> None:
    for stage in stages("desk", seed=1).values():
        finished(tmp_path, stage, flops(stage) / CPU_SPEED)
    many = [stage for seed in range(2, 30) for stage in stages("desk", seed=seed).values()]
    hours = sum(map(flops, many)) / CPU_SPEED / 3600
    assert price(many, Speeds(tmp_path)) == f"{hours:,.3g} hours of a processor"
    assert price(stages("paper").values(), Speeds(tmp_path)).endswith("GPU hours")
