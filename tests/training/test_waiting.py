"""A training step computes on its device alone, and waits for it only where a line is logged.

A step on meta tensors (`tests.meta`) runs here as it would on a GPU nobody has.
"""

from __future__ import annotations

import contextlib
import importlib
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fvar.config import DistillConfig, RuntimeConfig, Stage, TrainConfig
from fvar.plain import replace_path
from fvar.rundir import RunDir
from fvar.stages.var import build_task
from fvar.tasks.tokenizer import TokenizerTask
from fvar.tasks.var import VarTask
from fvar.training.loop import Trainer
from tests.meta import META, never_waiting
from tests.tasks.test_tokenizer import config as tokenizer_config
from tests.training import tiny

WEIGHTED = {"teacher": tiny.TEACHER, "distill": DistillConfig(scale_weights=(1.0, 2.0, 3.0))}


@pytest.fixture(autouse=True)
def a_device_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No main memory can be locked for it; torch has no mixed precision there, and calls its fused AdamW untested."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def on_meta(task: VarTask | TokenizerTask) -> VarTask | TokenizerTask:
    """The task moved there, weights, tables and all."""
    for name, part in vars(task).items():
        if isinstance(part, nn.Module | Tensor):
            setattr(task, name, part.to(META))
    if isinstance(task, TokenizerTask):
        task._device = META
    return task


def first_question(task: VarTask | TokenizerTask, run: RunDir, train: TrainConfig) -> str:
    """Which function first asks the device for a number: nine steps run before a line is logged."""
    with contextlib.closing(Trainer(on_meta(task), run, train)) as trainer:
        with never_waiting():
            for step in range(9):
                trainer._step(step)
        with pytest.raises(NotImplementedError, match="no data") as asked:
            trainer._log(9)
    *_, place = (frame for frame in traceback.extract_tb(asked.tb) if "/fvar/" in frame.filename)
    return f"{Path(place.filename).stem}.{place.name}"


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"teacher": tiny.TEACHER}, {"teacher": tiny.SHARED}, {"transformer": tiny.MVAR}, WEIGHTED],
    ids=["student", "teacher", "shared trunk", "M-VAR", "weighted scales"],
)
def test_a_step_of_a_transformer_waits_for_nothing(tmp_path: Path, changes: dict[str, Any], optimiser: str) -> None:
    train = replace_path(tiny.TRAIN, "optimiser", optimiser)
    train = replace_path(train, "ema", 0.9)
    run = tiny.make_run(tmp_path, tiny.var_stage(**changes, train=train))
    assert first_question(build_task(run), run, train) == "journal.read"


@pytest.mark.parametrize("signal", ["structure", "alias"])
def test_a_step_of_a_tokenizer_waits_for_nothing(tmp_path: Path, signal: str) -> None:
    config = tokenizer_config(
        signal=signal, loss__adversarial=0.1, loss__adversarial_after=0.0, loss__discriminator_ch=8
    )
    run = RunDir.create(tmp_path, Stage(config), RuntimeConfig(device="cpu"))
    task = TokenizerTask(config, torch.device("cpu"))
    assert task.scaler.audible_scales  # asked for once
    assert first_question(task, run, config.train) == "journal.read"
