"""MLflow mirrors the run directories: complete, without duplicates, whatever happened before."""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analysis import table
from analysis.cells import Place
from analysis.results import StudyResults
from fvar.config import RuntimeConfig
from fvar.errors import UserError
from fvar.rundir import RunDir
from studies.engine import outputs
from studies.tracking import describe, entries, local
from studies.tracking import history as progress
from studies.tracking import sync as tracking
from tests import fakes
from tests.studies.tracking.stores import client, history, reread, runs

pytest.importorskip("mlflow")


def test_each_cell_is_a_run_with_settings_scores_and_figures(results: Path, study: StudyResults) -> None:
    assert tracking.sync(results, study, table.write(study))
    found = runs(client(results))
    run = found["full/seed0"]
    assert run.data.params["var.train.steps"] == str(fakes.STEPS)
    assert run.data.params["tokens.tokenizer.pyramid.rho_max"] == "12.0"
    assert run.data.metrics["FID"] == study.cells[0].score("fid")
    assert run.data.metrics["heldout_cross_entropy"] == study.cells[0].heldout("cross_entropy")
    assert "IS" not in run.data.metrics
    assert run.info.status == "FINISHED"
    assert found["baseline/seed0"].info.status == "SCHEDULED"
    artifacts = client(results).list_artifacts(found["Table 2: ablation"].info.run_id)
    assert [artifact.path for artifact in artifacts] == ["READINGS.md", "table.csv", "table.md", "table.tex"]
    assert (results / "mlartifacts" / "ablation_table2" / "smoke").is_dir()


def test_each_stage_is_a_run_below_its_cell_with_its_history(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    found = runs(client(results))
    assert {"var full/seed0", "tokens full/seed0", "samples full/seed0", "scores full/seed0"} <= set(found)
    run = found["var full/seed0"]
    assert run.data.tags["mlflow.parentRunId"] == found["full/seed0"].info.run_id
    assert run.data.params["train.steps"] == str(fakes.STEPS)
    logged = [(record["step"], record["cross_entropy"]) for record in study.cells[0].metrics("train")]
    assert history(client(results), run, "train/cross_entropy") == logged


def test_a_stage_that_several_cells_share_is_one_run_tagged_with_all(results: Path) -> None:
    study = fakes.ablation(results, seeds=3)
    tracking.sync(results, study)
    mlflow = client(results)
    experiment = mlflow.get_experiment_by_name("ablation_table2/smoke")
    assert experiment
    found = mlflow.search_runs([experiment.experiment_id], "tags.role = 'tokens.tokenizer'")
    assert len(found) == len(fakes.VARIANTS)
    assert sorted(run.data.tags["cells"] for run in found)[0] == "baseline/seed0, baseline/seed1, baseline/seed2"
    assert {run.info.run_name for run in found} == {"tokens.tokenizer (3 cells)"}


def test_settings_in_which_cells_differ_are_tags_and_all_others_are_not(results: Path) -> None:
    stages = {rho: fakes.chain("full", 0, rho_max=rho) for rho in (6.0, 12.0)}
    for stage in stages.values():
        fakes.finish(results, stage, 0.5, 0)
    cells = [fakes.cell(f"rho{rho:g}", 0, stage, rho_max=rho) for rho, stage in stages.items()]
    tracking.sync(results, fakes.write_cells(results, "sweep_psf_radius", cells))
    for name, run in runs(client(results), "sweep_psf_radius/smoke").items():
        if run.data.tags["kind"] == "cell":
            varies = {key: value for key, value in run.data.tags.items() if key.startswith("varies.")}
            rho = f"{float(name.partition('/')[0].removeprefix('rho'))}"
            assert {"varies.cell.rho_max", "varies.tokens.tokenizer.pyramid.rho_max"} <= varies.keys()
            assert all(key.endswith(".rho_max") for key in varies)
            assert set(varies.values()) == {rho}


def test_a_list_shows_first_what_the_study_says_it_varies() -> None:
    varies = ["alias.data.crops", "alias.seed", "cell.rho_max", "tokens.seed", "var.train.lr"]
    assert describe.telling(varies) == ["cell.rho_max", "var.train.lr", "alias.data.crops", "alias.seed"]


def test_runs_name_the_data_sets_they_read(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    run = runs(client(results))["scores full/seed0"]
    assert run.inputs
    (read,) = run.inputs.dataset_inputs
    assert read.dataset.name == "emoji 64 px"
    assert [(tag.key, tag.value) for tag in read.tags] == [("mlflow.data.context", "train")]
    assert runs(client(results))["full/seed0"].inputs


def test_an_experiment_says_what_it_is_and_which_command_made_it(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study, table.write(study))
    experiment = client(results).get_experiment_by_name("ablation_table2/smoke")
    assert experiment
    note = experiment.tags["mlflow.note.content"]
    assert "`python -m studies.run ablation_table2 --preset smoke`" in note
    assert "READINGS.md" in note
    assert "| FVAR (full) |" in note
    assert "tags.`variant`" in experiment.tags["mlflow.sharedViewState.fvar"]


def test_a_second_sync_of_the_same_results_touches_nothing(results: Path, study: StudyResults) -> None:
    assert tracking.sync(results, study)
    before = (results / "mlflow.db").stat().st_mtime_ns
    assert not tracking.sync(results, reread(study))
    assert (results / "mlflow.db").stat().st_mtime_ns == before


def test_after_one_new_line_one_stage_and_its_cell_are_read(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = fakes.ablation(results, seeds=3)
    tracking.sync(results, study)
    opened: list[str] = []

    def count(cls: type[RunDir], path: Path) -> RunDir:
        opened.append(path.name)
        return cls._open(path)

    monkeypatch.setattr(RunDir, "open", classmethod(count))
    var = study.cells[0].chain["var"]
    var.log_metrics(fakes.STEPS + 10, {"cross_entropy": 3.25})
    size = (var.path / "metrics.jsonl").stat().st_size
    read: list[int] = []
    blocks = progress._blocks

    def measure(path: Path, offset: int) -> Iterator[bytes]:
        for block in blocks(path, offset):
            read.append(len(block))
            yield block

    monkeypatch.setattr(progress, "_blocks", measure)
    assert tracking.sync(results, reread(study))
    assert set(opened) == {run.name for run in study.cells[0].chain.values()}
    assert 0 < sum(read) < size / 10


def test_a_first_sync_takes_a_dozen_statements_per_run_and_flattens_each_stages_settings_once(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = fakes.ablation(results, seeds=2)
    statements, flattened = Counter[str](), Counter[str]()

    def count(name: str) -> None:
        method = getattr(local.LocalStore, name)

        def wrapper(self: local.LocalStore, sql: str, *values: object) -> object:
            statements[name] += values != ([],)  # of no rows, none
            return method(self, sql, *values)

        monkeypatch.setattr(local.LocalStore, name, wrapper)

    for name in ("_read", "_do", "_many"):
        count(name)
    settings = entries.settings

    def flatten(run: RunDir) -> dict[str, str]:
        flattened[run.name] += 1
        return settings(run)

    monkeypatch.setattr(entries, "settings", flatten)
    tracking.sync(results, study)
    with contextlib.closing(sqlite3.connect(results / "mlflow.db")) as store:
        ((made,),) = store.execute("SELECT count(*) FROM runs").fetchall()
    assert statements.total() <= 12 * made + 20  # 20: the experiment's own
    assert set(flattened.values()) == {1}


def test_an_unchanged_study_is_recognised_without_importing_mlflow(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    code = (
        "import sys; from pathlib import Path\n"
        "from analysis.results import StudyResults; from studies.tracking import sync as tracking\n"
        f"root = Path({str(results)!r}); study = StudyResults.read(root, 'ablation_table2', 'smoke')\n"
        "print(tracking.sync(root, study), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_new_records_are_added_to_the_same_run_once(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    before = runs(client(results))["var full/seed0"]
    var = study.cells[0].chain["var"]
    var.log_metrics(fakes.STEPS + 10, {"cross_entropy": 3.25})
    assert tracking.sync(results, reread(study))
    after = runs(client(results))["var full/seed0"]
    assert after.info.run_id == before.info.run_id
    steps = [step for step, _ in history(client(results), after, "train/cross_entropy")]
    assert steps == list(range(0, fakes.STEPS + 11, 10))


def test_a_resume_that_repeats_steps_leaves_one_value_per_step(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    var = study.cells[0].chain["var"]
    var.forget_metrics_after(100)
    for step in (110, 120):
        var.log_metrics(step, {"cross_entropy": 1.0})
    tracking.sync(results, reread(study))
    found = history(client(results), runs(client(results))["var full/seed0"], "train/cross_entropy")
    assert [step for step, _ in found] == list(range(0, 121, 10))
    assert found[-1] == (120, 1.0)


@pytest.mark.parametrize("call", range(1, 8))
def test_a_sync_killed_at_any_call_is_continued_without_duplicates(
    call: int, results: Path, study: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    class Killed(BaseException):
        pass

    def kill_at(name: str) -> None:
        method = getattr(local.LocalStore, name)

        def wrapper(self: local.LocalStore, *arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == 2 * call:
                raise Killed
            done = method(self, *arguments)
            if calls % 3 == 0:
                self.finish()  # as after some seconds
            return done

        monkeypatch.setattr(local.LocalStore, name, wrapper)

    for name in ("create", "append", "write", "upload"):
        kill_at(name)
    with pytest.raises(Killed):
        tracking.sync(results, study)
    monkeypatch.undo()
    tracking.sync(results, reread(study))
    logged = [(record["step"], record["cross_entropy"]) for record in study.cells[0].metrics("train")]
    run = runs(client(results))["var full/seed0"]
    assert history(client(results), run, "train/cross_entropy") == logged
    assert not tracking.sync(results, reread(study))


def test_history_equals_the_file_after_three_interruptions_of_the_training(
    results: Path, study: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "BLOCK", 500)  # bytes: several pieces each time
    var = study.cells[0].chain["var"]
    for kept in (150, 90, 170):
        tracking.sync(results, reread(study))
        var.forget_metrics_after(kept)
        for step in range(kept - kept % 10 + 10, 221, 10):
            var.log_metrics(step, {"cross_entropy": step + kept / 1000})
        with open(var.path / "metrics.jsonl", "a") as file:
            file.write('{"step": 230, "split": "tr')  # torn by a kill
        tracking.sync(results, reread(study))
    records = var.metrics("train")
    run = runs(client(results))["var full/seed0"]
    for key in ("cross_entropy", "accuracy", "lr"):
        expected = [(record["step"], record[key]) for record in records if key in record]
        assert history(client(results), run, f"train/{key}") == expected


def test_files_that_arrived_before_an_interruption_are_not_sent_again(
    results: Path, study: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, sent, faults = table.write(study), list[str](), ["one"]
    upload = local.LocalStore.upload

    def note(self: local.LocalStore, run_id: str, file: Path) -> None:
        if file == tables[1] and faults:
            faults.clear()
            self.finish()  # as after some seconds
            raise ConnectionResetError("lost")
        sent.append(file.name)
        upload(self, run_id, file)

    monkeypatch.setattr(local.LocalStore, "upload", note)
    with pytest.raises(UserError, match="lost"):
        tracking.sync(results, study, tables)
    tracking.sync(results, reread(study), tables)
    assert [name for name in sent if name.startswith("table")] == [path.name for path in tables]
    assert not tracking.sync(results, reread(study), tables)


def test_a_changed_configuration_is_another_run(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    stage = fakes.chain("full", 0, rho_max=6.0)
    fakes.finish(results, stage, 0.7, 0)
    changed = fakes.write_cells(results, "ablation_table2", [fakes.cell("full", 0, stage)])
    tracking.sync(results, changed)
    mlflow = client(results)
    experiment = mlflow.get_experiment_by_name("ablation_table2/smoke")
    assert experiment is not None
    radii = [
        run.data.params["tokens.tokenizer.pyramid.rho_max"]
        for run in mlflow.search_runs([experiment.experiment_id])
        if run.info.run_name == "full/seed0"
    ]
    assert sorted(radii) == ["12.0", "6.0"]


def test_a_changed_param_is_shown(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    body = (study.folder / "cells.json").read_text()
    (study.folder / "cells.json").write_text(body.replace('"params": {}', '"params": {"note": "a"}'))
    tracking.sync(results, reread(study))
    (study.folder / "cells.json").write_text(body.replace('"params": {}', '"params": {"note": "b"}'))
    tracking.sync(results, reread(study))
    assert runs(client(results))["full/seed0"].data.params["cell.note"] == "b"


def test_everything_can_be_rebuilt_from_the_run_directories(results: Path, study: StudyResults, blank: bytes) -> None:
    tracking.sync(results, study)
    before = {name: (run.data.params, run.data.metrics, run.info.status) for name, run in runs(client(results)).items()}
    other = results.rename(results.with_name("moved"))
    (other / "mlflow.db").write_bytes(blank)
    moved = StudyResults.read(other, study.study, study.preset)
    assert tracking.sync(other, moved)
    assert {
        name: (run.data.params, run.data.metrics, run.info.status) for name, run in runs(client(other)).items()
    } == before


def test_infinity_is_not_stored_as_a_huge_number(results: Path, study: StudyResults) -> None:
    study.cells[0].chain["var"].log_metrics(210, {"cross_entropy": math.inf})
    tracking.sync(results, reread(study))
    run = runs(client(results))["var full/seed0"]
    values = [value for step, value in history(client(results), run, "train/cross_entropy") if step == 210]
    assert len(values) == 1
    assert math.isnan(values[0])
    assert run.data.tags["non_finite"] == "train/cross_entropy is inf at step 210"


def test_the_load_of_the_machine_is_shown_as_system_metrics(results: Path, study: StudyResults) -> None:
    var = study.cells[0].chain["var"]
    for percent in (20.0, 90.0):
        var.log_load({"cpu_utilization_percentage": percent})
        tracking.sync(results, reread(study))
    run = runs(client(results))["var full/seed0"]
    shown = history(client(results), run, "system/cpu_utilization_percentage")
    assert shown == [(0, 20.0), (1, 90.0)]


def test_a_line_that_is_not_a_record_costs_that_line(results: Path, study: StudyResults) -> None:
    path = study.cells[0].chain["var"].path / "metrics.jsonl"
    with open(path, "ab") as file:
        file.write(b'null\n[1]\n{"step": "x", "split": "train", "time": 1}\n\xff\n{"split": "train"}\n')
        file.write(b'{"step": 210, "split": "train", "time": 1.0, "cross_entropy": 2.5}\n')
    tracking.sync(results, reread(study))
    run = runs(client(results))["var full/seed0"]
    assert history(client(results), run, "train/cross_entropy")[-1] == (210, 2.5)


def test_a_cell_that_left_the_study_neither_waits_nor_runs(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    stage = fakes.chain("full", 0)
    tracking.sync(results, fakes.write_cells(results, "ablation_table2", [fakes.cell("full", 0, stage)]))
    run = runs(client(results))["baseline/seed0"]
    assert (run.info.status, run.data.tags["state"]) == ("KILLED", "no longer part of the study")


@pytest.mark.parametrize(
    ("state", "cell", "stage"),
    [
        ("failed", "FAILED", "FAILED"),
        ("cancelled", "FAILED", "KILLED"),  # the cell is blocked by its stage
        ("interrupted", "SCHEDULED", "SCHEDULED"),
        ("done", "SCHEDULED", "FINISHED"),
    ],
)
def test_statuses_are_those_of_the_run_directories(state: str, cell: str, stage: str, results: Path) -> None:
    chain = fakes.chain("full", 0)
    RunDir.create(results / "runs", chain, RuntimeConfig())
    first = next(chain.chain())
    RunDir.open(results / "runs" / first.name).update(state=state, error="went wrong" if state == "failed" else "")
    tracking.sync(results, fakes.write_cells(results, "ablation_table2", [fakes.cell("full", 0, chain)]))
    found = runs(client(results))
    (role,) = (run.data.tags["role"] for run in found.values() if run.data.tags.get("stage") == first.name)
    assert found["full/seed0"].info.status == cell
    assert found[f"{role} full/seed0"].info.status == stage


def test_a_damaged_store_is_named_in_one_line(tmp_path: Path, study: StudyResults) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a data base" * 1000)
    with pytest.raises(UserError, match=r"mlflow\.db cannot be opened"):
        tracking.sync(tmp_path, study)


@pytest.mark.parametrize("name", ["q?x", "pct%20x", 'it\'s a "results" #1 [new]', "{SCHEMA_VERSION}", "100%j 焦点"])
def test_a_results_folder_of_any_name_keeps_its_store_inside(name: str, tmp_path: Path, blank: bytes) -> None:
    results = tmp_path / name
    results.mkdir()
    (results / "mlflow.db").write_bytes(blank)
    stage = fakes.chain("full", 0)
    fakes.finish(results, stage, 0.5, 0)
    study = fakes.write_cells(results, "ablation_table2", [fakes.cell("full", 0, stage)])
    assert tracking.sync(results, study, table.write(study))
    summary = runs(client(results))["Table 2: ablation"].info.run_id
    names = [artifact.path for artifact in client(results).list_artifacts(summary)]
    assert names == ["READINGS.md", "table.csv", "table.md", "table.tex"]
    assert len(list((results / "mlartifacts" / "ablation_table2" / "smoke").rglob("table.md"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_results_that_were_copied_or_moved_get_a_store_of_their_own(
    how: str, tmp_path: Path, blank: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "mlflow.db").write_bytes(blank)
    stage = fakes.chain("full", 0)
    fakes.finish(first, stage, 0.5, 0)
    study = fakes.write_cells(first, "ablation_table2", [fakes.cell("full", 0, stage)])
    tracking.sync(first, study, table.write(study))
    assert not local.moved(first)
    before = tree(first)
    if how == "copied":
        shutil.copytree(first, second)
    else:
        first.rename(second)
    here = StudyResults.read(second, study.study, study.preset)
    own = here.folder / "table.md"
    own.write_text("the copy's own table")
    monkeypatch.setattr(local, "make", lambda database: database.write_bytes(blank))
    assert local.moved(second)
    assert tracking.sync(second, here, [own])
    assert not local.moved(second)
    summary = runs(client(second))["Table 2: ablation"]
    assert summary.info.artifact_uri
    assert summary.info.artifact_uri.startswith(second.as_uri())
    shown = client(second).download_artifacts(summary.info.run_id, "table.md", str(tmp_path))
    assert Path(shown).read_text() == "the copy's own table"
    assert not tracking.sync(second, here, [own])
    if how == "copied":
        assert tree(first) == before


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "mlflow.db" not in path.name}


def test_a_link_to_the_results_is_not_another_place(results: Path, study: StudyResults, tmp_path: Path) -> None:
    tracking.sync(results, study)
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(results)
    assert not local.moved(link)


def lock(results: Path, patch: pytest.MonkeyPatch) -> None:
    holder = sqlite3.connect(results / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    patch.setattr("studies.database.PATIENCE", 0.1)
    patch.setattr(tracking, "holder", holder, raising=False)  # lives as long as the test


def foreign(results: Path, patch: pytest.MonkeyPatch) -> None:
    (results / "mlflow.db").unlink()
    with contextlib.closing(sqlite3.connect(results / "mlflow.db")) as store:
        for name in ("experiments", "runs", "alembic_version"):
            store.execute(f"CREATE TABLE {name} (version_num)")
        store.commit()


def no_mlflow(results: Path, patch: pytest.MonkeyPatch) -> None:
    (results / "mlflow.db").unlink()
    (results / "broken").mkdir()
    (results / "broken" / "mlflow.py").write_text("raise ImportError('it is broken')")
    patch.setenv("PYTHONPATH", str(results / "broken"))


def full_disk(results: Path, patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr("shutil.copyfile", fail)


def unwritable(results: Path, patch: pytest.MonkeyPatch) -> None:
    (results / "mlartifacts").write_text("a file where a folder should be")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lock, "held by another program"),
        (foreign, "cannot be opened"),
        (no_mlflow, "it is broken"),
        (full_disk, "No space left on device"),
        (unwritable, "mlartifacts"),
    ],
)
def test_whatever_mlflow_fails_at_is_one_line_and_the_next_sync_catches_up(
    fault: Callable[[Path, pytest.MonkeyPatch], None],
    said: str,
    results: Path,
    study: StudyResults,
    monkeypatch: pytest.MonkeyPatch,
    blank: bytes,
) -> None:
    fault(results, monkeypatch)
    with pytest.raises(UserError) as caught:
        tracking.sync(results, study, table.write(study))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    if holder := getattr(tracking, "holder", None):
        holder.close()
    monkeypatch.undo()
    if (results / "mlartifacts").is_file():
        (results / "mlartifacts").unlink()
    if fault in (foreign, no_mlflow):
        (results / "mlflow.db").write_bytes(blank)
    assert tracking.sync(results, reread(study), table.write(study))
    assert runs(client(results))["full/seed0"].info.status == "FINISHED"


def test_a_driver_says_once_what_mlflow_fails_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a data base" * 1000)
    fakes.write_cells(tmp_path, "ablation_table2", [fakes.cell("full", 0, fakes.chain("full", 0))])
    tracker = outputs.Tracker(Place(tmp_path, "ablation_table2", "smoke"))
    lines: list[str] = []
    tracker.conclude(lines.append)
    tracker.conclude(lines.append)
    (line,) = lines
    assert line.startswith("warning: MLflow is not up to date: ")
    assert "mlflow.db cannot be opened" in line
    assert line.endswith("the next sync catches up")


def test_a_pruned_cell_and_what_was_trained_for_it_alone_are_killed(results: Path) -> None:
    kept, given_up = fakes.chain("full", 0), fakes.chain("full", 1)
    fakes.finish(results, kept, 0.5, 0)
    RunDir.create(results / "runs", given_up, RuntimeConfig())
    (var,) = [stage for stage in given_up.chain() if stage.kind == "var"]
    RunDir.open(results / "runs" / var.name).update(state="interrupted", step=40)
    why = {"pruned": "by median at step 40, with 5.9"}
    cells = [fakes.cell("full", 0, kept), fakes.cell("full", 1, given_up) | why]
    study = fakes.write_cells(results, "ablation_table2", cells)
    tracking.sync(results, study)
    found = runs(client(results))
    assert found["full/seed1"].info.status == "KILLED"
    assert found["full/seed1"].data.tags["state"] == "pruned: by median at step 40, with 5.9"
    assert found["var full/seed1"].info.status == "KILLED"
    assert found["tokens (2 cells)"].info.status == "FINISHED"  # the other cell needs it, too
    assert not tracking.sync(results, reread(study))
