"""A store, a server, and a study to write into them."""

from __future__ import annotations

import threading
import wsgiref.simple_server
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.results import StudyResults
from studies.tracking import local
from tests import fakes
from tests.studies.tracking.serving import Quiet, Served


@pytest.fixture
def results(tmp_path: Path, blank: bytes) -> Path:
    (tmp_path / local.DATABASE).write_bytes(blank)
    return tmp_path


@pytest.fixture
def study(results: Path) -> StudyResults:
    """Two variants, one seed; the second is unfinished."""
    stages = {variant: fakes.chain(variant, 0) for variant in ("full", "baseline")}
    fakes.finish(results, stages["full"], 0.5, 0)
    return fakes.write_cells(results, "ablation_table2", [fakes.cell(name, 0, stage) for name, stage in stages.items()])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, blank: bytes) -> Iterator[Served]:
    """MLflow's own server in a thread of this process: to start one takes it ten seconds of processor time."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "server.db").write_bytes(blank)
    made = Served(folder, f"sqlite:///{folder}/server.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it for its process, which is that of other tests, too
        patch.delenv("MLFLOW_TRACKING_URI")
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", made.store)
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(folder / "artifacts"))
        patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        from mlflow.server import app

        web = wsgiref.simple_server.make_server("127.0.0.1", made.port, app, handler_class=Quiet)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield made
        web.shutdown()
        web.server_close()
