"""Real stages, as small as they can be, through the real controller: Table 2, interrupted training, two nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fvar.rundir import RunDir
from slurm.loopback import Cluster
from tests import shortened
from tests.slurm.driving import ROOT, ToyStudy, wait_until


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_table_2_runs_end_to_end(cluster: Cluster, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command = [
        sys.executable, "-m", "studies.run", "ablation_table2", "--results", str(results),
        "--cluster", "slurm", "--profile", "slurm/loopback.toml", *shortened.ARGUMENTS,
    ]  # fmt: skip
    environment = {**cluster.environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=890)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 cells done" in done.stdout + done.stderr
    runs = [RunDir.open(path.parent) for path in results.glob("runs/*/config.json")]
    assert len(runs) == 29
    assert {run.status.state for run in runs} == {"done"}
    assert {run.status.attempts for run in runs} == {1}
    (table,) = results.glob("ablation_table2/*/table.md")
    assert "w/o high-frequency teacher" in table.read_text()


TRAINING = ("--set", "runtime.threads=1", "--set", "runtime.checkpoint_steps=10", "--set", "runtime.log_every=1")


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A tiny training that nothing interrupted, in the driver's own process."""
    study = ToyStudy(cluster, tmp_path_factory.mktemp("undisturbed"), cells=1, real=True)
    assert study.run("--cluster", "inline", *TRAINING) == 0, study.output()
    return study.first(0)


@pytest.mark.parametrize("command", [("scontrol", "requeue"), ("scancel", "--signal=USR2")], ids=["requeue", "USR2"])
def test_an_interrupted_training_ends_in_the_same_weights(
    toy: Callable[..., ToyStudy], undisturbed: RunDir, command: tuple[str, ...]
) -> None:
    study = toy(cells=1, real=True)
    driver = study.start(*TRAINING)
    wait_until(lambda: study.runs() and any((study.runs()[0].path / "checkpoints").glob("*")), 120)
    run, interrupted = study.first(0), time.time()
    done = study.cluster.client(*command, study.job_id(run))
    assert done.returncode == 0, done.stderr
    assert driver.wait(200) == 0, study.output()
    assert run.status.attempts == 2
    assert study.submitted() == 1
    assert float(str(losses(run)[0]["time"])) < interrupted  # continued from the checkpoint, not begun again
    assert [{**record, "time": 0} for record in losses(run)] == [{**r, "time": 0} for r in losses(undisturbed)]
    assert (run.path / "model.safetensors").read_bytes() == (undisturbed.path / "model.safetensors").read_bytes()


def test_trainings_side_by_side_in_one_job_end_in_the_weights_of_each_alone(
    toy: Callable[..., ToyStudy], undisturbed: RunDir
) -> None:
    study = toy(cells=2, real=True)
    packed = ("--set", "slurm.packing=2", "--set", "slurm.side_by_side=2", "--set", "slurm.memory=3000M")
    early = ("--set", "runtime.checkpoint_steps=2")  # so that both have one long before either ends
    driver = study.start(*TRAINING, *packed, *early)
    wait_until(lambda: len(study.runs()) == 2, 120)
    wait_until(lambda: all(any((run.path / "checkpoints").glob("*")) for run in study.runs()), 300)
    study.cluster.client("scancel", "--signal=USR2", study.job_id(study.first(0)))
    assert driver.wait(400) == 0, study.output()
    assert study.submitted() == 1
    assert [study.first(number).status.attempts for number in range(2)] == [2, 2]
    assert (
        study.first(0).path.joinpath("model.safetensors").read_bytes()
        == (undisturbed.path / "model.safetensors").read_bytes()
    )


def losses(run: RunDir) -> list[dict[str, object]]:
    """All recorded metrics but the speed."""
    return [record for record in run.metrics() if record["split"] != "speed"]


def test_one_stage_trains_on_both_nodes_at_once(toy: Callable[..., ToyStudy]) -> None:
    study = toy(cells=1, real=True)
    arguments = ("--set", "slurm.nodes=2", "--set", "tokenizer.train.steps=4", "--set", "runtime.threads=1")
    assert study.run(*arguments, timeout=200) == 0, study.output()
    (run,) = study.runs()
    (attempt,) = (run.path / "attempts.jsonl").read_text().splitlines()
    assert json.loads(attempt)["ranks"] == 2
