"""A stage kind of one's own on the real controller: its jobs find the module, though nothing there says where it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fvar.rundir import read_status
from slurm.loopback import Cluster
from tests.slurm.driving import ROOT
from tests.test_plugins import TOY


def test_a_plugins_stages_run_as_jobs_to_their_table(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "toy_sums.py").write_text(TOY)
    results = tmp_path / "results"
    command = [
        sys.executable, "-m", "studies.run", "sums", "--plugin", "toy_sums", "--results", str(results),
        "--cluster", "slurm", "--profile", str(ROOT / "slurm" / "loopback.toml"), "--set", "slurm.sum.packing=2",
        "--set", "slurm.sum.gather=0",
    ]  # fmt: skip
    environment = {**cluster.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path / "mine", env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 cells done" in done.stdout
    runs = [path.parent for path in (results / "runs").glob("*/config.json")]
    assert {read_status(path).attempts for path in runs} == {1}
    attempts = [json.loads((path / "attempts.jsonl").read_text()) for path in runs]
    assert {attempt["plugin"] for attempt in attempts} == {"toy_sums"}
    (code,) = (results / "slurm" / "code").iterdir()
    assert (code / "toy_sums.py").read_text() == TOY
