"""Measuring beside the training: at the steps asked for, of the weights of that step, without changing a number."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fvar.config import TrainConfig
from fvar.errors import Interrupted
from fvar.rundir import RunDir
from fvar.training.checkpoint import Checkpoints
from fvar.training.loop import train
from fvar.training.probes import Cancelled, Probe
from tests.training.processes import fingerprint, records
from tests.training.toy import ToyTask, config, run_dir

EVERY = 15


def total(weights: dict[str, Tensor], stopping: threading.Event) -> dict[str, float]:
    return {"total": float(sum(value.double().sum() for value in weights.values()))}


def never(weights: dict[str, Tensor], stopping: threading.Event) -> dict[str, float]:
    """Takes until the training ends."""
    stopping.wait(60)
    raise Cancelled


def broken(weights: dict[str, Tensor], stopping: threading.Event) -> dict[str, float]:
    raise ValueError("no such network")


def probed(measure: object, stop_at: int = -1) -> ToyTask:
    class Signalled(ToyTask):
        def after_step(self, step: int, batches: Sequence[Tensor]) -> None:
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

    task = Signalled()
    task.probe = Probe(EVERY, "net", lambda: measure)  # type: ignore[arg-type, return-value]
    return task


def sampled(run: RunDir) -> dict[int, float]:
    return {record["step"]: record["total"] for record in run.metrics("sampled")}


def leftover(run: RunDir, step: int) -> None:
    """A snapshot that should not be there: it holds other weights than those of its step."""
    (run.path / "snapshots").mkdir(exist_ok=True)
    save_file({"weight": torch.full((8,), 1e6)}, run.path / "snapshots" / f"step-{step:08d}.safetensors")


def rest(run: RunDir) -> list[dict[str, object]]:
    return [record for record in records(run.path) if record["split"] != "sampled"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, str]:
    run, task = run_dir(tmp_path_factory.mktemp("plain"), config()), ToyTask()
    train(task, run, config())
    return run, fingerprint(task)


def test_training_is_the_same_with_and_without_a_probe(plain: tuple[RunDir, str], tmp_path: Path) -> None:
    run, task = run_dir(tmp_path, config()), probed(total)
    train(task, run, config())
    assert rest(run) == records(plain[0].path)
    assert fingerprint(task) == plain[1]


@pytest.mark.parametrize("settings", [config(), config(ema=0.9)], ids=["last", "averaged"])
def test_it_sees_the_weights_of_its_step(tmp_path: Path, settings: TrainConfig) -> None:
    run = run_dir(tmp_path, settings, checkpoint_steps=EVERY, keep_checkpoints=9)
    train(probed(total), run, settings)
    assert list(sampled(run)) == [15, 30, 45, 60]
    for step, value in sampled(run).items():
        saved = Checkpoints(run.path / "checkpoints", 9).read(step).tensors
        weights = saved["module-net"]
        if settings.ema:
            weights = {key: saved["averaged"][f"generator.{key}"] for key in weights}
        assert value == pytest.approx(total(weights, threading.Event())["total"], abs=1e-9)
    assert not (run.path / "snapshots").exists()


def test_what_a_stopped_run_could_not_measure_is_measured_after_its_resume(tmp_path: Path) -> None:
    whole, run = run_dir(tmp_path / "whole", config()), run_dir(tmp_path / "cut", config())
    train(probed(total), whole, config())
    with pytest.raises(Interrupted):
        train(probed(never, stop_at=40), run, config())
    assert [path.name for path in sorted((run.path / "snapshots").iterdir())] == [
        "step-00000015.safetensors",
        "step-00000030.safetensors",
    ]
    train(probed(total), run, config())
    assert sampled(run) == sampled(whole)
    assert rest(run) == rest(whole)


def test_a_point_recorded_before_the_stop_is_not_measured_again(tmp_path: Path) -> None:
    run = run_dir(tmp_path, config())
    with pytest.raises(Interrupted):
        train(probed(total, stop_at=40), run, config())
    before = sampled(run)
    leftover(run, 15)  # killed between the record and the deletion
    train(probed(total), run, config())
    assert [record["step"] for record in run.metrics("sampled")] == [15, 30, 45, 60]
    assert before.items() <= sampled(run).items()


def test_points_of_steps_that_are_repeated_are_forgotten(tmp_path: Path) -> None:
    """The last checkpoint may be older than the last snapshot; on a GPU the repeated step differs in its last bits."""
    whole, run = run_dir(tmp_path / "whole", config()), run_dir(tmp_path / "cut", config(), checkpoint_steps=10)
    train(probed(total), whole, config())
    with pytest.raises(Interrupted):
        train(probed(never, stop_at=17), run, config())
    (run.path / "checkpoints" / "step-00000018" / "manifest.json").unlink()
    leftover(run, 15)
    train(probed(total), run, config())
    assert [record["step"] for record in run.metrics("sampled")] == [15, 30, 45, 60]
    assert sampled(run) == sampled(whole)


def test_a_measurement_that_fails_is_told_and_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_dir(tmp_path, config())
    train(probed(broken), run, config())
    assert run.status.step == 60
    assert (
        "warning: the weights of step 15 could not be measured: ValueError('no such network')"
        in capsys.readouterr().out
    )
