"""`python -m studies ui`: MLflow's pages on this machine alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from analysis.results import StudyResults
from fvar.errors import UserError
from studies.tracking import sync as tracking
from studies.tracking.serve import ui

pytest.importorskip("mlflow")


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
        assert ui.stdout.readline().startswith(
            f"  ablation_table2/smoke: http://127.0.0.1:{port}/#/experiments/1/runs?"
        )
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
