"""Real stages, as small as they can be, through the real controller: Table 2, interrupted training, two nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fvar.rundir import RunDir
from slurm.loopback import Cluster
from tests.slurm.driving import ROOT

# 16 px, two scales, four channels: what is tested here is how stages are run, not what they learn.
TINY = (
    "data.image_size=16", "tokenizer.pyramid.patch_nums=[1,2]", "tokenizer.autoencoder.ch=32",
    "tokenizer.autoencoder.ch_mult=[1,1,1,1]", "tokenizer.autoencoder.num_res_blocks=1",
    "train.batch_size=8", "train.eval_images=16", "runtime.threads=1",
)  # fmt: skip
MODEL = ("var.transformer.depth=2", "var.transformer.width=32", "var.transformer.heads=2", "var.teacher.head_dim=8")


def drive(cluster: Cluster, results: Path, *arguments: str, settings: tuple[str, ...] = TINY) -> subprocess.Popen[str]:
    """Start a driver of the ablation study on the loopback cluster, or elsewhere if the arguments say so."""
    changes = [word for setting in settings for word in ("--set", setting)]
    command = [
        sys.executable, "-m", "studies.run", "ablation_table2", "--results", str(results),
        "--profile", "slurm/loopback.toml", "--cluster", "slurm", *changes, *arguments,
    ]  # fmt: skip
    results.mkdir(parents=True)
    with open(results / "driver.out", "w") as out:
        environment = {**cluster.environment, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)


def printed(results: Path) -> str:
    return (results / "driver.out").read_text()


def tokenizer(results: Path) -> RunDir:
    """The one run directory of a study reduced to its first tokenizer."""
    (path,) = results.glob("runs/tokenizer-*")
    return RunDir.open(path)


@pytest.mark.timeout(900)
def test_all_of_table_2_runs_end_to_end(cluster: Cluster, tmp_path: Path) -> None:
    small = ("train.steps=2", "samples.count=9", "scores.reference_count=9")
    driver = drive(cluster, tmp_path / "results", settings=(*TINY, *MODEL, *small))
    assert driver.wait(850) == 0, printed(tmp_path / "results")
    runs = [RunDir.open(path.parent) for path in (tmp_path / "results").glob("runs/*/config.json")]
    assert len(runs) == 29
    assert {run.status.state for run in runs} == {"done"}
    assert all(len((run.path / "attempts.jsonl").read_text().splitlines()) == 1 for run in runs)
    assert "6 of 6 cells done" in printed(tmp_path / "results")
    (table,) = (tmp_path / "results").glob("ablation_table2/*/table.md")
    assert "w/o high-frequency teacher" in table.read_text()
