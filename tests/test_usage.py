"""What stages have cost, by the records of their jobs, and the budget that is held against it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fvar.config import RuntimeConfig, Stage
from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir
from fvar.usage import gpu_hours, recording, spans, visible_gpus
from studies.engine.bill import planned_gpu_hours
from studies.engine.budget import Budget
from studies.engine.nodes import Node
from studies.presets import preset
from studies.variants import chain


def write(run: Path, *records: dict[str, float]) -> None:
    run.mkdir(parents=True, exist_ok=True)
    bodies = [{"job": "1", "seen": 0, "nodes": 2, "gpus": 8, **record} for record in records]
    (run / "jobs.jsonl").write_text("".join(json.dumps(body) + "\n" for body in bodies))


def node(root: Path, stage: Stage, state: str) -> Node:
    run = RunDir.create(root, stage, RuntimeConfig())
    return Node(stage, run, None, state)  # type: ignore[arg-type]


def test_a_job_costs_its_gpus_on_all_nodes_for_as_long_as_it_held_them(tmp_path: Path) -> None:
    write(tmp_path, {"start": 1000}, {"end": 4600})
    assert gpu_hours([tmp_path]) == pytest.approx(16.0)


def test_a_killed_job_counts_until_its_last_sign_of_life(tmp_path: Path) -> None:
    write(tmp_path, {"start": 1000}, {"start": 9000, "seen": 2800}, {"end": 9900})
    assert [(span.start, span.end) for span in spans(tmp_path)] == [(1000, 2800), (9000, 9900)]


def test_a_job_that_died_before_its_first_sign_of_life_counts_nothing(tmp_path: Path) -> None:
    write(tmp_path, {"start": 1000}, {"start": 9000, "seen": 500})
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "updated": 9360}))
    assert [(span.start, span.end) for span in spans(tmp_path)] == [(1000, 1000), (9000, 9360)]


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"start": 1000}, {"end": 4600})
    with open(tmp_path / "jobs.jsonl", "a") as file:
        file.write('{"job": "2", "sta')
    assert gpu_hours([tmp_path]) == pytest.approx(16.0)


@pytest.mark.parametrize(
    "line",
    ["null", "17", "[]", "{}", '{"start": "noon", "seen": 0, "nodes": 1, "gpus": 8}', '{"start": 5}', "\xff\x00"],
)
def test_a_damaged_line_is_left_out(tmp_path: Path, line: str) -> None:
    write(tmp_path, {"start": 1000}, {"end": 4600})
    with open(tmp_path / "jobs.jsonl", "ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    assert gpu_hours([tmp_path]) == pytest.approx(16.0)


def test_work_in_this_process_is_recorded_even_if_it_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), recording(tmp_path, gpus=1):
        raise ZeroDivisionError
    (span,) = spans(tmp_path)
    assert span.gpus == 1
    assert 0 <= span.end - span.start < 60


def test_a_budget_holds_what_was_spent_and_what_is_planned(tmp_path: Path) -> None:
    stages = list(chain(preset("small"), "full", 0).chain())
    done, trained = stages[0], next(stage for stage in stages if stage.kind == "var")
    nodes = [node(tmp_path, done, "done"), node(tmp_path, trained, "ready")]
    write(nodes[0].run.path, {"start": 0}, {"end": 3600})
    total = 16 + planned_gpu_hours(trained)
    Budget(total + 0.01).require(nodes)
    Budget(0.0).require(nodes)
    with pytest.raises(UserError, match=r"spent 16 GPU hours, planned .* over --max-gpu-hours"):
        Budget(total - 0.01).require(nodes)


def test_a_stage_past_its_plan_stops_what_comes_after_it(tmp_path: Path) -> None:
    stages = list(chain(preset("smoke"), "full", 0).chain())
    nodes = {stage.name: node(tmp_path, stage, "waiting") for stage in stages[:2]}
    first, second = nodes.values()
    first.state, first.record = "running", JobRecord("slurm", "1")
    Budget(1.0).require(nodes.values())
    write(first.run.path, {"start": 0}, {"end": 3600})
    with pytest.raises(UserError, match="nothing more is submitted"):
        Budget(1.0).allow([second], nodes)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0,2", ["0", "2"]),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, 1", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "1"]),
        ("MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/2", ["MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/2"]),
        ("MIG-aa1, MIG-bb2", ["MIG-aa1", "MIG-bb2"]),
        ("0,-1,1", ["0"]),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_gpus_are_counted_however_they_are_named(
    monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == names
