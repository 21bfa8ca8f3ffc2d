"""What a training will cost, before it is started: parameters, FLOPs, memory, GPU hours.

    python -m fvar.estimate results/runs/var-0123456789abcdef --ranks 8 --utilisation 0.4

In closed formulas of the configuration (`fvar.flops`). Never imports torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fvar.config import (
    DataConfig,
    Stage,
    TokenizerConfig,
    TokensConfig,
    TrainConfig,
    VarConfig,
)
from fvar.errors import UserError, run_main
from fvar.flops import tokenizer as coders
from fvar.flops import transformer as transformers
from fvar.flops.part import Part
from fvar.rundir import RunDir


@dataclass(frozen=True)
class Device:
    """A GPU: dense bf16 peak in FLOP/s and memory in bytes, from the maker's data sheet."""

    name: str
    peak: float
    memory: float


DEVICES = (Device("A100", 312e12, 80e9), Device("H100", 989e12, 80e9), Device("H200", 989e12, 141e9))
CLASSES = {"emoji": 9, "text": 9, "cifar10": 10}  # folders and shards are taken for ImageNet
IMAGENET_CLASSES = 1000
MASTER_BYTES = 16  # per trained parameter, in float32: weight, gradient and AdamW's two moments


@dataclass(frozen=True)
class Estimate:
    """The bill of one training stage."""

    parts: tuple[Part, ...]
    train: TrainConfig

    @property
    def parameters(self) -> float:
        """Trained parameters of all parts."""
        return sum(part.parameters for part in self.parts)

    @property
    def flops_per_image(self) -> float:
        """Forward and backward of one training image."""
        return sum(part.flops for part in self.parts)

    @property
    def model_flops_per_image(self) -> float:
        """Without what is recomputed to save memory: the FLOPs of "model FLOPs utilisation" (Chowdhery et al. 2022)."""
        return sum(part.flops - part.recomputed for part in self.parts)

    @property
    def flops_per_step(self) -> float:
        return self.flops_per_image * self.train.batch_size

    @property
    def flops(self) -> float:
        """The whole training."""
        return self.flops_per_step * self.train.steps

    def memory(self, ranks: int = 1, accumulate: int = 1, *, sharded: bool = False) -> float:
        """Bytes per GPU: master weights, optimiser, and the activations of a micro-batch.

        Weights and optimiser are whole on every GPU (DDP) or `sharded` over them (FSDP, without what it gathers).
        """
        images = self.train.batch_size / (ranks * accumulate)
        width = 4 if self.train.precision == "fp32" else 2
        masters = MASTER_BYTES * self.parameters / (ranks if sharded else 1)
        return masters + images * width * sum(part.kept for part in self.parts)

    def gpu_hours(self, device: Device, utilisation: float) -> float:
        """At the stated share of the device's peak."""
        return self.flops / (device.peak * utilisation) / 3600


def estimate(stage: Stage) -> Estimate:
    """The bill of a training stage. Raises `UserError` for one that trains nothing."""
    config = stage.config
    if isinstance(config, TokenizerConfig):
        return Estimate(_tokenizer(config), config.train)
    if isinstance(config, VarConfig):
        data, tokenizer = _tokenizer_of(stage.inputs["tokens"])
        reads = config.teacher is not None and config.teacher.reads_alias
        alias = _tokenizer_of(stage.inputs["alias"])[1] if reads else None
        return Estimate(tuple(_var(config, data, tokenizer, alias)), config.train)
    raise UserError(f"a {stage.kind} stage trains nothing; estimate a tokenizer or a var stage")


def _tokenizer_of(stage: Stage) -> tuple[DataConfig, TokenizerConfig]:
    upstream = stage.inputs["tokenizer"].config
    if not isinstance(stage.config, TokensConfig) or not isinstance(upstream, TokenizerConfig):
        raise UserError("the inputs of a var stage must be token stores")
    return stage.config.data, upstream


# -------------------------------------------------------------------------------------------------------- transformers


def _var(
    config: VarConfig, data: DataConfig, tokenizer: TokenizerConfig, alias: TokenizerConfig | None
) -> Iterator[Part]:
    patch_nums, z = tokenizer.pyramid.patch_nums, tokenizer.autoencoder.z_channels
    vocab, classes = tokenizer.quantiser.vocab_size, CLASSES.get(data.dataset, IMAGENET_CLASSES)
    cfg, teacher = config.transformer, config.teacher
    phi = (len(patch_nums) - 1) * coders.convolution(z, z, 3, patch_nums[-1])[1]
    yield Part("input from tokens", 0, phi, 0)
    yield transformers.network("student", cfg, cfg.depth, vocab, patch_nums, (classes, z), learns=True)
    if teacher:
        learns = teacher.learns == "online"
        if teacher.trunk == "separate":
            yield transformers.network("teacher", cfg, cfg.depth, vocab, patch_nums, (classes, z), learns=learns)
        else:
            yield transformers.network("teacher", cfg, teacher.blocks, vocab, patch_nums, None, learns=learns)
        if alias:
            yield transformers.cross_attention(cfg, teacher, patch_nums, alias.quantiser.vocab_size, learns=learns)


# ---------------------------------------------------------------------------------------------------------- tokenizers


def _tokenizer(config: TokenizerConfig) -> tuple[Part, ...]:
    """Encoder, quantiser and decoder; the critics (perceptual network, discriminator) are not counted."""
    return coders.coder(config.signal, config.autoencoder, config.quantiser, config.pyramid.patch_nums)


# -------------------------------------------------------------------------------------------------------- command line


def stage_of(run: RunDir) -> Stage:
    """The stage of a run directory, with all stages above it."""
    return Stage(run.config, {role: stage_of(run.input(role)) for role in run.input_names})


def report(bill: Estimate, ranks: int, utilisation: float, price: float | None) -> str:
    """The bill as a table for people."""
    lines = [f"{'part':<22}{'parameters':>14}{'GFLOP/image':>14}{'share':>8}"]
    for part in bill.parts:
        share = part.flops / bill.flops_per_image
        lines.append(f"{part.name:<22}{part.parameters:>14,.0f}{part.flops / 1e9:>14.3f}{share:>8.1%}")
    train, memory, sharded = bill.train, bill.memory(ranks), bill.memory(ranks, sharded=True)
    lines += [
        f"{'all':<22}{bill.parameters:>14,.0f}{bill.flops_per_image / 1e9:>14.3f}{1:>8.0%}",
        f"{bill.flops_per_step / 1e12:.4g} TFLOP a step of {train.batch_size} images, {train.steps:,} steps: "
        f"{bill.flops / 1e18:.4g} EFLOP; about {memory / 1e9:.3g} GB on each of {ranks} GPUs "
        f"({sharded / 1e9:.3g} with runtime.parallel fsdp)",
        f"{f'at {utilisation:.0%} of the peak':<22}{'GPU hours':>14}{f'days on {ranks}':>14}{'cost':>12}",
    ]
    for device in DEVICES:
        hours = bill.gpu_hours(device, utilisation)
        cost = f"{hours * price:,.0f}" if price is not None else "no --price"
        fits = "" if memory < device.memory else "  does not fit: more ranks, runtime.accumulate, checkpointing or fsdp"
        lines.append(f"{device.name:<22}{hours:>14,.1f}{hours / 24 / ranks:>14,.2f}{cost:>12}{fits}")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fvar.estimate", description="What a training stage will cost.")
    parser.add_argument("config", type=Path, help="a run directory or its config.json")
    parser.add_argument("--ranks", type=int, default=8, help="GPUs that share the batch (default 8)")
    parser.add_argument(
        "--utilisation", type=float, default=0.4, help="share of the peak that is reached (default 0.4)"
    )
    parser.add_argument("--price", type=float, help="of one GPU hour, in your currency")
    arguments = parser.parse_args()
    if arguments.ranks < 1 or not 0 < arguments.utilisation <= 1:
        raise UserError("--ranks must be at least 1 and --utilisation in (0, 1]")
    path = arguments.config.parent if arguments.config.name == "config.json" else arguments.config
    bill = estimate(stage_of(RunDir.open(path)))
    print(report(bill, arguments.ranks, arguments.utilisation, arguments.price))
    return 0


if __name__ == "__main__":
    run_main(main)
