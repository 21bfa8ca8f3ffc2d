"""Generation: token maps drawn scale by scale, with guidance, then decoded.

At scale k (0-based, of K) guidance t = guidance * k / (K - 1) mixes the two halves of one doubled batch,
logits = (1 + t) conditional - t unconditional; then top-k, top-p, one draw per token.

What "the same image" means here. Image i draws from a counter-based stream of its own, keyed by its seed: its random
numbers depend on nothing else, neither batch size nor rank nor device. Whether the network returns the same bits in
another batch is up to the matrix kernels. On CPUs it does, as tests/test_sampling.py checks: in bfloat16 always, in
float32 because batches are padded to whole row blocks. On GPUs the kernels change with the batch, and a token may flip
where two are nearly tied; there, equal batches (the same images together) give equal images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import Precision
from fvar.data.images import to_uint8
from fvar.machine.precision import computed, dtype_of
from fvar.machine.transfer import send
from fvar.models.mamba import RATES
from fvar.models.var import VAR, ScaleByScale
from fvar.tokenizer.vqvae import VQVAE

ROW_BLOCK = 4  # rows that CPU float32 matrix kernels handle together; in a whole block a row's bits are its own


@dataclass(frozen=True)
class Known:
    """Tokens that are given, per scale: `tokens` (B, n_k) int64, kept where `held` (B, n_k) is true."""

    tokens: list[Tensor]
    held: list[Tensor]

    @classmethod
    def of(cls, each: Sequence[Known]) -> Known:
        """What is given of several images, as one batch."""
        tokens, held = (
            [torch.cat(scale) for scale in zip(*sides, strict=True)]
            for sides in ([known.tokens for known in each], [known.held for known in each])
        )
        return cls(tokens, held)

    def repeat(self, count: int) -> Known:
        """The same for `count` variations of one image."""
        return Known([t.expand(count, -1) for t in self.tokens], [t.expand(count, -1) for t in self.held])


@dataclass(frozen=True)
class Samples:
    """What was generated; lists run over the scales."""

    images: Tensor  # (B, 3, H, W) uint8
    tokens: list[Tensor]  # (B, n_k) int64
    f_hats: list[Tensor]  # (B, Cz, P, P) latent maps after each scale; decoded, they show blur turning to clarity


def image_seeds(seed: int, indices: Iterable[int]) -> list[int]:
    """Seeds of the images `indices` of one set of samples; sets of different `seed` share none."""
    return [(seed << 40) + index for index in indices]


def prepare(var: VAR, vqvae: VQVAE, precision: Precision, device: torch.device) -> None:
    """Make both networks ready for sampling, in place: eval mode, weights in `precision`, decoder in channels_last.

    Half precision becomes float32 where the processor has no kernels of it (fvar.machine.precision).

    The quantiser stays in float32: it is cheap, and its latent map accumulates over the scales. So do the rates of
    Mamba-2, whose errors would grow with every token.
    """
    dtype = dtype_of(computed(precision, device))
    exact = {name: p.detach().clone() for name, p in var.named_parameters() if name.rpartition(".")[2] in RATES}
    var.eval().to(device, dtype)
    for name, rates in exact.items():
        var.get_parameter(name).data = rates.to(device)
    vqvae.eval().to(device)
    for module in (vqvae.post_quant_conv, vqvae.decoder):
        module.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def sample(
    var: VAR,
    vqvae: VQVAE,
    labels: Tensor,
    *,
    guidance: float,
    top_k: int,
    top_p: float,
    seeds: Sequence[int],
    known: Known | None = None,
    smooth: bool = False,
    on_scale: Callable[[int], None] | None = None,
) -> Samples:
    """Generate one image per label.

    Parameters
    ----------
    var, vqvae
        In eval mode, on the device of `labels`; `prepare` sees to it.
    labels
        (B,) classes.
    guidance
        Strength at the last scale; 0 runs the conditional half only.
    top_k
        Keep this number of the likeliest tokens; 0 or more than the vocabulary keeps all.
    top_p
        Of these, keep the smallest set whose probability reaches top_p; in (0, 1].
    seeds
        One per image, see `image_seeds`.
    known
        Tokens to hold (inpainting, outpainting, editing).
    smooth
        Feed the network a Gumbel-softmax mixture of codes in place of the drawn code. Smoother pictures, for
        the eye only: not for scores.
    on_scale
        Called with k after scale k.

    Raises
    ------
    ValueError
        An argument outside its range, or of another size than the networks expect.
    """
    _check(var, vqvae, labels, top_k, top_p, seeds, known)
    batch, scales = len(labels), len(var.patch_nums)
    copies = 2 if guidance else 1
    streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
    padded = _padded(labels, copies) if labels.device.type == "cpu" and var.pos_1LC.dtype == torch.float32 else labels
    unconditional = torch.full_like(padded, var.num_classes)
    network = ScaleByScale(var, torch.cat([padded, unconditional][:copies]))
    f_hat = vqvae.quantize.blank(padded)
    next_map: Tensor | None = None
    drawn: list[Tensor] = []
    f_hats: list[Tensor] = []
    for k, side in enumerate(var.patch_nums):
        progress = k / (scales - 1) if scales > 1 else 1.0
        logits = network.logits(None if next_map is None else next_map.repeat(copies, 1, 1, 1)).float()
        if guidance:
            conditional, free = logits.chunk(2)
            logits = torch.lerp(free, conditional, 1 + guidance * progress)
        uniform = np.stack([stream.random(side * side) for stream in streams])  # (B, n_k)
        tokens = draw(logits[:batch], send(torch.from_numpy(uniform), logits.device), top_k, top_p)
        if known is not None:
            tokens = torch.where(known.held[k], known.tokens[k], tokens)
        drawn.append(tokens)
        codes = vqvae.quantize.code_map(k, tokens)
        if smooth:
            mixture = _gumbel_mixture(logits[:batch], streams, top_k, top_p, progress) @ vqvae.quantize.embedding.weight
            mixture = mixture.mT.reshape(codes.shape)
            codes = mixture if known is None else torch.where(known.held[k].view(batch, 1, side, side), codes, mixture)
        if len(padded) > batch:
            codes = torch.cat((codes, codes[-1:].expand(len(padded) - batch, -1, -1, -1)))
        f_hat, next_map = vqvae.next_input(k, f_hat, codes)
        f_hats.append(f_hat[:batch])
        if on_scale is not None:
            on_scale(k)
    del network  # the decoder needs the memory of its keys and values
    return Samples(to_uint8(decode(vqvae, f_hats[-1])), drawn, f_hats)


@torch.no_grad()
def decode(vqvae: VQVAE, f_hat: Tensor) -> Tensor:
    """Images (B, 3, H, W) float32 in [-1, 1] of latent maps (B, Cz, P, P).

    One at a time on a CPU: batching gains nothing there, and the decoder's activations are the peak of the memory.
    """
    dtype = vqvae.post_quant_conv.weight.dtype
    size = 1 if f_hat.device.type == "cpu" else 16
    parts = torch.split(f_hat.to(dtype).contiguous(memory_format=torch.channels_last), size)
    return torch.cat([vqvae.decode(part).float() for part in parts])


def draw(logits: Tensor, uniform: Tensor, top_k: int, top_p: float) -> Tensor:
    """One token per position by inverting the cumulative distribution, in the order of the vocabulary.

    Parameters
    ----------
    logits
        (B, n, V) float32.
    uniform
        (B, n) float64 in [0, 1).

    Returns
    -------
    (B, n) int64. A token filtered out by top-k or top-p is never drawn.
    """
    cumulative = F.softmax(filter_logits(logits, top_k, top_p), dim=-1).double().cumsum(-1)
    below_one = 1 - 2.0**-40  # keeps the sought mass under the total, whatever the rounding
    sought = uniform[..., None] * below_one * cumulative[..., -1:]
    return torch.searchsorted(cumulative, sought, right=True).squeeze(-1)


def filter_logits(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits (..., V) with -inf for all tokens but the `top_k` likeliest, and of these the nucleus of mass `top_p`.

    Equal logits share their fate, so more than `top_k` may stay.
    """
    vocab_size = logits.shape[-1]
    top_k = min(top_k or vocab_size, vocab_size)
    if top_k == vocab_size and top_p >= 1:
        return logits
    best = logits.topk(top_k, dim=-1).values  # falling
    before = F.softmax(best, dim=-1).cumsum(-1).roll(1, -1)  # mass of all likelier tokens
    before[..., 0] = 0
    inside = (before < top_p).sum(-1, keepdim=True)
    return logits.masked_fill(logits < best.gather(-1, inside - 1), -torch.inf)


def _gumbel_mixture(
    logits: Tensor, streams: Sequence[np.random.Generator], top_k: int, top_p: float, progress: float
) -> Tensor:
    """Gumbel-softmax weights (B, n, V) at a temperature that falls to nearly one-hot over the scales."""
    temperature = max(0.25 * (1 - progress), 0.01)
    noise = np.stack([stream.gumbel(size=logits.shape[1:]).astype(np.float32) for stream in streams])
    filtered = filter_logits(logits, top_k, top_p)
    return F.softmax((filtered + send(torch.from_numpy(noise), logits.device)) / temperature, dim=-1)


def _padded(labels: Tensor, copies: int) -> Tensor:
    """Repeat the last label until all copies together fill whole row blocks."""
    missing = -len(labels) % (ROW_BLOCK // copies)
    return torch.cat((labels, labels[-1:].expand(missing)))


def _check(
    var: VAR,
    vqvae: VQVAE,
    labels: Tensor,
    top_k: int,
    top_p: float,
    seeds: Sequence[int],
    known: Known | None,
) -> None:
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], found {top_p}")
    if top_k < 0:
        raise ValueError(f"top_k must be at least 0, found {top_k}")
    if len(labels) == 0 or len(seeds) != len(labels):
        raise ValueError(f"expected one seed for each of at least one label, found {len(labels)} and {len(seeds)}")
    if int(labels.min()) < 0 or int(labels.max()) > var.num_classes:
        raise ValueError(
            f"classes must be 0 to {var.num_classes - 1}, found {int(labels.min())} to {int(labels.max())}"
        )
    if (var.patch_nums, var.vocab_size, var.z_channels) != (vqvae.patch_nums, vqvae.vocab_size, vqvae.z_channels):
        raise ValueError(
            "the tokenizer must have the transformer's scales, vocabulary and channels "
            f"{var.patch_nums}, {var.vocab_size}, {var.z_channels}, found "
            f"{vqvae.patch_nums}, {vqvae.vocab_size}, {vqvae.z_channels}"
        )
    if known is not None:
        expected = [(len(labels), side * side) for side in var.patch_nums]
        found = [tuple(tokens.shape) for tokens in known.tokens]
        if found != expected or [tuple(held.shape) for held in known.held] != expected:
            raise ValueError(f"known tokens and masks must have the shapes {expected}, found {found}")
