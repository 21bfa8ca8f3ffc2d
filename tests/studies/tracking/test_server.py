"""A tracking server on this machine: what it is told is what the store beside the results is told; it may be down."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import table
from analysis.results import StudyResults
from fvar.errors import UserError
from studies.__main__ import main as studies
from studies.tracking import server
from studies.tracking import sync as tracking
from studies.tracking.store import address_of_server
from tests import fakes
from tests.studies.tracking.serving import Served, free_port
from tests.studies.tracking.stores import client, history, reread, runs

pytest.importorskip("mlflow")
POSTGRES = Path("/usr/lib/postgresql")


def check_a_study_on(served: Served, results: Path, study: StudyResults) -> None:
    """Everything the local store would hold; nothing twice after more lines, a resume and a lost journal."""
    name = f"{study.study}/{study.preset}"
    tables = table.write(study)
    assert tracking.sync(results, study, tables, served.uri)
    assert not tracking.sync(results, reread(study), tables, served.uri)
    tracking.sync(results, study, tables)
    here, there = runs(client(results), name), runs(served.client(), name)
    assert set(here) == set(there)
    for run_name, run in here.items():
        other = there[run_name]
        assert run.data.params == other.data.params
        assert run.data.metrics == other.data.metrics
        assert (run.info.status, run.info.end_time) == (other.info.status, other.info.end_time), run_name
        ours, theirs = ({key: tags[key] for key in tags if "." not in key} for tags in (run.data.tags, other.data.tags))
        assert ours == theirs
    assert there["var full/seed0"].data.tags["mlflow.parentRunId"] == there["full/seed0"].info.run_id
    assert there["scores full/seed0"].inputs
    assert len(there["scores full/seed0"].inputs.dataset_inputs) == 1
    summary = there["Table 2: ablation"].info.run_id
    read = served.client().download_artifacts(summary, "table.md", tempfile.mkdtemp(dir=results))
    assert Path(read).read_text() == (study.folder / "table.md").read_text()

    var = study.cells[0].chain["var"]
    var.forget_metrics_after(100)
    var.log_metrics(110, {"cross_entropy": 1.0})
    tracking.sync(results, reread(study), tables, served.uri)
    for journal in results.glob(".mlflow-*.json"):
        journal.unlink()
    assert not tracking.sync(results, reread(study), tables, served.uri)
    records = [(record["step"], record["cross_entropy"]) for record in var.metrics("train")]
    run = runs(served.client(), name)["var full/seed0"]
    assert history(served.client(), run, "train/cross_entropy") == records


def test_a_server_is_told_what_the_store_beside_the_results_is(
    served: Served, results: Path, study: StudyResults
) -> None:
    check_a_study_on(served, results, study)


def test_a_changed_parameter_makes_the_run_again(served: Served, results: Path) -> None:
    stage = fakes.chain("full", 0)
    fakes.finish(results, stage, 0.5, 0)
    for note in ("a", "b"):
        study = fakes.write_cells(results, "notes", [fakes.cell("full", 0, stage, note=note)])
        tracking.sync(results, study, uri=served.uri)
        assert runs(served.client(), "notes/smoke")["full/seed0"].data.params["cell.note"] == note
    tracking.sync(results, study, uri=served.uri)
    found = runs(served.client(), "notes/smoke")
    assert found["var full/seed0"].data.tags["mlflow.parentRunId"] == found["full/seed0"].info.run_id


def test_the_address_comes_from_the_variable_and_from_the_command(
    served: Served, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = fakes.chain("full", 0)
    fakes.finish(results, stage, 0.5, 0)
    for study in ("by_variable", "by_command"):
        fakes.write_cells(results, study, [fakes.cell("full", 0, stage)])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    assert studies(["sync", "by_variable", "--results", str(results)]) == 0
    assert studies(["ui", "--results", str(results)]) == 0
    assert f"the runs are on the MLflow server {served.uri}" in capsys.readouterr().out
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert studies(["sync", "by_command", "--results", str(results), "--tracking-uri", served.uri]) == 0
    assert "full/seed0" in runs(served.client(), "by_variable/smoke")
    assert "full/seed0" in runs(served.client(), "by_command/smoke")


@pytest.mark.parametrize("request_number", [5, 12, 20, 30, 60])
def test_a_server_lost_in_a_sync_gets_everything_from_the_next(
    request_number: int, served: Served, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a request that came through, and whose answer was lost."""
    stage, name = fakes.chain("full", 0), f"lost{request_number}"
    fakes.finish(results, stage, 0.5, 0)
    study = fakes.write_cells(results, name, [fakes.cell("full", 0, stage)])
    asked = 0
    once = server.Server._once

    def lose(self: server.Server, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        nonlocal asked
        asked += 1
        answer = once(self, method, path, data) if asked <= request_number else None
        if answer is None or asked == request_number:
            raise ConnectionResetError("lost")
        return answer

    monkeypatch.setattr(server.Server, "_once", lose)
    monkeypatch.setattr(server, "PAUSE", 0.0)
    with pytest.raises(UserError, match="does not answer"):
        tracking.sync(results, study, (), served.uri)
    monkeypatch.undo()
    assert tracking.sync(results, reread(study), (), served.uri)
    assert not tracking.sync(results, reread(study), (), served.uri)
    run = runs(served.client(), f"{name}/smoke")["var full/seed0"]
    records = [(record["step"], record["cross_entropy"]) for record in study.cells[0].metrics("train")]
    assert history(served.client(), run, "train/cross_entropy") == records


class Broken(http.server.BaseHTTPRequestHandler):
    """A server that answers everything by `status`, after `wait` seconds."""

    status, wait, body = 500, 0.0, b"oops"

    def do_GET(self) -> None:
        time.sleep(self.wait)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def broken(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (Broken,), request.param)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"status": 500}, "refuses (500"),
        ({"status": 401, "body": b""}, "MLFLOW_TRACKING_USERNAME"),
        ({"status": 404, "body": b"<html>"}, "it has no MLflow at this address; give the server's own"),
        ({"status": 200, "body": b"<html>"}, "is the address right?"),
        ({"status": 200, "wait": 3.0}, "does not answer (TimeoutError"),
        ({"status": 403, "body": b'{"error_code": "PERMISSION_DENIED", "message": "not\\nyours"}'}, "(403: not)"),
    ],
    indirect=["broken"],
)
def test_a_server_that_is_slow_or_refuses_is_one_line(
    broken: str, said: str, results: Path, study: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PAUSE", 0.0)
    monkeypatch.setattr(server, "PATIENCE", 0.2)
    with pytest.raises(UserError) as caught:
        tracking.sync(results, study, (), broken)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_costs_the_watcher_a_line(
    results: Path, study: StudyResults, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "PAUSE", 0.0)

    def stop(seconds: float) -> None:
        if seconds == 0.5:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    command = ["sync", "--watch", "--every", "0.5", "--results", str(results)]
    assert studies([*command, "--tracking-uri", f"http://127.0.0.1:{free_port()}"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("not now: the MLflow server http://127.0.0.1:")


@pytest.mark.parametrize("uri", ["postgresql://u:secret@h/db", "http://", "http://h:port", "databricks", "file:/tmp/x"])
def test_an_address_that_is_not_a_servers_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(UserError, match="is not the address of an MLflow server") as caught:
        address_of_server(uri)
    assert "secret" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A PostgreSQL on a free port of 127.0.0.1: the URL of an empty data base, and where its driver lies."""
    tools = sorted(POSTGRES.glob("*/bin/initdb"))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    compiled = f"psycopg2/_psycopg.cpython-{python.replace('.', '')}-*"
    drivers = [found.parent for found in Path("/usr/lib/python3/dist-packages").glob(compiled)]
    if not tools or not drivers:
        pytest.skip(f"needs Debian's postgresql, and its python3-psycopg2 built for Python {python}")
    folder, port = Path(tempfile.mkdtemp(prefix="fvar-postgres-")), free_port()
    path = folder / "python"  # with the driver alone: the folder it lies in is full of other packages
    path.mkdir()
    (path / "psycopg2").symlink_to(drivers[0])
    shutil.chown(folder, "postgres")
    folder.chmod(0o755)

    def ask(*words: str, check: bool = True) -> None:
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words]
        subprocess.run(command, check=check, stdout=subprocess.DEVNULL, cwd=folder)

    bins, data = tools[-1].parent, folder / "data"
    ask(str(bins / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    ask(str(bins / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        ask(str(bins / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "mlflow")
        yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/mlflow", str(path)
    finally:
        ask(str(bins / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop", check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.postgres
def test_a_server_on_postgresql(
    postgres: tuple[str, str], results: Path, study: StudyResults, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store, path = postgres
    served = Served(tmp_path_factory.mktemp("server"), store, path)
    try:
        served.start()
        check_a_study_on(served, results, study)
    finally:
        served.stop()
