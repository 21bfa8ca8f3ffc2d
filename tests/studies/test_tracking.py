"""MLflow mirrors the run directories: complete, without duplicates, whatever happened before."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from analysis import table
from analysis.results import StudyResults
from fvar.errors import UserError
from fvar.machine import atomic
from studies import ablation_table2
from studies.engine import outputs
from studies.presets import PRESETS
from studies.study import Context
from studies.tracking import sync as tracking
from studies.tracking.serve import ui
from tests import fakes

if TYPE_CHECKING:
    from mlflow.entities import Run

pytest.importorskip("mlflow")


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An initialised store, made once: its migrations take seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    tracking.open_client(folder)
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def results(tmp_path: Path, blank: bytes) -> Path:
    (tmp_path / "mlflow.db").write_bytes(blank)
    return tmp_path


@pytest.fixture
def study(results: Path) -> StudyResults:
    """Two variants, one seed; the second is unfinished."""
    stages = {variant: fakes.chain(variant, 0) for variant in ("full", "baseline")}
    fakes.finish(results, stages["full"], 0.5, 0)
    return fakes.write_cells(results, "ablation_table2", [fakes.cell(name, 0, stage) for name, stage in stages.items()])


def reread(study: StudyResults) -> StudyResults:
    return StudyResults.read(study.folder.parent.parent, study.study, study.preset)


def runs(results: Path, experiment: str = "ablation_table2/smoke") -> dict[str, Run]:
    client = tracking.open_client(results)
    known = client.get_experiment_by_name(experiment)
    assert known is not None
    found = client.search_runs([known.experiment_id])
    names = [run.info.run_name for run in found]
    assert len(names) == len(set(names)), f"a cell has two runs: {names}"
    return dict(zip(names, found, strict=True))


def history(results: Path, run: Run, key: str) -> list[tuple[int, float]]:
    client = tracking.open_client(results)
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key))


def test_each_cell_is_a_run_with_settings_history_row_and_figures(results: Path, study: StudyResults) -> None:
    assert tracking.sync(results, study, table.write(study))
    found = runs(results)
    assert set(found) == {"full/seed0", "baseline/seed0", "Table 2: ablation"}
    run = found["full/seed0"]
    assert run.data.params["var.train.steps"] == str(fakes.STEPS)
    assert run.data.params["tokens.tokenizer.pyramid.rho_max"] == "12.0"
    assert run.data.metrics["table/fid"] == study.cells[0].score("fid")
    assert "table/is" not in run.data.metrics
    assert run.info.status == "FINISHED"
    assert found["baseline/seed0"].info.status == "SCHEDULED"
    logged = [(record["step"], record["cross_entropy"]) for record in study.cells[0].metrics("train")]
    assert history(results, run, "var/train/cross_entropy") == logged
    artifacts = tracking.open_client(results).list_artifacts(found["Table 2: ablation"].info.run_id)
    assert [artifact.path for artifact in artifacts] == ["table.csv", "table.md", "table.tex"]
    assert (results / "mlartifacts" / "ablation_table2" / "smoke").is_dir()


def test_a_second_sync_of_the_same_results_touches_nothing(results: Path, study: StudyResults) -> None:
    assert tracking.sync(results, study)
    before = (results / "mlflow.db").stat().st_mtime_ns
    started = time.perf_counter()
    assert not tracking.sync(results, reread(study))
    assert time.perf_counter() - started < 0.5
    assert (results / "mlflow.db").stat().st_mtime_ns == before


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
    before = runs(results)["full/seed0"]
    var = study.cells[0].chain["var"]
    var.log_metrics(fakes.STEPS + 10, {"cross_entropy": 3.25})
    assert tracking.sync(results, reread(study))
    after = runs(results)["full/seed0"]
    assert after.info.run_id == before.info.run_id
    steps = [step for step, _ in history(results, after, "var/train/cross_entropy")]
    assert steps == list(range(0, fakes.STEPS + 11, 10))


def test_a_resume_that_repeats_steps_leaves_one_value_per_step(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    var = study.cells[0].chain["var"]
    var.forget_metrics_after(100)
    for step in (110, 120):
        var.log_metrics(step, {"cross_entropy": 1.0})
    tracking.sync(results, reread(study))
    found = history(results, runs(results)["full/seed0"], "var/train/cross_entropy")
    assert [step for step, _ in found] == list(range(0, 121, 10))
    assert found[-1] == (120, 1.0)


def test_a_driver_killed_inside_a_sync_leaves_no_duplicates(
    results: Path, study: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the metrics were written, before that was noted."""
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_set_state", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(tracking, "SYNCED", "forgotten")
        with pytest.raises(KeyboardInterrupt):
            tracking.sync(results, study)
    tracking.sync(results, reread(study))
    steps = [step for step, _ in history(results, runs(results)["full/seed0"], "var/train/cross_entropy")]
    assert steps == list(range(0, fakes.STEPS + 1, 10))


def test_a_changed_configuration_is_another_run(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    stage = fakes.chain("full", 0, rho_max=6.0)
    fakes.finish(results, stage, 0.7, 0)
    changed = fakes.write_cells(results, "ablation_table2", [fakes.cell("full", 0, stage)])
    tracking.sync(results, changed)
    client = tracking.open_client(results)
    experiment = client.get_experiment_by_name("ablation_table2/smoke")
    assert experiment is not None
    radii = [
        run.data.params["tokens.tokenizer.pyramid.rho_max"]
        for run in client.search_runs([experiment.experiment_id])
        if run.info.run_name == "full/seed0"
    ]
    assert sorted(radii) == ["12.0", "6.0"]


def test_a_changed_param_rebuilds_the_run_instead_of_failing(results: Path, study: StudyResults) -> None:
    """MLflow refuses to log a parameter twice with different values."""
    tracking.sync(results, study)
    body = (study.folder / "cells.json").read_text()
    (study.folder / "cells.json").write_text(body.replace('"params": {}', '"params": {"note": "a"}'))
    tracking.sync(results, reread(study))
    (study.folder / "cells.json").write_text(body.replace('"params": {}', '"params": {"note": "b"}'))
    tracking.sync(results, reread(study))
    assert runs(results)["full/seed0"].data.params["cell.note"] == "b"


def test_everything_can_be_rebuilt_from_the_run_directories(results: Path, study: StudyResults, blank: bytes) -> None:
    tracking.sync(results, study)
    before = {name: (run.data.params, run.data.metrics, run.info.status) for name, run in runs(results).items()}
    other = results.rename(results.with_name("moved"))
    (other / "mlflow.db").write_bytes(blank)
    moved = StudyResults.read(other, study.study, study.preset)
    (other / "mlflow-synced.json").unlink()
    assert tracking.sync(other, moved)
    assert {name: (run.data.params, run.data.metrics, run.info.status) for name, run in runs(other).items()} == before


def test_infinity_is_not_stored_as_a_huge_number(results: Path, study: StudyResults) -> None:
    study.cells[0].chain["var"].log_metrics(210, {"cross_entropy": math.inf})
    tracking.sync(results, reread(study))
    run = runs(results)["full/seed0"]
    values = [value for step, value in history(results, run, "var/train/cross_entropy") if step == 210]
    assert len(values) == 1
    assert math.isnan(values[0])
    assert run.data.tags["non_finite"] == "var/train/cross_entropy is inf at step 210"


def test_six_cells_sync_in_seconds(results: Path) -> None:
    """0.9 s measured on two idle cores; the margin is for busy ones."""
    study = fakes.ablation(results, seeds=1)
    started = time.perf_counter()
    tracking.sync(results, study)
    assert time.perf_counter() - started < 6


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
    summary = runs(results)["Table 2: ablation"].info.run_id
    names = [artifact.path for artifact in tracking.open_client(results).list_artifacts(summary)]
    assert names == ["table.csv", "table.md", "table.tex"]
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
    assert not tracking.moved(first)
    before = tree(first)
    if how == "copied":
        shutil.copytree(first, second)
    else:
        first.rename(second)
    here = StudyResults.read(second, study.study, study.preset)
    own = here.folder / "table.md"
    own.write_text("the copy's own table")
    monkeypatch.setattr(tracking, "_make", lambda database: database.write_bytes(blank))
    assert tracking.moved(second)
    assert tracking.sync(second, here, [own])
    assert not tracking.moved(second)
    summary = runs(second)["Table 2: ablation"]
    assert summary.info.artifact_uri
    assert summary.info.artifact_uri.startswith(second.as_uri())
    shown = tracking.open_client(second).download_artifacts(summary.info.run_id, "table.md", str(tmp_path))
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
    assert not tracking.moved(link)


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
    patch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)


def newer(results: Path, patch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(sqlite3.connect(results / "mlflow.db")) as store:
        store.execute("UPDATE alembic_version SET version_num = 'fromthefuture'")
        store.commit()


def no_mlflow(results: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "mlflow.tracking", None)


def no_home(results: Path, patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    patch.setattr("mlflow.tracking.MlflowClient", fail)


def full_disk(results: Path, patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr("mlflow.tracking.MlflowClient.log_batch", fail)


def unwritable(results: Path, patch: pytest.MonkeyPatch) -> None:
    (results / "mlartifacts").write_text("a file where a folder should be")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lock, "held by another program"),
        (foreign, "cannot be opened"),
        (newer, "cannot be opened"),
        (no_mlflow, "MLflow cannot be imported"),
        (no_home, "home directory"),
        (full_disk, "No space left on device"),
        (unwritable, "mlartifacts"),
    ],
)
def test_whatever_mlflow_fails_at_costs_a_line_and_the_study_goes_on(
    fault: Callable[[Path, pytest.MonkeyPatch], None],
    said: str,
    results: Path,
    study: StudyResults,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [file.name for file in table.write(study)]
    atomic.write_json(study.folder / outputs.STAMP, {"files": files})
    fault(results, monkeypatch)
    lines: list[str] = []
    outputs.track(Context(ablation_table2.STUDY, PRESETS["smoke"], results=results), lines.append)
    (line,) = lines
    assert line.startswith("warning: MLflow is not up to date: ")
    assert said in line
    assert "\n" not in line


def test_the_ui_answers_on_this_machine_only_and_stops_on_ctrl_c(results: Path, study: StudyResults) -> None:
    tracking.sync(results, study)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from pathlib import Path; from studies.tracking.serve import ui; ui(Path({str(results)!r}), {port})"
    ui = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert ui.stdout
        assert ui.stdout.readline() == "starting MLflow ...\n"
        assert f"http://127.0.0.1:{port}" in ui.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            assert answer.status == 200
        ui.send_signal(signal.SIGINT)
        assert ui.wait(20) == 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    finally:
        if ui.poll() is None:
            os.kill(ui.pid, signal.SIGKILL)


def test_the_ui_says_what_to_run_first_and_that_a_port_is_taken(tmp_path: Path, results: Path) -> None:
    with pytest.raises(UserError, match="run a study first"):
        ui(tmp_path / "nowhere")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="choose another with --port"):
            ui(results, taken.getsockname()[1])
