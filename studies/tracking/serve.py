"""MLflow's web pages over the store that `studies.tracking.sync` keeps, on this machine alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from fvar.errors import UserError
from studies.database import address, complaint
from studies.tracking import describe
from studies.tracking.local import DATABASE, experiments
from studies.tracking.model import MODELS
from studies.tracking.store import QUIET


def ui(results: Path, port: int = 5000) -> None:
    """Serve MLflow's web pages on 127.0.0.1 until Ctrl-C. Raises `UserError` without a store or with the port taken."""
    database = results.resolve() / DATABASE
    if not database.exists():
        raise UserError(f"{database} does not exist; run a study first, e.g. `python -m studies.run ablation_table2`")
    if reason := complaint(database):
        raise UserError(f"{database} cannot be opened ({reason}); `python -m studies sync` says more")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from None
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", address(database)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    environment = os.environ | QUIET | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # it would start 8 processes
    print("starting MLflow ...", flush=True)
    server = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a plain `kill` must not leave the server behind
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(0.2)
        if server.poll() is None:
            print(f"MLflow: http://127.0.0.1:{port}  (Ctrl-C stops it)", flush=True)
            for number, name in experiments(database):
                print(f"  {name}: {describe.page(f'http://127.0.0.1:{port}', number)}", flush=True)
            if (results / MODELS).is_dir():
                print(f"  promoted models: http://127.0.0.1:{port}/#/models", flush=True)
        if server.wait():
            raise UserError(f"MLflow's server ended with status {server.returncode}; its message is above")
    except KeyboardInterrupt:
        print("stopped")
    finally:
        _stop(server)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, which live in a session of their own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sign)
            server.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
