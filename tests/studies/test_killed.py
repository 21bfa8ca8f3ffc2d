"""A stage is killed (kill -9), as by a lack of memory: status, table, MLflow and the live view all say so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis import cells, table
from analysis.cells import Place
from analysis.results import StudyResults
from fvar.config import RuntimeConfig, Stage
from fvar.rundir import RunDir, read_status
from studies.engine import commands
from studies.engine.live import View
from studies.engine.scheduler import Scheduler
from studies.study import Cell
from tests import fakes
from tests.studies.engine.test_scheduler import Recorder
from tests.studies.test_run import ROOT, TOY_PATH, wait_until
from tests.studies.tracking.stores import client

TOY = "import sys; from pathlib import Path; from fvar import run; run.execute(Path(sys.argv[1]))"


@pytest.fixture
def stage() -> Stage:
    return fakes.chain("baseline", 0)  # a chain without branches: while its first stage runs, nothing else is ready


@pytest.fixture
def killed(tmp_path: Path, stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    """A process at work on the first stage of the only cell; the test kills it."""
    fakes.write_cells(tmp_path, "ablation_table2", [fakes.cell("full", 0, stage)])
    first = next(stage.chain())
    RunDir.create(tmp_path / "runs", stage, RuntimeConfig())
    path = tmp_path / "runs" / first.name
    environment = os.environ | {"PYTHONPATH": TOY_PATH, "TOY_STEPS": "100000", "TOY_SECONDS": "0.02"}
    process = subprocess.Popen([sys.executable, "-c", TOY, str(path)], env=environment, cwd=ROOT)
    wait_until(lambda: read_status(path).step > 1)
    yield process
    process.kill()
    process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def shown_by_status(results: Path) -> str:
    (row,) = commands.status_rows(cells.read(Place(results, "ablation_table2", "smoke")))
    return row.state


def shown_by_table(results: Path) -> str:
    table.write(StudyResults.read(results, "ablation_table2", "smoke"))
    frame = table.tidy(StudyResults.read(results, "ablation_table2", "smoke"))
    text = (results / "ablation_table2" / "smoke" / "table.md").read_text()
    state = str(frame.loc[0, "state"])
    assert f"FVAR (full) is {state}: tokenizer-" in text
    return state


def shown_live(results: Path, stage: Stage) -> str:
    """By a driver that has no room to go on with anything."""
    busy: Any = Recorder("local", room=0)
    scheduler = Scheduler(results / "runs", busy, RuntimeConfig(), lambda *_: None, lambda name: busy)
    scheduler.add([stage])
    scheduler.step()
    view = View("title")
    view.nodes = scheduler.nodes
    view.follow([Cell("full", "FVAR", 0, {}, stage)])
    (row,) = view._rows()
    return row.state


def shown_by_mlflow(results: Path) -> tuple[str, str]:
    from studies.tracking import sync

    sync.sync(results, StudyResults.read(results, "ablation_table2", "smoke"))
    mlflow = client(results)
    experiment = mlflow.get_experiment_by_name("ablation_table2/smoke")
    assert experiment
    runs = {run.info.run_name: run for run in mlflow.search_runs([experiment.experiment_id])}
    return runs["full/seed0"].data.tags["state"].partition(":")[0], runs["full/seed0"].info.status


def test_everything_that_shows_a_state_says_running_then_interrupted(
    tmp_path: Path, stage: Stage, killed: subprocess.Popen[bytes]
) -> None:
    def shown() -> list[str]:
        return [shown_by_status(tmp_path), shown_by_table(tmp_path), shown_live(tmp_path, stage)]

    assert shown() == ["running"] * 3
    kill(killed)
    assert read_status(tmp_path / "runs" / next(stage.chain()).name).state == "running"  # it could not say otherwise
    assert shown() == ["interrupted"] * 3


def test_mlflow_learns_that_a_stage_was_killed_although_no_file_changed(
    tmp_path: Path,
    blank: bytes,
    killed: subprocess.Popen[bytes],
) -> None:
    (tmp_path / "mlflow.db").write_bytes(blank)
    assert shown_by_mlflow(tmp_path) == ("running", "RUNNING")
    kill(killed)
    assert shown_by_mlflow(tmp_path) == ("interrupted", "SCHEDULED")


def test_a_killed_stage_is_started_again_by_the_next_driver(
    tmp_path: Path, stage: Stage, killed: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_STEPS", "3")
    backend: Any = Recorder()
    scheduler = Scheduler(tmp_path / "runs", backend, RuntimeConfig(), lambda *_: None, lambda name: backend)
    scheduler.add([stage])
    scheduler.step()
    assert backend.submitted == []  # another process is at it
    kill(killed)
    scheduler.step()
    assert backend.submitted == [next(stage.chain()).name]
