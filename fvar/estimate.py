"""What a training will cost, before it is started: parameters, FLOPs, memory, GPU hours.

    python -m fvar.estimate results/runs/var-0123456789abcdef --ranks 8 --utilisation 0.4

Closed formulas of the configuration; tests hold them against the built networks and torch's FLOP counter. One
multiply-add is 2 FLOPs; what is not a matrix product or a convolution is left out, as usual. Never imports torch.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from pathlib import Path

from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    QuantiserConfig,
    Residual,
    Signal,
    Stage,
    TeacherConfig,
    TokenizerConfig,
    TokensConfig,
    TrainConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.errors import UserError, run_main
from fvar.rundir import RunDir


@dataclass(frozen=True)
class Device:
    """A GPU: dense bf16 peak in FLOP/s and memory in bytes, from the maker's data sheet."""

    name: str
    peak: float
    memory: float


CHUNK = 64  # tokens that Mamba-2 takes at a time, as fvar.models.mamba
DEVICES = (Device("A100", 312e12, 80e9), Device("H100", 989e12, 80e9), Device("H200", 989e12, 141e9))
CLASSES = {"emoji": 9, "text": 9, "cifar10": 10}  # folders and shards are taken for ImageNet
IMAGENET_CLASSES = 1000
COARSE_IMAGES = 0.25  # blurred views that a focus tokenizer decodes per image
MASTER_BYTES = 16  # per trained parameter, in float32: weight, gradient and AdamW's two moments


@dataclass(frozen=True)
class Part:
    """One part of a training, per image: its FLOPs, and the numbers its backward pass keeps in memory."""

    name: str
    parameters: float
    forward: float
    backward: float
    kept: float = 0.0
    recomputed: float = 0.0  # FLOPs of the forward pass that are made again within the backward one

    @property
    def flops(self) -> float:
        return self.forward + self.backward + self.recomputed


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
    phi = (len(patch_nums) - 1) * _conv(z, z, 3, patch_nums[-1])[1]
    yield Part("input from tokens", 0, phi, 0)
    yield _network("student", cfg, cfg.depth, vocab, patch_nums, (classes, z), learns=True)
    if teacher:
        learns = teacher.learns == "online"
        if teacher.trunk == "separate":
            yield _network("teacher", cfg, cfg.depth, vocab, patch_nums, (classes, z), learns=learns)
        else:
            yield _network("teacher", cfg, teacher.blocks, vocab, patch_nums, None, learns=learns)
        if alias:
            yield _cross_attention(cfg, teacher, patch_nums, alias.quantiser.vocab_size, learns=learns)


@functools.cache  # asked for each seed of a plan
def _network(
    name: str,
    cfg: TransformerConfig,
    depth: int,
    vocab: int,
    patch_nums: tuple[int, ...],
    embeddings: tuple[int, int] | None,
    *,
    learns: bool,
) -> Part:
    """`depth` blocks and the classifier, with `embeddings` for (classes, latent channels).

    Without, embeddings and classifier are another network's, which only lets a gradient through.
    """
    dim, sizes = cfg.dim, [p * p for p in patch_nums]
    length, first = sum(sizes), sizes[0]
    parts = [_residual(residual, cfg, sizes) for residual in cfg.residuals]
    block_parameters, block, again, kept = (sum(column) for column in zip(*parts, strict=True))
    made = 3 * len(parts) * dim  # modulations of a block
    if cfg.shared_aln:
        block_parameters += made
    else:
        block_parameters, block = block_parameters + made * (dim + 1), block + 2 * made * dim
    head_parameters = 2 * dim * (dim + 1) + vocab * (dim + 1)
    modulation, logits = 4 * dim * dim, 2 * length * dim * vocab
    parameters, forward = depth * block_parameters, depth * block + modulation + logits
    backward, recomputed = 2 * depth * block + logits, depth * again + (depth * block if cfg.checkpointing else 0)
    if embeddings:
        classes, z = embeddings
        parameters += head_parameters + (z + 1) * dim + (classes + 1) * dim + (first + length + len(sizes)) * dim
        embed = 2 * (length - first) * z * dim
        if cfg.shared_aln:
            parameters, modulation = parameters + made * (dim + 1), modulation + 2 * made * dim
            forward += 2 * made * dim
        forward, backward = forward + embed, backward + 2 * modulation + logits + embed  # its input needs no gradient
    kept = depth * (length * dim if cfg.checkpointing else kept) + 5 * length * vocab
    if not learns:
        return Part(f"{name} (frozen)", 0, forward, 0)
    return Part(name, parameters, forward, backward, kept, recomputed)


def _residual(residual: Residual, cfg: TransformerConfig, sizes: Sequence[int]) -> tuple[float, float, float, float]:
    """Of one residual of a block: parameters, FLOPs forward, FLOPs of what is always recomputed, numbers kept.

    Attention and feed-forward keep 17 numbers per channel: Korthikanti et al. 2022, Eq. 1, without the scores.
    """
    dim, length = cfg.dim, sum(sizes)
    if residual == "feed_forward":
        hidden = round(dim * cfg.mlp_ratio)
        return 2 * dim * hidden + hidden + dim, 4 * length * dim * hidden, 0, 11.5 * length * dim
    if residual == "mamba2":
        heads, width, n = cfg.mamba.expand * dim // cfg.mamba.head_dim, cfg.mamba.head_dim, cfg.mamba.d_state
        inner, projected = heads * width, 2 * heads * width + 2 * n + heads
        parameters = dim * projected + (inner + 2 * n) * (cfg.mamba.d_conv + 1) + 3 * heads + inner + inner * dim
        chunks = ceil(length / CHUNK)
        size = ceil(length / chunks)
        scan = 2 * chunks * size * (size * (n + inner) + 2 * n * inner)
        # Kept: the projections' inputs, what they make, and the convolution's input and output.
        return parameters, 2 * length * dim * (projected + inner) + scan, scan, length * (2 * dim + 8 * inner)
    pairs = sum(n * n for n in sizes)  # of query and visible key
    if residual == "prefix_attention":
        pairs = sum(n * end for n, end in zip(sizes, accumulate(sizes), strict=True))
    temperatures = cfg.num_heads if cfg.attn_l2_norm else 0
    return 4 * dim * dim + 3 * dim + temperatures, 8 * length * dim * dim + 4 * pairs * dim, 0, 5.5 * length * dim


@functools.cache
def _cross_attention(
    cfg: TransformerConfig, teacher: TeacherConfig, patch_nums: tuple[int, ...], vocab: int, *, learns: bool
) -> Part:
    """AG-XAttn of all `teacher.blocks` and the alias embedding."""
    dim, inner = cfg.dim, teacher.heads * teacher.head_dim
    sizes = [p * p for p in patch_nums]
    heard = [*sizes[:-1], 0]  # the sharpest residual is zero: its tokens are not read
    length, ends = sum(heard), list(accumulate(heard))
    visible = ends if teacher.visibility == "own" else [0, *ends[:-1]]
    spans = list(zip(sizes, visible, strict=True))[-teacher.last_scales :] if teacher.last_scales else None
    spans = [(n, keys) for n, keys in (spans or list(zip(sizes, visible, strict=True))) if keys]
    queries, pairs = sum(n for n, _ in spans), sum(n * keys for n, keys in spans)

    gated = teacher.gate == "sigmoid"
    parameters = teacher.blocks * (2 * dim * inner + 2 * inner * inner + (dim * (inner + 1) if gated else 0))
    parameters += (vocab + len(sizes) + length) * inner
    per_query = (3 if gated else 2) * dim * inner
    forward = teacher.blocks * (2 * queries * per_query + 4 * length * inner * inner + 4 * pairs * inner)
    kept = teacher.blocks * (queries * (3 * dim + 2 * inner) + 2 * length * inner)
    if not learns:
        return Part("AG-XAttn (frozen)", 0, forward, 0)
    return Part("AG-XAttn", parameters, forward, 2 * forward, kept)


# ---------------------------------------------------------------------------------------------------------- tokenizers


def _tokenizer(config: TokenizerConfig) -> tuple[Part, ...]:
    """Encoder, quantiser and decoder; the critics (perceptual network, discriminator) are not counted."""
    return _coder(config.signal, config.autoencoder, config.quantiser, config.pyramid.patch_nums)


@functools.cache
def _coder(
    signal: Signal, auto: AutoencoderConfig, quantiser: QuantiserConfig, patch_nums: tuple[int, ...]
) -> tuple[Part, ...]:
    side, z, whole = patch_nums[-1], auto.z_channels, quantiser.reading == "latent_area"
    coded = patch_nums[:-1] if signal == "alias" else patch_nums  # the sharpest residual is zero
    encoded = [side] if whole else coded
    if signal == "alias":
        decoded = [(p, 1.0) for p in coded]
    else:
        decoded = [(side, 1.0 if whole or len(patch_nums) == 1 else 1 + COARSE_IMAGES)]

    look_up = sum(2 * p * p * z * quantiser.vocab_size for p in coded)
    phi_parameters, phi = _conv(z, z, 3, side)
    phis = _phis_used(quantiser.num_phi, len(patch_nums), len(coded))
    codes = quantiser.vocab_size * z if quantiser.codebook == "gradient" else 0
    used = len(coded) * phi
    return (
        _convolutions("encoder", [(_encoder(auto, p), 1.0) for p in encoded]),
        Part("quantiser", phis * phi_parameters + codes, look_up + used, used),
        _convolutions("decoder", [(_decoder(auto, p), times) for p, times in decoded]),
    )


def _phis_used(count: int, scales: int, coded: int) -> int:
    """How many phi the first `coded` of the scales use; see `fvar.tokenizer.quantiser.SharedPhi`."""
    if not count:
        return coded
    margin = (1 / 3 if count == 4 else 1 / 2) / count
    ticks = [margin + (1 - 2 * margin) * i / max(count - 1, 1) for i in range(count)]
    places = [k / max(scales - 1, 1) for k in range(coded)]
    return len({min(range(count), key=lambda i: abs(ticks[i] - place)) for place in places})


Layers = list[tuple[float, float, float]]  # per layer: parameters, FLOPs, numbers in its output


def _convolutions(name: str, runs: Sequence[tuple[Layers, float]]) -> Part:
    """One network applied to several sizes, each a number of times per image."""
    forward = sum(times * flops for layers, times in runs for _, flops, _ in layers)
    kept = sum(times * 2 * out for layers, times in runs for _, _, out in layers)  # input of the norm and of the layer
    return Part(name, sum(layer[0] for layer in runs[0][0]), forward, 2 * forward, kept)


def _conv(channels_in: int, channels_out: int, kernel: int, side: int) -> tuple[int, int]:
    """Parameters and FLOPs of a convolution whose output is side x side."""
    weights = channels_in * channels_out * kernel * kernel
    return weights + channels_out, 2 * side * side * weights


def _layer(channels_in: int, channels_out: int, kernel: int, side: int, norm: int = 0) -> Layers:
    """A convolution, with a group normalisation over `norm` channels before it."""
    parameters, flops = _conv(channels_in, channels_out, kernel, side)
    return [(parameters + 2 * norm, flops, channels_out * side * side)]


def _doubling(width: int, side: int) -> Layers:
    """A 3x3 convolution of doubled pixels, computed as a 4x4 transposed one of the `side` x `side` map."""
    parameters, _ = _conv(width, width, 3, side)
    return [(parameters, 2 * side * side * 16 * width * width, 4 * width * side * side)]


def _resnet(a: int, b: int, side: int) -> Layers:
    shortcut = _layer(a, b, 1, side) if a != b else []
    return _layer(a, b, 3, side, norm=a) + _layer(b, b, 3, side, norm=b) + shortcut


def _attention(width: int, side: int) -> Layers:
    product = (0, 4 * side**4 * width, width * side * side)
    return [*_layer(width, 3 * width, 1, side, norm=width), product, *_layer(width, width, 1, side)]


def _middle(cfg: AutoencoderConfig, width: int, side: int) -> Layers:
    return _resnet(width, width, side) * 2 + (_attention(width, side) if cfg.attention else [])


def _encoder(cfg: AutoencoderConfig, p: int) -> Layers:
    """Encoder and quant_conv, from an image of side f*p to p x p latents."""
    width, side = cfg.ch, p * cfg.downsample_factor
    layers = _layer(3, width, 3, side)
    for multiple in cfg.ch_mult:
        channels, lowest = cfg.ch * multiple, side == p
        for _ in range(cfg.num_res_blocks):
            layers += _resnet(width, channels, side) + (_attention(channels, side) if cfg.attention and lowest else [])
            width = channels
        if not lowest:
            side //= 2
            layers += _layer(width, width, 3, side)
    z = cfg.z_channels
    return layers + _middle(cfg, width, p) + _layer(width, z, 3, p, norm=width) + _layer(z, z, 3, p)


def _decoder(cfg: AutoencoderConfig, p: int) -> Layers:
    """post_quant_conv and decoder, from p x p latents to an image of side f*p."""
    width, side, z = cfg.ch * cfg.ch_mult[-1], p, cfg.z_channels
    layers = _layer(z, z, 3, p) + _layer(z, width, 3, p) + _middle(cfg, width, p)
    for number, multiple in reversed(list(enumerate(cfg.ch_mult))):
        channels = cfg.ch * multiple
        for _ in range(cfg.num_res_blocks + 1):
            layers += _resnet(width, channels, side) + (
                _attention(channels, side) if cfg.attention and side == p else []
            )
            width = channels
        if number:
            layers += _doubling(width, side)
            side *= 2
    return layers + _layer(width, 3, 3, side, norm=width)


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
