"""Half precision and compiled networks: the same training within rounding."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fvar.config import TransformerConfig
from fvar.errors import Interrupted
from fvar.run import execute
from fvar.rundir import RunDir
from fvar.training.checkpoint import Checkpoints
from fvar.training.loop import train
from fvar.training.task import Metrics
from tests.training import tiny
from tests.training.processes import fingerprint, records
from tests.training.toy import ToyTask, config, run_dir

pytestmark = pytest.mark.usefixtures("half_precision")


class Overflowing(ToyTask):
    """One step's loss is so large that its scaled gradients leave the range of float16, not that of float32."""

    at, stop_at = 20, -1

    def loss(self, phase: str, batch: Tensor, step: int) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(phase, batch, step)
        return (loss * 1e4 if step == self.at and phase == "generator" else loss), metrics

    def after_step(self, step: int, batches: Sequence[Tensor]) -> None:
        if step == self.at - 1:
            self.before = {name: value.clone() for name, value in self.net.named_parameters()}
        if step == self.at:
            self.changed = any(not torch.equal(self.before[name], value) for name, value in self.net.named_parameters())
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def scale_of(run: RunDir) -> float:
    checkpoint, _ = Checkpoints(run.path / "checkpoints", keep=2).load()
    assert checkpoint is not None
    return float(checkpoint.state["scalers"]["generator"]["scale"])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_learns_as_float32_does(tmp_path: Path, precision: str) -> None:
    finals = []
    for settings in (config(), config(precision=precision)):
        run = run_dir(tmp_path / settings.precision, settings)
        train(ToyTask(dropout=0.0, noise=0.0), run, settings)
        finals.append(run.metrics("heldout")[-1]["error"])
    assert finals[1] == pytest.approx(finals[0], rel=0.05)
    assert finals[1] != finals[0]


def test_an_overflow_under_fp16_skips_its_step_and_halves_the_scale(tmp_path: Path) -> None:
    """That is how the scale is found: it costs nothing of the budget for bad steps."""
    half = config(precision="fp16")
    run, calm = (run_dir(tmp_path / name, half, bad_steps=0) for name in ("run", "calm"))
    task = Overflowing()
    train(task, run, half)
    train(ToyTask(), calm, half)
    assert not task.changed
    assert scale_of(run) == scale_of(calm) / 2
    assert not (run.path / "bad_batches.json").exists()


def test_without_a_scaler_the_same_loss_is_a_step_like_any_other(tmp_path: Path) -> None:
    run, task = run_dir(tmp_path, config(), bad_steps=0), Overflowing()
    train(task, run, config())
    assert task.changed


def test_the_scale_survives_a_stop(tmp_path: Path) -> None:
    half = config(precision="fp16")
    whole, run = run_dir(tmp_path / "whole", half), run_dir(tmp_path / "cut", half)
    undisturbed, stopped, continued = Overflowing(), Overflowing(), Overflowing()
    train(undisturbed, whole, half)
    stopped.stop_at = 25
    with pytest.raises(Interrupted):
        train(stopped, run, half)
    train(continued, run, half)
    assert records(run.path) == records(whole.path)
    assert fingerprint(continued) == fingerprint(undisturbed)
    assert scale_of(run) == scale_of(whole) < 2.0**16  # torch's first scale


@pytest.mark.slow  # compiles for two minutes each
@pytest.mark.parametrize(
    "transformer", [TransformerConfig(depth=2, width=32, heads=2), tiny.MVAR], ids=["VAR", "M-VAR"]
)
def test_compiled_networks_train_alike_and_keep_their_keys(tmp_path: Path, transformer: TransformerConfig) -> None:
    stage = tiny.var_stage(tiny.TEACHER, transformer=transformer)
    eager, compiled = (tiny.make_run(tmp_path / str(flag), stage, compile=flag) for flag in (False, True))
    for run in (eager, compiled):
        execute(run.path)
    first, last = (
        [[record["cross_entropy"] for record in run.metrics(split)] for run in (compiled, eager)]
        for split in ("train", "heldout")
    )
    assert first[0][:2] == pytest.approx(first[1][:2], abs=1e-5)
    assert last[0][-1] == pytest.approx(last[1][-1], rel=0.05)  # rounding has grown by then
    for file in ("model.safetensors", "teacher.safetensors"):
        assert load_file(compiled.path / file).keys() == load_file(eager.path / file).keys()
