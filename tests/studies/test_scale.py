"""Looking at a large study costs so much per stage and no more: what is counted here is work, never time."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from analysis import cells, plot_convergence, standing, table
from analysis.report import page
from fvar import plain, rundir
from fvar.config import RuntimeConfig, SamplesConfig, Stage
from fvar.machine import records
from fvar.rundir import RunDir
from studies.engine import commands, preflight
from studies.engine.live import View
from studies.engine.nodes import Node
from studies.engine.plan import Plan
from studies.presets import preset
from studies.variants import VARIANTS, chain
from tests.fakes import ablation
from tests.large import context, finished, write_long_history
from tests.studies.engine.test_scheduler import Recorder, scheduler


def calls(act: Callable[[], object]) -> int:
    """How many Python functions an act calls."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def test_twice_as_many_seeds_are_twice_the_work_to_plan(tmp_path: Path) -> None:
    def plan(seeds: int) -> Callable[[], str]:
        ctx = context(tmp_path, seeds)
        return lambda: Plan.of(ctx, list(ctx.study.cells(ctx))).text()

    plan(16)()  # what is found out once, or once per seed
    few, many, more = (calls(plan(seeds)) for seeds in (4, 8, 16))
    assert more - many == pytest.approx(2 * (many - few), rel=0.02)


def test_a_cell_of_a_plan_costs_some_hundred_calls(tmp_path: Path) -> None:
    def plan(seeds: int) -> int:
        ctx = context(tmp_path, seeds)
        return calls(lambda: Plan.of(ctx, list(ctx.study.cells(ctx))).text())

    plan(1)
    assert (plan(20) - plan(10)) / 60 < 400  # of three stages, priced, and of a network configured in nine parts


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Reads of each record, by its path."""
    times: Counter[str] = Counter()
    real = records.read_object

    def counted(path: str | Path) -> dict[str, Any] | None:
        times[str(path)] += 1
        return real(path)

    monkeypatch.setattr(records, "read_object", counted)
    return times


def test_status_dry_run_and_gc_read_each_file_once(tmp_path: Path, read: Counter[str]) -> None:
    made = finished(tmp_path, seeds=2)
    stages = {stage.name for cell in made for stage in cell.stage.chain()}
    read.clear()
    ctx = context(tmp_path, 2)
    Plan.of(ctx, made).text()
    assert read == {f"{tmp_path}/runs/{name}/status.json": 1 for name in stages}
    read.clear()
    commands.unreferenced(tmp_path)
    assert read == {str(ctx.place.file): 1}
    read.clear()
    list(commands.status_rows(cells.read(ctx.place)))
    assert read == {str(ctx.place.file): 1} | {f"{tmp_path}/runs/{cell.stage.name}/status.json": 1 for cell in made}


def test_what_is_to_come_is_priced_without_reading_what_the_plan_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Counter[str]
) -> None:
    made = finished(tmp_path, seeds=2)
    ctx = context(tmp_path, 4)
    wanted = list(ctx.study.cells(ctx))
    read.clear()
    monkeypatch.setattr(RunDir, "open", lambda path: pytest.fail(f"opened {path}"))
    assert "as measured in this results folder: var, samples, scores" in Plan.of(ctx, wanted).text()
    done = {stage.name for cell in made for stage in cell.stage.chain()}
    assert read == {f"{tmp_path}/runs/{name}/status.json": 1 for name in done}


def test_parts_of_configurations_that_cells_share_are_written_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: Counter[str] = Counter()
    real = plain._identifying

    def counted(config: Any) -> Iterator[tuple[str, Any]]:
        written[type(config).__name__] += 1
        return real(config)

    monkeypatch.setattr(plain, "_identifying", counted)
    monkeypatch.setattr(plain, "TEXT", "_text_of_this_test")  # what other tests had written does not count
    small = replace(preset("smoke"), alias_vocab=65)
    names = {chain(small, "full", seed).name for seed in range(1000, 1020)}
    assert len(names) == written["TrainConfig"] - 2 == written["VarConfig"] == 20  # 2: of the tokenizers
    assert written["TransformerConfig"] == written["TeacherConfig"] == written["DistillConfig"] == 1


def test_gc_of_old_revisions_opens_only_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = finished(tmp_path, seeds=2)
    opened: list[str] = []
    real = RunDir._open

    def counted(path: Path) -> RunDir:
        opened.append(path.name)
        return real(path)

    monkeypatch.setattr(RunDir, "_open", counted)
    monkeypatch.setattr("fvar.rundir._OPENED", {})
    assert commands.unreferenced(tmp_path, old_revisions=True) == []
    assert opened == []
    monkeypatch.setattr(SamplesConfig, "REVISION", SamplesConfig.REVISION + 1)
    old = {stage.name for cell in made for stage in cell.stage.chain() if stage.kind in ("samples", "scores")}
    assert {path.name for path in commands.unreferenced(tmp_path, old_revisions=True)} == old
    assert max(Counter(opened).values()) == 1


def test_evaluations_are_read_without_the_records_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path, chain(preset("smoke"), "baseline", 0), RuntimeConfig())
    write_long_history(run.path, 20_000, evaluations=20)
    parsed = 0
    real = json.loads

    def counted(text: Any) -> Any:
        nonlocal parsed
        parsed += 1
        return real(text)

    monkeypatch.setattr(json, "loads", counted)
    found = run.metrics("heldout")
    assert parsed == len(found) == 20
    assert [record["step"] for record in found] == list(range(1000, 20_001, 1000))
    assert len(run.metrics()) == 20_020


def test_evaluations_are_read_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path, chain(preset("smoke"), "baseline", 0), RuntimeConfig())
    read: list[Path] = []
    real = rundir._read_lines

    def counted(path: Path, containing: str = "") -> Iterator[dict[str, Any]]:
        read.append(path)
        return real(path, containing)

    monkeypatch.setattr(rundir, "_read_lines", counted)
    assert run.metrics("heldout") == []
    for step in (1, 2):
        run.log_metrics(step, {"accuracy": 0.5}, split="heldout")
        read.clear()
        run.metrics("heldout").clear()  # a reader may do with its list what it likes
        assert [record["step"] for record in run.metrics("heldout")] == list(range(1, step + 1))
        assert len(read) == 1
    run.forget_metrics_after(1)
    assert [record["step"] for record in run.metrics("heldout")] == [1]


def test_a_report_reads_the_metrics_of_a_training_once_per_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ablation(tmp_path, seeds=2)
    read: Counter[tuple[str, str]] = Counter()
    real = rundir._read_lines

    def counted(path: Path, containing: str = "") -> Iterator[dict[str, Any]]:
        read[str(path), containing] += 1
        return real(path, containing)

    monkeypatch.setattr(rundir, "_read_lines", counted)
    table.write(results)
    plot_convergence.draw(results)
    page.write(results)
    networks = {str(cell.chain["var"].path / "metrics.jsonl") for cell in results.cells}
    assert {split for path, split in read if path in networks} == {'"heldout"', '"sampled"'}
    assert {read[path, split] for path, split in read if path in networks} == {1}


def test_a_ready_stage_is_not_looked_at_again_while_nothing_can_be_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: Counter[str] = Counter()
    real = standing.of_stage

    def counted(path: Path) -> standing.Standing:
        looked[path.name] += 1
        return real(path)

    monkeypatch.setattr(standing, "of_stage", counted)
    backend = Recorder("slurm", room=2)
    made = scheduler(tmp_path, backend, *(Stage(preset("smoke").tokenizer(seed=seed)) for seed in range(20)))
    made.step()  # twice at all: to plan, and before two are submitted
    assert set(looked.values()) == {2}
    backend.room = 0
    looked.clear()
    for _ in range(5):
        made.step()
    assert looked == dict.fromkeys(backend.submitted, 5)


def test_a_line_about_a_stage_costs_the_same_in_a_large_study(tmp_path: Path) -> None:
    def lines(seeds: int) -> int:
        view = View("many", io.StringIO())
        view.follow(context(tmp_path, seeds).study.cells(context(tmp_path, seeds)))
        stage = chain(preset("smoke"), "full", 0)
        run = RunDir.create(tmp_path, stage, RuntimeConfig())
        return calls(lambda: view.changed(Node(stage, run, None, state="running"), "ready"))

    assert lines(1) == lines(30)


def test_of_stages_that_differ_in_seeds_alone_one_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def note(command: object, input: str, **rest: object) -> subprocess.CompletedProcess[str]:
        built.append(len(json.loads(input)))
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(subprocess, "run", note)
    for seeds in (1, 5):
        wanted: list[Stage] = [chain(preset("desk"), name, seed) for name in VARIANTS for seed in range(seeds)]
        preflight.require_buildable(wanted)
    assert (
        built[0]
        == built[1]
        == len({stage.name for name in VARIANTS for stage in chain(preset("desk"), name, 0).chain()})
    )
