"""On a GPU everything computes what it computes on a CPU, waits for nothing, and survives what a CPU's run survives.

    python -m pytest -m gpu tests/gpu

`tests.gpu.check` runs these first. With FVAR_GPU_CHECK_DEVICE=cpu they run on a processor, to be tested themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fvar.config import TrainConfig
from fvar.errors import Interrupted
from fvar.golden import verify
from fvar.machine.distributed import process_group
from fvar.metrics.features import Extractor, extract
from fvar.run import execute
from fvar.rundir import RunDir
from fvar.sampling import image_seeds, prepare, sample
from fvar.stages.var import build_task
from fvar.tasks.var import TokenBatch, VarTask
from fvar.training import sharding
from fvar.training.data_feed import MicroBatch
from fvar.training.loop import Trainer
from fvar.training.phase import Phase
from fvar.training.task import Metrics
from tests import tiny as networks
from tests.training import tiny
from tests.training.processes import records

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("half_precision")]

GOLDEN = Path(__file__).parents[1] / "golden"
GENTLE = dataclasses.replace(tiny.TRAIN, steps=20, lr=0.02, eval_every=10)  # rounding must not grow


def new_run(root: Path, device: torch.device, train: TrainConfig = GENTLE, **runtime: object) -> RunDir:
    stage = tiny.var_stage(tiny.TEACHER, train=train)
    return tiny.make_run(root, stage, device=device.type, **runtime)


def task_of(run: RunDir) -> VarTask:
    task = build_task(run)
    assert isinstance(task, VarTask)
    return task


def whole_batch(task: VarTask) -> list[MicroBatch[TokenBatch]]:
    return [MicroBatch(task.fetch(torch.arange(16), torch.Generator()), range(16), 16)]


def weights(task: VarTask) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in task.parameter_groups("train")}


# -------------------------------------------------------------------------------------------------------------- compat


@pytest.mark.parametrize("file", ["var_tiny", "mvar_tiny"])
def test_every_output_of_the_original_is_reproduced(file: str, device: torch.device) -> None:
    assert verify(GOLDEN / f"{file}.safetensors", device) == 0


# ------------------------------------------------------------------------------------------------------------ sampling


def draw(device: torch.device, precision: Any = "fp32") -> tuple[Tensor, Tensor]:
    """Tokens and images of nine labels."""
    var, vqvae = networks.var(), networks.vqvae()
    prepare(var, vqvae, precision, device)
    labels = torch.arange(9, device=device) % networks.CLASSES
    made = sample(var, vqvae, labels, guidance=1.5, top_k=30, top_p=0.95, seeds=image_seeds(0, range(9)))
    return torch.cat(made.tokens, dim=1).cpu(), made.images.cpu()


def test_the_same_tokens_are_drawn_as_on_a_cpu(device: torch.device) -> None:
    (tokens, images), (expected, pictures) = draw(device), draw(torch.device("cpu"))
    assert torch.equal(tokens, expected)
    assert (images.int() - pictures.int()).abs().max() <= 2  # convolutions may run in TF32


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_equal_batches_give_equal_images_in_half_precision(precision: str, device: torch.device) -> None:
    (tokens, images), (again, pictures) = draw(device, precision), draw(device, precision)
    assert torch.equal(tokens, again)
    assert torch.equal(images, pictures)


# ------------------------------------------------------------------------------------------------------------ training


def test_a_training_follows_the_one_on_a_cpu(tmp_path: Path, device: torch.device) -> None:
    runs = [new_run(tmp_path / name, at) for name, at in (("here", device), ("cpu", torch.device("cpu")))]
    for run in runs:
        execute(run.path)
    here, there = ([r["cross_entropy"] for r in run.metrics("train") if "cross_entropy" in r] for run in runs)
    assert here[:3] == pytest.approx(there[:3], abs=1e-4)
    assert here == pytest.approx(there, abs=2e-2)


def test_a_stopped_training_goes_on_as_if_it_had_not_been(
    tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = (new_run(tmp_path / name, device) for name in ("whole", "cut"))
    execute(whole.path)

    def stop(task: VarTask, step: int, _: object) -> None:
        if step == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(VarTask, "after_step", stop)
        with pytest.raises(Interrupted):
            execute(cut.path)
    execute(cut.path)
    assert [record["step"] for record in records(cut.path)] == [record["step"] for record in records(whole.path)]
    for mine, other in zip(records(cut.path), records(whole.path), strict=True):
        assert mine.pop("split") == other.pop("split")
        assert mine == {key: pytest.approx(value, abs=1e-3) for key, value in other.items()}


def test_no_step_waits_for_the_device_between_two_lines_of_the_log(tmp_path: Path, device: torch.device) -> None:
    train = dataclasses.replace(GENTLE, precision="bf16", ema=0.9)
    run = new_run(tmp_path, device, train)
    with contextlib.closing(Trainer(task_of(run), run, train)) as trainer:
        trainer._step(0)  # where things are made that stay
        with waiting_forbidden(device):
            for step in range(1, 9):
                trainer._step(step)
        trainer._log(9)


@contextlib.contextmanager
def waiting_forbidden(device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_the_device_itself_leaves_out_a_step_that_is_not_finite(tmp_path: Path, device: torch.device) -> None:
    task = task_of(new_run(tmp_path, device))
    phase = Phase("train", task, GENTLE)
    loss, _ = phase.backward(whole_batch(task), 0)
    before = weights(task)
    phase.apply(0.1, phase.finite(loss * torch.nan, phase.clip()))
    assert all(torch.equal(value, before[name]) for name, value in weights(task).items())
    phase.apply(0.1, phase.finite(loss, phase.clip()))
    assert not all(torch.equal(value, before[name]) for name, value in weights(task).items())


def test_an_overflow_under_fp16_skips_its_step_and_halves_the_scale(tmp_path: Path, device: torch.device) -> None:
    half = dataclasses.replace(GENTLE, precision="fp16")
    task = task_of(new_run(tmp_path, device, half))
    phase, calm = Phase("train", task, half), task.loss

    def overflowing(phase: str, batch: TokenBatch, step: int) -> tuple[Tensor, Metrics]:
        loss, metrics = calm(phase, batch, step)
        return loss * (1e9 if step == 1 else 1.0), metrics

    task.loss = overflowing  # type: ignore[method-assign]
    for step, factor in enumerate((1.0, 0.5, 1.0)):
        before, scale = weights(task), phase.scaler.get_scale()
        phase.optimiser.zero_grad(set_to_none=True)
        loss, _ = phase.backward(whole_batch(task), step)
        phase.apply(0.01, phase.finite(loss, phase.clip()))
        assert phase.scaler.get_scale() == scale * factor
        moved = not all(torch.equal(value, before[name]) for name, value in weights(task).items())
        assert moved == (step != 1)


def test_weights_sharded_over_one_rank_train_as_whole_ones(tmp_path: Path, device: torch.device) -> None:
    """FSDP2, with NCCL on a GPU: what it gathers and scatters is the same on one rank as on many."""
    from torch.distributed.tensor import DTensor

    alone, sharded = (task_of(new_run(tmp_path / name, device)) for name in ("alone", "sharded"))
    with one_rank(device):
        shards = sharding.shard(sharded)
        ours = [Phase("train", alone, GENTLE), Phase("train", sharded, GENTLE, shards)]
        for step in range(3):
            for phase, task in zip(ours, (alone, sharded), strict=True):
                torch.manual_seed(step)
                phase.optimiser.zero_grad(set_to_none=True)
                loss, _ = phase.backward(whole_batch(task), step)
                norms = phase.clip()
                phase.apply(0.02, phase.finite(loss, norms))
        found = weights(sharded)
        assert any(isinstance(value, DTensor) for value in found.values())
        for name, value in weights(alone).items():
            other = found[name]
            torch.testing.assert_close(other.full_tensor() if isinstance(other, DTensor) else other, value)


@contextlib.contextmanager
def one_rank(device: torch.device) -> Iterator[None]:
    """What torchrun would set, and the group that a stage joins: of one process, which `process_group` leaves out."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        with process_group(device):  # has nothing to do any more
            yield
    finally:
        dist.destroy_process_group()


# ------------------------------------------------------------------------------------------------------------ features


class Images:
    """Noise of 32 px."""

    def __len__(self) -> int:
        return 16

    def batch(self, indices: range) -> Tensor:
        generator = torch.Generator().manual_seed(indices.start)
        return torch.randint(256, (len(indices), 3, 32, 32), generator=generator, dtype=torch.uint8)


class Describe(nn.Module):
    """A convolution and a product, in the precision of its weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.product = nn.Conv2d(3, 64, 3), nn.Linear(64, 32)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.convolution(images.to(self.product.weight.dtype))
        features: Tensor = self.product(maps.mean((2, 3)))
        return features.float()


def test_features_are_not_rounded_as_tf32_would_round_them(device: torch.device) -> None:
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "tf32"
        found = extract(Extractor("toy", Describe().to(device), 32), Images())
        exact = extract(Extractor("toy", Describe().double(), 32), Images())
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision
    assert (found - exact).abs().max() / exact.abs().max() < 2e-5  # TF32 keeps ten bits: 5e-4
