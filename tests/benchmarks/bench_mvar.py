"""M-VAR beside VAR, and Mamba-2's scan beside its recurrence, in one run.

    python -m tests.benchmarks.bench_mvar                             d16 at 256 px
    python -m tests.benchmarks.bench_mvar --depth 2 --rounds 1        a quick look
    python -m tests.benchmarks.bench_mvar --only scan --clock cpu     on a shared machine: one thread's CPU seconds

First the floor, from shapes alone: the products of matrices that each part cannot do without, and the bytes that the
scan must read and write once. Then, interleaved round by round, medians in seconds and the speed-up over the case each
is compared with:

step       a training step (input given, forward, backward) of VAR and of M-VAR
sampling   both networks and their tokenizer, from labels to images: the paper's column "Time"
state      M-VAR's logits scale by scale: from the carried state; by a run over all tokens so far; by a run over the
           whole sequence. By FLOPs alone the second costs 2.5 times the first at 256 px, the third ten times.
scan       Mamba-2's scan, forward and backward: in chunks, and one token after another (at least 20 times as long)

FLOP/s are those of the floor over the time, against a measured ceiling of the same dtype.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import Mixer, Precision, TransformerConfig
from fvar.flops.transformer import CHUNK
from fvar.models.attention import scale_ends
from fvar.models.mamba import chunked
from fvar.models.var import VAR, ScaleByScale
from fvar.sampling import image_seeds, prepare, sample
from fvar.tokenizer.vqvae import VQVAE
from tests.benchmarks import reference
from tests.benchmarks.bench_var import (
    CHANNELS,
    CLASSES,
    CLOCKS,
    GUIDANCE,
    PATCH_NUMS,
    TOP_K,
    TOP_P,
    VOCAB,
    Case,
    dtypes,
    measure,
    new_vqvae,
)

MIXERS: tuple[Mixer, ...] = ("var", "mvar")
NAMES = {"var": "VAR", "mvar": "M-VAR"}
LENGTH = scale_ends(PATCH_NUMS)[-1]


def new_network(depth: int, mixer: Mixer) -> VAR:
    torch.manual_seed(0)
    return VAR(TransformerConfig(depth=depth, mixer=mixer), CLASSES, VOCAB, CHANNELS, PATCH_NUMS)


# ---------------------------------------------------------------------------------------------------------------- floor


def forward_flops(var: VAR, batch: int) -> float:
    """Two per multiply-add of a forward pass: linear layers per token, AdaLN per image, attention, and the scan."""
    cfg, sizes = var.cfg, [p * p for p in PATCH_NUMS]
    weights = {name: p.numel() for name, p in var.named_parameters() if p.dim() == 2}
    ada = sum(count for name, count in weights.items() if "ada_lin" in name)
    linear = sum(weights.values()) - ada - weights["class_emb.weight"] - weights["lvl_embed.weight"]
    if cfg.mixer == "var":
        pairs, scan = sum(n * end for n, end in zip(sizes, var.scale_ends, strict=True)), 0.0
    else:
        pairs, scan = sum(n * n for n in sizes), scan_flops(cfg)
    return batch * (2.0 * (linear * LENGTH + ada + 2 * cfg.dim * pairs * cfg.depth) + cfg.depth * scan)


def scan_flops(cfg: TransformerConfig) -> float:
    """Of one image in one block: scores and outputs within chunks, what they add to the state and read from it."""
    inner, n = cfg.mamba.expand * cfg.dim, cfg.mamba.d_state
    return 2.0 * LENGTH * (CHUNK * (n + inner) + 2 * n * inner)


def scan_bytes(cfg: TransformerConfig) -> float:
    """Of one image in one block in float32: x, dt, B and C are read, y is written."""
    inner = cfg.mamba.expand * cfg.dim
    return 4.0 * LENGTH * (2 * inner + inner // cfg.mamba.head_dim + 2 * cfg.mamba.d_state)


def print_floor(depth: int, batch: int) -> None:
    with torch.device("meta"):
        var, mvar = (new_network(depth, mixer) for mixer in MIXERS)
    for network in (var, mvar):
        flops = forward_flops(network, 1)
        count = sum(p.numel() for p in network.parameters())
        name = NAMES[network.cfg.mixer]
        print(f"{name:6} {count / 1e6:8.1f} M parameters {flops / 1e9:8.1f} GFLOP per image forward, x 3 in a step")
    ratio = forward_flops(mvar, 1) / forward_flops(var, 1)
    again = sum(mvar.scale_ends) / LENGTH
    print(f"so a step of M-VAR costs at least {ratio:.2f} of VAR's, by its products")
    products, moved = scan_flops(mvar.cfg), scan_bytes(mvar.cfg)
    print(
        f"scan   {products / 1e9:8.2f} GFLOP and {moved / 2**20:.1f} MiB per image and block: "
        f"{products / moved:.0f} FLOP per byte, {depth * batch} of them in a forward pass"
    )
    print(f"tokens {LENGTH} from the state, {again * LENGTH:.0f} where all so far are run again ({again:.2f} times)")


# ---------------------------------------------------------------------------------------------------------------- cases


def step_cases(depth: int, batch: int) -> list[Case]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    targets = torch.randint(VOCAB, (batch * LENGTH,), generator=generator)
    var_input = torch.randn(batch, LENGTH - 1, CHANNELS, generator=generator)
    network = functools.cache(lambda mixer: new_network(depth, mixer).train())

    def step(mixer: Mixer, dtype: torch.dtype) -> None:
        var = network(mixer)
        var.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = F.nll_loss(var(labels, var_input).log_probs.flatten(0, 1), targets)
        loss.backward()

    return [
        Case(
            f"{NAMES[mixer]} step {name}",
            functools.partial(step, mixer, dtype),
            f"VAR step {name}",
            dtype,
            3 * forward_flops(network(mixer), batch),
        )
        for name, dtype in dtypes().items()
        for mixer in MIXERS
    ]


def sampling_cases(depth: int, batch: int) -> list[Case]:
    labels, seeds = torch.arange(batch), image_seeds(0, range(batch))

    @functools.cache
    def pair(mixer: Mixer, precision: Precision) -> tuple[VAR, VQVAE]:
        var, vqvae = new_network(depth, mixer), new_vqvae()
        prepare(var, vqvae, precision, torch.device("cpu"))
        return var, vqvae

    def run(mixer: Mixer, precision: Precision) -> object:
        return sample(*pair(mixer, precision), labels, guidance=GUIDANCE, top_k=TOP_K, top_p=TOP_P, seeds=seeds)

    return [
        Case(f"{NAMES[mixer]} sampling {name}", functools.partial(run, mixer, name), f"VAR sampling {name}", dtype)
        for name, dtype in dtypes().items()
        for mixer in MIXERS
    ]


def state_cases(depth: int, batch: int) -> list[Case]:
    var = new_network(depth, "mvar").eval()
    labels, var_input = torch.arange(batch), torch.randn(batch, LENGTH - 1, CHANNELS)
    maps = [None, *(part.mT.unflatten(2, (p, p)) for part, p in zip(_scales(var_input), PATCH_NUMS[1:], strict=True))]

    @torch.no_grad()
    def carried() -> Tensor:
        stepwise = ScaleByScale(var, labels)
        return torch.cat([stepwise.logits(each) for each in maps], dim=1)

    def again(padded: bool) -> Tensor:
        return reference.logits_without_memory(var, labels, var_input, padded=padded)

    whole, fp32 = "whole sequence at every scale", torch.float32
    return [
        Case(whole, lambda: again(padded=True), whole, fp32),
        Case("all tokens so far at every scale", lambda: again(padded=False), whole, fp32),
        Case("from the carried state", carried, whole, fp32, forward_flops(var, batch)),
    ]


def _scales(var_input: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = var_input.split([p * p for p in PATCH_NUMS[1:]], dim=1)
    return parts


def scan_cases(depth: int, batch: int) -> list[Case]:
    cfg = TransformerConfig(depth=depth, mixer="mvar")
    heads, width, n = cfg.mamba.expand * cfg.dim // cfg.mamba.head_dim, cfg.mamba.head_dim, cfg.mamba.d_state
    x = torch.randn(batch, LENGTH, heads, width, requires_grad=True)
    dt = (torch.rand(batch, LENGTH, heads) * 0.1).requires_grad_()
    a = (-torch.rand(heads) * 15 - 1).requires_grad_()
    b, c = (torch.randn(batch, LENGTH, n, requires_grad=True) for _ in range(2))
    state = torch.zeros(batch, heads, width, n)

    def run(scan: Callable[..., tuple[Tensor, Tensor]]) -> None:
        y, _ = scan(x, dt, a, b, c, state)
        torch.autograd.grad(y, (x, dt, a, b, c), torch.ones_like(y))

    whole, fp32 = "one token after another", torch.float32
    return [
        Case(whole, lambda: run(reference.sequential_scan), whole, fp32),
        Case(f"in chunks of {CHUNK}", lambda: run(chunked), whole, fp32, 3 * batch * scan_flops(cfg)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    makers = {"step": step_cases, "sampling": sampling_cases, "state": state_cases, "scan": scan_cases}
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=tuple(makers))
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: CPU seconds of one thread")
    args = parser.parse_args()
    if args.clock == "cpu":
        torch.set_num_threads(1)
    print(f"d{args.depth}, {PATCH_NUMS[-1] * 16} px, B={args.batch}, {torch.get_num_threads()} threads")
    print_floor(args.depth, args.batch)
    for name, make in makers.items():
        if args.only in (None, name):
            print(f"--- {name}")
            measure(make(args.depth, args.batch), args.rounds, args.clock)


if __name__ == "__main__":
    main()
