"""What machines do to a training: a full disk, a rank that dies. It ends with one line and goes on afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fvar.config import Stage
from fvar.run import execute
from fvar.rundir import RunDir
from fvar.training.checkpoint import Checkpoints
from tests.training import tiny
from tests.training.processes import (
    execute_stage,
    last_rank_dies,
    last_rank_meets_a_full_disk,
    records,
    run_ranks,
    start,
)


def stage() -> Stage:
    train = dataclasses.replace(tiny.TRAIN, steps=20, eval_every=10)
    return tiny.var_stage(tiny.TEACHER, train=train)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = tiny.make_run(tmp_path_factory.mktemp("undisturbed"), stage())
    execute(run.path)
    return run


# --------------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 80 MiB: a stage wants 64 MiB free to begin with."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or (tried := subprocess.run(mount, capture_output=True, text=True)).returncode:
        why = "there is no mount command" if shutil.which("mount") is None else tried.stderr.strip()
        pytest.skip(f"a small file system cannot be mounted here, which takes root: {why}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Leave `leave` bytes free."""
    with contextlib.suppress(OSError), open(folder / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    os.truncate(folder / "ballast", (folder / "ballast").stat().st_size - leave)


@pytest.mark.parametrize("leave", [0, 256 << 10], ids=["no byte left", "room for half a checkpoint"])
def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path, undisturbed: RunDir, leave: int
) -> None:
    run = tiny.make_run(small_disk, stage(), checkpoint_steps=5)
    said = tmp_path / "terminal"
    process = start(execute_stage, run.path, 12, functools.partial(fill, small_disk, leave), said)
    process.join(60)
    assert process.exitcode == 1
    (line,) = [line for line in said.read_text().splitlines() if line]
    assert line.startswith(f"error: {run.name} stopped: the disk is full (")
    assert "run it again" in line
    if leave:  # without a byte the status stays as it was, and whoever reads it finds the process gone
        assert (run.status.state, run.status.disk_trouble) == ("interrupted", True)

    checkpoint, note = Checkpoints(run.path / "checkpoints", keep=2).load()
    assert checkpoint is not None
    assert (checkpoint.step, note) == (10, "")
    for name in ("config.json", "status.json", "provenance.json"):
        json.loads((run.path / name).read_text())

    (small_disk / "ballast").unlink()
    execute(run.path)
    assert records(run.path) == records(undisturbed.path)
    assert (run.path / "model.safetensors").read_bytes() == (undisturbed.path / "model.safetensors").read_bytes()


# ---------------------------------------------------------------------------------------------------- a rank that dies


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_rank_that_dies_ends_the_others_with_a_line_and_the_run_goes_on(
    tmp_path: Path, undisturbed: RunDir, parallel: str
) -> None:
    run = tiny.make_run(tmp_path / "runs", stage(), checkpoint_steps=5, parallel=parallel)
    said = tmp_path / "terminal"
    assert run_ranks(2, execute_stage, run.path, 12, last_rank_dies, said, patience=60) == [1, 9]
    expected = f"error: {run.name} failed: rank 0 lost another of the 2 ranks, whose own output says why it ended"
    assert expected in said.read_text()
    assert (run.status.state, run.locked) == ("interrupted", False)

    assert run_ranks(2, execute_stage, run.path) == [0, 0]
    assert "continued from checkpoint 10" in (run.path / "log").read_text()
    for ours, theirs in zip(records(run.path), records(undisturbed.path), strict=True):
        assert ours.pop("split") == theirs.pop("split")
        assert ours == {key: pytest.approx(value, abs=1e-5) for key, value in theirs.items()}


def test_a_full_disk_that_any_rank_meets_is_trouble_and_no_loss(tmp_path: Path) -> None:
    run = tiny.make_run(tmp_path / "runs", stage(), checkpoint_steps=5)
    said = tmp_path / "terminal"
    assert run_ranks(2, execute_stage, run.path, 12, last_rank_meets_a_full_disk, said, patience=60) == [1, 1]
    assert f"error: {run.name} stopped: the disk is full (/scratch/cache)" in said.read_text()
    assert (run.status.state, run.status.disk_trouble) == ("interrupted", True)
    assert run.status.error == "the disk is full (/scratch/cache)"
