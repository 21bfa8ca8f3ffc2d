"""A training step of the tokenizer as ratios against a plain VQGAN step of the same shape, in one run.

    python -m tests.benchmarks.bench_tokenizer                 smoke and paper size: about five minutes on two cores
    python -m tests.benchmarks.bench_tokenizer --size smoke    seconds
    python -m tests.benchmarks.bench_tokenizer --clock cpu     on a shared machine: one thread's CPU seconds

The plain step has the same networks, weights, losses and images: pixels doubled before they are convolved, a quantiser
written as in VAR's paper, an optimiser as torch has it by default, float32. It reads the image as VAR does, so the
first of ours does, too; the next two are what the focus readings cost beside it: they code a view per scale, and
reconstruct some of them. Steps run interleaved, round by round; a speed-up is the median over rounds of plain time /
own time. Where the processor has no bfloat16 kernels, ours are measured in float32.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvar.config import DataConfig, Precision, Reading, Signal, TokenizerConfig
from fvar.data import to_float
from fvar.machine.precision import has_kernels
from fvar.tasks.tokenizer import TokenizerBatch, TokenizerTask
from fvar.tokenizer import losses
from fvar.tokenizer.autoencoder import Level, Upsample
from fvar.tokenizer.quantiser import area, bicubic
from fvar.tokenizer.vqvae import VQVAE
from fvar.training.data_feed import MicroBatch
from fvar.training.phase import Phase
from studies.presets import preset
from tests.benchmarks.bench_var import CLOCKS, timed

SIZES = {"smoke": 8, "paper": 1}  # images per step
OURS: dict[str, tuple[Signal, Reading]] = {
    "structure, VAR's reading": ("structure", "latent_area"),
    "structure, of focus views": ("structure", "focus"),
    "alias residuals": ("alias", "focus"),
}


def settings(size: str, signal: Signal, reading: Reading, precision: Precision) -> TokenizerConfig:
    """A preset's tokenizer with AdamW, on embedded images of its size: of these only the number is asked for."""
    made = preset(size).tokenizer(signal, reading=reading)
    train = dataclasses.replace(made.train, batch_size=SIZES[size], precision=precision, optimiser="adamw", ema=0.0)
    return dataclasses.replace(
        made, data=DataConfig(dataset="text", image_size=made.data.image_size, crop="center"), train=train
    )


def own_step(task: TokenizerTask, pixels: Tensor) -> Callable[[], None]:
    """What the training loop does in its last step, with all losses in force."""
    config = task.config.train
    phases = {name: Phase(name, task, config) for name in task.phase_names}
    last = config.steps - 1

    def run() -> None:
        batch = TokenizerBatch(pixels)
        for name in task.phases(last):
            for phase in phases.values():
                phase.optimiser.zero_grad(set_to_none=True)
            loss, _ = phases[name].backward([MicroBatch(batch, range(len(pixels)), len(pixels))], last)
            phases[name].apply(1e-4, phases[name].finite(loss, phases[name].clip()))
        task.after_step(last, [batch])

    return run


def plain_step(task: TokenizerTask, pixels: Tensor) -> Callable[[], None]:
    """The same of VAR's reading, written down without a thought for time."""
    vqvae, judge, cfg = plain(task.vqvae), copy.deepcopy(task.discriminator), task.config
    networks = [vqvae, *([judge] if judge else [])]
    optimisers = [torch.optim.AdamW([p for p in n.parameters() if p.requires_grad], lr=1e-4) for n in networks]

    def run() -> None:
        target = to_float(pixels)
        f_hat, quantisation = quantise(vqvae, vqvae.encode(target), cfg.quantiser.commitment)
        made = vqvae.render(f_hat)
        reconstruction = losses.pixel_loss(made, target, cfg.loss)
        if task.perceptual:
            reconstruction = reconstruction + cfg.loss.perceptual * task.perceptual(made, target).mean()
        total = reconstruction + quantisation
        if judge:
            adversarial = losses.hinge_generator(judge(made))
            weight = losses.adaptive_weight(reconstruction, adversarial, vqvae.decoder.last_layer)
            total = total + cfg.loss.adversarial * weight * adversarial
        step(optimisers[0], vqvae, total)
        if judge:
            step(optimisers[1], judge, losses.hinge_discriminator(judge(target), judge(made.detach())))

    def step(optimiser: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), cfg.train.clip or float("inf"))
        optimiser.step()

    return run


def plain(vqvae: VQVAE) -> VQVAE:
    """A copy whose decoder doubles the pixels before it convolves them."""
    made = copy.deepcopy(vqvae)
    for level in made.decoder.up:
        assert isinstance(level, Level)
        if isinstance(level.upsample, Upsample):
            level.upsample = nn.Sequential(nn.Upsample(scale_factor=2.0), level.upsample.conv)
    return made


def quantise(vqvae: VQVAE, f: Tensor, commitment: float) -> tuple[Tensor, Tensor]:
    """f_hat (B, Cz, P, P), straight through, of latents f, and the losses of codes and commitment: VAR, Algorithm 1."""
    codes, rest, f_hat, total = vqvae.quantize.embedding.weight, f.detach(), torch.zeros_like(f), f.new_zeros(())
    for k, side in enumerate(vqvae.patch_nums):
        vectors = area(rest, side).permute(0, 2, 3, 1)  # (B, p_k, p_k, Cz)
        index = torch.cdist(vectors.flatten(0, 2), codes).argmin(1).view(vectors.shape[:-1])
        h = vqvae.quantize.quant_resi(k, bicubic(codes[index].permute(0, 3, 1, 2), vqvae.patch_nums[-1]))
        f_hat, rest = f_hat + h, rest - h.detach()
        total = total + commitment * F.mse_loss(f, f_hat.detach()) + F.mse_loss(f_hat, f.detach())
    return f + (f_hat - f).detach(), total / len(vqvae.patch_nums)


def steps(size: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """All steps of a size, the plain one first."""
    precision: Precision = "bf16" if has_kernels("bf16") else "fp32"
    for name, (signal, reading) in OURS.items():
        config = settings(size, signal, reading, precision)
        side = config.data.image_size
        task = TokenizerTask(config, torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (SIZES[size], 3, side, side), generator=generator, dtype=torch.uint8)
        if reading == "latent_area":
            yield "plain VQGAN fp32", plain_step(task, pixels)
        yield f"{name} {precision}", own_step(task, pixels)


def measure(size: str, rounds: int, clock: str) -> None:
    """Time one size and print its table."""
    runs = dict(steps(size))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):  # the first warms up
        for name, run in runs.items():
            took = timed(run, CLOCKS[clock])
            if turn:
                seconds[name].append(took)
    side = preset(size).data.image_size
    print(f"{size}: {SIZES[size]} x {side} px, {torch.get_num_threads()} threads, {rounds} rounds")
    print(f"{'':32} {'seconds':>8} {'least':>8} {'most':>8} {'speed-up':>8}")
    baseline = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(times, baseline, strict=True))
        print(f"{name:32} {statistics.median(times):8.2f} {min(times):8.2f} {max(times):8.2f} {ratio:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: CPU seconds of one thread")
    args = parser.parse_args()
    if args.clock == "cpu":
        torch.set_num_threads(1)
    if not has_kernels("bf16"):
        print("this processor has no bf16 matrix kernels: fvar computes in float32 here")
    for size in [args.size] if args.size else SIZES:
        measure(size, args.rounds, args.clock)


if __name__ == "__main__":
    main()
