"""One part of the GPU check's timings, in a process of its own: one line of JSON per case, as soon as it is measured.

    python -m tests.gpu.measure step-d16 --device cuda

A step is forward, backward, clipping and optimiser on tokens, as `fvar.run` makes it. The plain reference and the
original take theirs from the same tokens, under autocast to bfloat16, which is the original's mixed precision; what the
original does besides in every step, the coding of its images, has a line of its own. Cases run one after the other, not
in turns: together their networks would not fit, and each has its own peak of memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    PyramidConfig,
    QuantiserConfig,
    Stage,
    TeacherConfig,
    TokenizerConfig,
    TokensConfig,
    TrainConfig,
    TransformerConfig,
    Trunk,
    VarConfig,
)
from fvar.data.token_store import TokenSplit
from fvar.errors import one_line
from fvar.estimate import estimate
from fvar.machine.distributed import pick_device
from fvar.models.teacher import Teacher
from fvar.models.var import VAR
from fvar.sampling import image_seeds, prepare, sample
from fvar.tasks.var import TokenSet, VarTask
from fvar.tokenizer.vqvae import VQVAE
from fvar.training import optim
from fvar.training.data_feed import MicroBatch
from fvar.training.phase import Phase
from fvar.training.throughput import peak_flops
from tests.benchmarks import reference
from tests.benchmarks.original import Original

Run = Callable[[], object]
GUIDANCE, TOP_K, TOP_P = 1.5, 900, 0.96
CLIP = 2.0  # VAR's
REFERENCE, ORIGINAL, CODING = "plain reference", "original", "coding of images"
TRUNKS: tuple[Trunk, ...] = ("shared", "separate")


@dataclass(frozen=True)
class Sizes:
    """What is measured: transformers by their depth, on token maps of the sides `patch_nums`."""

    depths: tuple[int, ...] = (16, 24)
    batch: int = 64
    patch_nums: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    vocab: int = 4096
    alias_vocab: int = 512
    classes: int = 1000
    channels: int = 32  # of the tokenizer's latent
    width: int = 160  # of its first layer
    rounds: int = 5
    backend: str = "inductor"  # of torch.compile

    @property
    def parts(self) -> list[str]:
        """Names of all parts, in the order of their worth."""
        return [f"{kind}-d{depth}" for kind in ("step", "sampling") for depth in self.depths] + [
            f"compiled-d{self.depths[0]}"
        ]

    @property
    def autoencoder(self) -> AutoencoderConfig:
        return AutoencoderConfig(ch=self.width, z_channels=self.channels)

    def stage(self, depth: int, teacher: TeacherConfig | None) -> Stage:
        """The training that a step belongs to, for its bill."""
        pyramid = PyramidConfig(patch_nums=self.patch_nums)
        data = DataConfig(image_size=pyramid.image_size)

        def tokens(vocab: int) -> Stage:
            quantiser = QuantiserConfig(vocab_size=vocab, reading="latent_area")
            tokenizer = TokenizerConfig(data=data, pyramid=pyramid, autoencoder=self.autoencoder, quantiser=quantiser)
            return Stage(TokensConfig(data=data), {"tokenizer": Stage(tokenizer)})

        transformer = TransformerConfig(depth=depth, width=64 * depth, heads=depth)
        config = VarConfig(transformer, teacher, train=TrainConfig(batch_size=self.batch, clip=CLIP, precision="bf16"))
        return Stage(config, {"tokens": tokens(self.vocab), **({"alias": tokens(self.alias_vocab)} if teacher else {})})


# Too small to measure anything: they show that everything runs.
TOY = Sizes(
    depths=(2,), batch=2, patch_nums=(1, 2), vocab=32, alias_vocab=16, classes=5, channels=8, width=32, rounds=1,
    backend="eager",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One thing to time: `build` makes its networks and returns what is timed; `flops` are the model's, per image."""

    name: str
    build: Callable[[], Run]
    flops: float = 0.0


@dataclass(frozen=True)
class Bench:
    """Makes the cases of a part. Nothing is built, and no memory taken, before a case is measured."""

    sizes: Sizes
    device: torch.device
    original: Path | None = None

    def cases(self, part: str) -> list[Case]:
        kind, _, depth = part.partition("-d")
        made = {"step": self.steps, "sampling": self.samplings, "compiled": self.compiled}[kind]
        return list(made(int(depth)))

    # ---------------------------------------------------------------------------------------------------------- steps

    def steps(self, depth: int) -> Iterator[Case]:
        flops = self.flops(depth)
        yield Case(REFERENCE, lambda: self.plain_step(depth), flops)
        if self.original:
            yield Case(ORIGINAL, lambda: self.original_step(depth), flops)
        yield Case("student", lambda: self.step(depth), flops)
        for trunk in TRUNKS:
            teacher = TeacherConfig(trunk=trunk)
            yield Case(f"{trunk} teacher", lambda t=teacher: self.step(depth, t), self.flops(depth, teacher))  # type: ignore[misc]
        yield Case(CODING, self.coding)

    def compiled(self, depth: int) -> Iterator[Case]:
        flops, teacher = self.flops(depth), TeacherConfig()
        yield Case("student, compiled", lambda: self.step(depth, compiled="default"), flops)
        yield Case(
            "separate teacher, compiled",
            lambda: self.step(depth, teacher, compiled="default"),
            self.flops(depth, teacher),
        )
        yield Case("student, max-autotune", lambda: self.step(depth, compiled="max-autotune"), flops)

    def flops(self, depth: int, teacher: TeacherConfig | None = None) -> float:
        return estimate(self.sizes.stage(depth, teacher)).model_flops_per_image

    def step(self, depth: int, teacher: TeacherConfig | None = None, compiled: str = "") -> Run:
        """Ours; with `compiled` the networks go through torch.compile in that mode."""
        task, config = self.task(depth, teacher)
        for module in task.state_modules().values() if compiled else ():
            if self.sizes.backend == "inductor":
                module.compile(mode=compiled)
            else:
                module.compile(backend=self.sizes.backend)
        phase = Phase("train", task, config.train)
        batch = task.fetch(torch.arange(self.sizes.batch), torch.Generator())
        micro_batches = [MicroBatch(batch, range(self.sizes.batch), self.sizes.batch)]

        def run() -> None:
            phase.optimiser.zero_grad(set_to_none=True)
            loss, _ = phase.backward(micro_batches, 0)
            phase.apply(1e-4, phase.finite(loss, phase.clip()))

        return run

    def task(self, depth: int, teacher: TeacherConfig | None) -> tuple[VarTask, VarConfig]:
        config = self.sizes.stage(depth, teacher).config
        assert isinstance(config, VarConfig)
        shape = (self.sizes.classes, self.sizes.vocab, self.sizes.channels, self.sizes.patch_nums)
        with self.device:  # where a billion weights are drawn in no time
            student = VAR(config.transformer, *shape)
            taught = Teacher(config.transformer, teacher, *shape, self.sizes.alias_vocab) if teacher else None
            inputs = VQVAE(self.sizes.autoencoder, QuantiserConfig(vocab_size=self.sizes.vocab), shape[-1]).quantize
        tokens = TokenSet(self.tokens(self.sizes.vocab), self.tokens(self.sizes.alias_vocab) if teacher else None)
        task = VarTask(
            student, inputs.requires_grad_(False), tokens, tokens, teacher=taught, distill=config.distill,
            eval_images=0, eval_batch=1,
        )  # fmt: skip
        return task, config

    def tokens(self, vocab: int) -> TokenSplit:
        drawn = np.random.default_rng(0)
        maps = [drawn.integers(0, vocab, (self.sizes.batch, p * p)).astype(np.uint16) for p in self.sizes.patch_nums]
        return TokenSplit(maps, drawn.integers(0, self.sizes.classes, self.sizes.batch))

    def plain_step(self, depth: int) -> Run:
        task, config = self.task(depth, None)
        var = task.student
        return self.step_by_hand(var, config, task, lambda *inputs: reference.forward(var, *inputs))

    def original_step(self, depth: int) -> Run:
        task, config = self.task(depth, None)
        assert self.original
        other = Original(self.original, task.student, self.sizes.width)
        task.student = task.student.cpu()
        return self.step_by_hand(other.var, config, task, other.logits)

    def step_by_hand(
        self, network: nn.Module, config: VarConfig, task: VarTask, forward: Callable[[Tensor, Tensor], Tensor]
    ) -> Run:
        """Mixed precision as the original has it: autocast to bfloat16, clipping, fused AdamW."""
        optimiser = optim.adamw(network.named_parameters(), config.train)
        batch = task.fetch(torch.arange(self.sizes.batch), torch.Generator()).to(self.device)
        targets = torch.cat(batch.structure, dim=1).flatten()
        parameters = list(network.parameters())

        def run() -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.no_grad():
                var_input = task.inputs.var_input(batch.structure)
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = F.cross_entropy(forward(batch.labels, var_input).flatten(0, 1), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimiser.step()

        return run

    def coding(self) -> Run:
        vqvae = self.vqvae()
        side = self.sizes.patch_nums[-1] * self.sizes.autoencoder.downsample_factor
        images = torch.rand(self.sizes.batch, 3, side, side, device=self.device) * 2 - 1

        @torch.no_grad()
        def run() -> None:
            vqvae.indices([images])

        return run

    # ------------------------------------------------------------------------------------------------------- sampling

    def samplings(self, depth: int) -> Iterator[Case]:
        yield Case(REFERENCE, lambda: self.plain_sampling(depth))
        if self.original:
            yield Case(ORIGINAL, lambda: self.original_sampling(depth))
        yield Case("bf16", lambda: self.sampling(depth))

    def vqvae(self) -> VQVAE:
        quantiser = QuantiserConfig(vocab_size=self.sizes.vocab, reading="latent_area")
        with self.device:
            return VQVAE(self.sizes.autoencoder, quantiser, self.sizes.patch_nums).eval().requires_grad_(False)

    def labels(self) -> Tensor:
        return torch.arange(self.sizes.batch, device=self.device) % self.sizes.classes

    def sampling(self, depth: int) -> Run:
        var, vqvae, labels = self.task(depth, None)[0].student, self.vqvae(), self.labels()
        prepare(var, vqvae, "bf16", self.device)
        seeds = image_seeds(0, range(len(labels)))
        return lambda: sample(var, vqvae, labels, guidance=GUIDANCE, top_k=TOP_K, top_p=TOP_P, seeds=seeds)

    def plain_sampling(self, depth: int) -> Run:
        var, vqvae, labels = self.task(depth, None)[0].student.eval(), self.vqvae(), self.labels()
        top_k = min(TOP_K, self.sizes.vocab)
        return self.under_autocast(lambda: reference.sample(var, vqvae, labels, GUIDANCE, top_k, TOP_P))

    def original_sampling(self, depth: int) -> Run:
        var, labels, top_k = self.task(depth, None)[0].student, self.labels(), min(TOP_K, self.sizes.vocab)
        assert self.original
        other = Original(self.original, var, self.sizes.width)
        return self.under_autocast(lambda: other.sample(labels, GUIDANCE, top_k, TOP_P))

    def under_autocast(self, run: Run) -> Run:
        def wrapped() -> None:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
                run()

        return wrapped


def measured(case: Case, bench: Bench) -> dict[str, Any]:
    """Seconds (median, least and most), the first run's, images/s, MFU and peak of memory; or why there are none."""
    device, batch = bench.device, bench.sizes.batch
    seconds: list[float] = []
    try:
        run = case.build()
        first = timed(run, device)
        run()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = [timed(run, device) for _ in range(bench.sizes.rounds)]
    except torch.OutOfMemoryError:
        return {"case": case.name, "left_out": "out of memory"}
    except Exception as error:  # a case that fails must not end the others
        return {"case": case.name, "failed": f"{type(error).__name__}: {one_line(error)}"[:300]}
    took, peak = statistics.median(seconds), peak_flops(device)
    return {
        "case": case.name,
        "seconds": took,
        "spread": [min(seconds), max(seconds)],
        "first_seconds": first,
        "images_per_second": batch / took,
        "mfu": case.flops * batch / took / peak if peak and case.flops else None,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def timed(run: Run, device: torch.device) -> float:
    """Seconds until the device has done it."""
    wait_for(device)
    started = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - started


def wait_for(device: torch.device) -> None:
    """Until it has done all it was asked for; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--original", type=Path)
    args = parser.parse_args()
    sizes = TOY if args.tiny else Sizes()
    if args.batch:
        sizes = dataclasses.replace(sizes, batch=args.batch)
    bench = Bench(sizes, pick_device(args.device), args.original)
    for case in bench.cases(args.part):
        print(json.dumps(measured(case, bench)), flush=True)
        torch._dynamo.reset()
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
