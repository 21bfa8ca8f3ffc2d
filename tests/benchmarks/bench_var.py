"""Training step and sampling of VAR-d16 as ratios against a plain reference, in one run.

    python -m tests.benchmarks.bench_var                              d16 as published: about ten minutes on two cores
    python -m tests.benchmarks.bench_var --depth 4 --rounds 2         a quick look
    python -m tests.benchmarks.bench_var --original DIR               beside the original's own code, a checkout of it
    python -m tests.benchmarks.bench_var --only step --clock cpu      on a shared machine: one thread's CPU seconds

All variants share weights, batch and tokens and run interleaved, round by round, so that a busy machine slows them
alike. A speed-up is the median over rounds of baseline time / variant time; the baseline is the plain reference, and
for steps with a teacher the same step without (0.87 is 1.15 times its cost). A step is what a user waits for: input of
the transformer, forward, backward. The original codes its images anew in every step, so the reference does; ours reads
tokens, as from the token store. The time of that coding stands in a line of its own. The column "rival" compares
networks alone, at the same precision: with the original where its sources are given, else with the reference. FLOP/s
count the transformer's matrix products, against a measured ceiling of the same dtype. Peak memory is that of a process
of its own, which holds what the case needs and nothing else. Where the processor has no bfloat16 kernels, those cases
are left out and the teachers are measured in float32.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import (
    AutoencoderConfig,
    DistillConfig,
    QuantiserConfig,
    TeacherConfig,
    TransformerConfig,
    Trunk,
)
from fvar.machine.heap import trim_in_backward
from fvar.machine.precision import Precision, dtype_of, has_kernels
from fvar.models.teacher import Teacher
from fvar.models.var import VAR
from fvar.sampling import decode, image_seeds, prepare, sample
from fvar.tasks.distill import distillation_loss
from fvar.tokenizer.quantiser import MultiScaleQuantiser
from fvar.tokenizer.vqvae import VQVAE
from fvar.training.throughput import peak_memory
from tests.benchmarks import reference
from tests.benchmarks.original import Original, require_sources

PATCH_NUMS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
CLASSES, VOCAB, CHANNELS, ALIAS_VOCAB = 1000, 4096, 32, 512
QUANTISER = QuantiserConfig(vocab_size=VOCAB, reading="latent_area")
GUIDANCE, TOP_K, TOP_P = 1.5, 900, 0.96
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Case:
    """One thing to time: `baseline` and `rival` name cases that are divided by it, `flops` its matrix products."""

    name: str
    run: Callable[[], object]
    baseline: str
    dtype: torch.dtype
    flops: float = 0.0
    rival: str = ""


def dtypes() -> dict[Precision, torch.dtype]:
    """What this processor multiplies matrices in."""
    names: tuple[Precision, ...] = ("fp32", "bf16")
    return {name: dtype_of(name) for name in names if has_kernels(name)}


def new_var(depth: int) -> VAR:
    torch.manual_seed(0)
    return VAR(TransformerConfig(depth=depth, width=64 * depth, heads=depth), CLASSES, VOCAB, CHANNELS, PATCH_NUMS)


def forward_flops(var: VAR, batch: int) -> float:
    """Two per multiply-add of a forward pass: linear layers per token, AdaLN per image, attention per visible pair."""
    dim, tokens = var.cfg.dim, var.scale_ends[-1]
    sizes = [p * p for p in var.patch_nums]
    visible = sum(size * end for size, end in zip(sizes, var.scale_ends, strict=True))
    weights = {name: p.numel() for name, p in var.named_parameters() if p.dim() == 2}
    ada = sum(count for name, count in weights.items() if "ada_lin" in name)
    tables = weights["class_emb.weight"] + weights["lvl_embed.weight"]
    linear = sum(weights.values()) - ada - tables
    return 2.0 * batch * (linear * tokens + ada + 2 * dim * visible * var.cfg.depth)


def new_vqvae() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(AutoencoderConfig(), QUANTISER, PATCH_NUMS).eval()


def step_cases(depth: int, batch: int, original: Path | None = None) -> list[Case]:
    """Training steps; a case builds what it alone needs when it first runs."""
    var = new_var(depth)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    images = torch.rand(batch, 3, 16 * PATCH_NUMS[-1], 16 * PATCH_NUMS[-1], generator=generator) * 2 - 1
    tokens = [torch.randint(VOCAB, (batch, p * p), generator=generator) for p in PATCH_NUMS]
    alias = [torch.randint(ALIAS_VOCAB, (batch, p * p), generator=generator) for p in PATCH_NUMS]
    vqvae = functools.cache(new_vqvae)
    quantiser = functools.cache(lambda: MultiScaleQuantiser(QUANTISER, CHANNELS, PATCH_NUMS))

    @functools.cache
    def teacher(trunk: Trunk) -> Teacher:
        network = Teacher(var.cfg, TeacherConfig(trunk=trunk), CLASSES, VOCAB, CHANNELS, PATCH_NUMS, ALIAS_VOCAB)
        trim_in_backward(network.parameters())
        return network

    def cross_entropy(log_probs: Tensor, targets: list[Tensor]) -> Tensor:
        return F.nll_loss(log_probs.flatten(0, 1), torch.cat(targets, dim=1).flatten())

    @torch.no_grad()
    def code() -> list[Tensor]:
        return vqvae().indices([images])

    @torch.no_grad()
    def stored() -> Tensor:
        return quantiser().var_input(tokens)

    def plain() -> None:
        var.train().zero_grad()
        targets = code()
        logits = reference.forward(var, labels, vqvae().var_input(targets).detach())
        cross_entropy(logits.log_softmax(-1), targets).backward()

    def plain_network() -> None:
        var.train().zero_grad()
        cross_entropy(reference.forward(var, labels, stored()).log_softmax(-1), tokens).backward()

    @functools.cache
    def theirs() -> Original:
        assert original
        return Original(original, var, channels=32)  # its tokenizer is not used in a step

    def original_network(dtype: torch.dtype) -> None:
        theirs().var.zero_grad()
        var_input = stored()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = cross_entropy(theirs().logits(labels, var_input).log_softmax(-1), tokens)
        loss.backward()

    @functools.cache
    def trained_by_fvar() -> None:
        trim_in_backward(var.parameters())

    def ours(dtype: torch.dtype) -> None:
        trained_by_fvar()
        var.train().zero_grad()
        var_input = stored()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = cross_entropy(var(labels, var_input).log_probs, tokens)
        loss.backward()

    def distilled(trunk: Trunk, dtype: torch.dtype) -> None:
        tutor = teacher(trunk)
        var.train().zero_grad()
        tutor.train().zero_grad()
        var_input = stored()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            mine = var(labels, var_input, features=2, trunk_before=tutor.trunk_before)
            theirs = tutor(labels, var_input, alias, features=2, trunk=mine.trunk)
            distance, _ = distillation_loss(mine, theirs, DistillConfig(), PATCH_NUMS)
            loss = cross_entropy(mine.log_probs, tokens) + cross_entropy(theirs.log_probs, tokens) + distance
        loss.backward()

    flops, whole = 3 * forward_flops(var, batch), "reference step fp32"
    cases = [
        Case(whole, plain, whole, torch.float32, flops),
        Case("  of which coding the images", code, whole, torch.float32),
    ]
    for name, dtype in dtypes().items():
        rival = f"{'original' if original else 'reference'} step {name if original else 'fp32'}, network"
        if original:
            cases.append(Case(rival, functools.partial(original_network, dtype), whole, dtype, flops))
        elif name == "fp32":
            cases.append(Case(rival, plain_network, whole, dtype, flops))
        cases.append(Case(f"step {name}", functools.partial(ours, dtype), whole, dtype, flops, rival))
    for trunk in ("shared", "separate"):  # in the last of them
        taught = functools.partial(distilled, trunk, dtype)
        cases.append(Case(f"step {name}, {trunk} teacher", taught, f"step {name}", dtype))
    return cases


def sampling_cases(depth: int, batch: int, original: Path | None = None) -> list[Case]:
    """Sampling, and its decoder alone; a case builds what it alone needs when it first runs."""
    labels, seeds = torch.arange(batch), image_seeds(0, range(batch))
    f_hat = torch.randn(batch, CHANNELS, PATCH_NUMS[-1], PATCH_NUMS[-1])

    @functools.cache
    def pair(precision: Precision) -> tuple[VAR, VQVAE]:
        var, vqvae = new_var(depth), new_vqvae()
        prepare(var, vqvae, precision, torch.device("cpu"))
        return var, vqvae

    @functools.cache
    def plain() -> tuple[VAR, VQVAE]:
        return new_var(depth).eval(), new_vqvae()

    def ours(precision: Precision) -> object:
        return sample(*pair(precision), labels, guidance=GUIDANCE, top_k=TOP_K, top_p=TOP_P, seeds=seeds)

    @functools.cache
    def theirs() -> Original:
        assert original
        return Original(original, new_var(depth), AutoencoderConfig().ch)

    def original_sampling() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in dtypes()):
            theirs().sample(labels, GUIDANCE, TOP_K, TOP_P)

    def decoded(precision: Precision) -> object:
        return decode(pair(precision)[1], f_hat)

    whole, decoder, fp32 = f"reference sampling fp32, B={batch}", "reference decoder fp32", torch.float32
    autocast = f"original sampling {'bf16' if 'bf16' in dtypes() else 'fp32'}"  # its best
    return [
        Case(whole, lambda: reference.sample(*plain(), labels, GUIDANCE, TOP_K, TOP_P), whole, fp32),
        *([Case(autocast, original_sampling, whole, fp32)] if original else []),
        *(
            Case(f"sampling {name}", functools.partial(ours, name), whole, dtype, rival=autocast if original else "")
            for name, dtype in dtypes().items()
        ),
        Case(decoder, lambda: reference.decode(plain()[1], f_hat), decoder, fp32),
        *(
            Case(f"decoder {name}, channels_last", functools.partial(decoded, name), decoder, dtype)
            for name, dtype in dtypes().items()
        ),
    ]


def matmul_ceiling(dtype: torch.dtype, now: Callable[[], float]) -> float:
    """FLOP/s of the best of five large square products."""
    a, b = torch.randn(2, 2048, 2048).to(dtype).unbind()
    return max(2 * 2048**3 / timed(lambda: a @ b, now) for _ in range(5))


def timed(run: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    run()
    return now() - start


def measure(cases: list[Case], rounds: int, clock: str) -> None:
    """Run all cases in turn `rounds` times, after one of warming up, and print the medians."""
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    ceilings = {dtype: [matmul_ceiling(dtype, now)] for dtype in dtypes().values()}
    for turn in range(rounds + 1):
        for case in cases:
            took = timed(case.run, now)
            print(f"round {turn} of {rounds}: {case.name.strip()}, {took:.2f} s", file=sys.stderr, flush=True)
            if turn:
                seconds[case.name].append(took)
        for dtype, found in ceilings.items():
            found.append(matmul_ceiling(dtype, now))
    for dtype, found in ceilings.items():
        print(f"matmul ceiling {str(dtype).removeprefix('torch.'):9} {max(found) / 1e9:6.0f} GFLOP/s")
    print(f"{'':32} {'seconds':>8} {'± %':>5} {'speed-up':>8} {'rival':>6} {'GFLOP/s':>8} {'of ceiling':>10}")

    def times_faster(case: Case, other: str) -> float:
        return statistics.median(b / a for a, b in zip(seconds[case.name], seconds[other], strict=True))

    for case in cases:
        ratio, rival = times_faster(case, case.baseline), f"{times_faster(case, case.rival):.2f}" if case.rival else ""
        took = statistics.median(seconds[case.name])
        spread = 50 * (max(seconds[case.name]) - min(seconds[case.name])) / took
        rate = case.flops / took
        speed = f"{rate / 1e9:8.0f} {rate / max(ceilings[case.dtype]):10.0%}" if rate else ""
        print(f"{case.name:32} {took:8.2f} {spread:5.1f} {ratio:8.2f} {rival:>6} {speed}".rstrip())


def print_peak_memory(cases: list[Case], arguments: list[str]) -> None:
    """Print the peak resident memory of each case in a process of its own, and its share of the baseline's."""
    peaks = {}
    for case in (case for case in cases if "step" in case.name or "sampling" in case.name):
        command = [sys.executable, "-m", "tests.benchmarks.bench_var", *arguments, "--alone", case.name]
        peaks[case.name] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        against = [name for name in (case.baseline, case.rival) if name]
        ratios = ", ".join(f"{peaks[case.name] / peaks[name]:.2f} of {name}" for name in against)
        print(f"{case.name:32} {peaks[case.name] / 2**30:8.2f} GiB   {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2, help="of a step; sampling takes twice as many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("step", "sampling", "memory"))
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: CPU seconds of one thread")
    parser.add_argument("--original", type=Path, metavar="DIR", help="a checkout of FoundationVision/VAR, which is run")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.clock == "cpu":
        torch.set_num_threads(1)
    makers = {
        "step": lambda: step_cases(args.depth, args.batch, args.original),
        "sampling": lambda: sampling_cases(args.depth, 2 * args.batch, args.original),
    }
    arguments = ["--depth", str(args.depth), "--batch", str(args.batch)]
    if args.original:
        require_sources(args.original)
        arguments += ["--original", str(args.original)]
    if args.alone:
        group = "step" if "step" in args.alone else "sampling"
        next(case for case in makers[group]() if case.name == args.alone).run()
        print(peak_memory(torch.device("cpu")))
        return
    print(f"VAR-d{args.depth}, {PATCH_NUMS[-1] * 16} px, step B={args.batch}, {torch.get_num_threads()} threads")
    if "bf16" not in dtypes():
        print("this processor has no bf16 matrix kernels: bf16 is left out, fvar computes in float32 here")
    for name in makers:
        if args.only in (None, name):
            measure(makers[name](), args.rounds, args.clock)
    if args.only in (None, "memory"):
        for name in makers:
            print_peak_memory(makers[name](), arguments)


if __name__ == "__main__":
    main()
