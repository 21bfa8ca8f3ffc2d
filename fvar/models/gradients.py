"""Gradients written out by hand, where those autograd composes pass over the data or keep it several times more often.

All functions are exact in their own right; tests compare them with autograd in float64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def unit_length(x: Tensor, size: Tensor) -> Tensor:
    """size x / |x| over the last dimension: x (..., D), a size that broadcasts to (..., 1) -> (..., D), contiguous."""
    return _UnitLength.apply(x, size)  # type: ignore[no-untyped-call, no-any-return]


def prefixes(x: Tensor, ends: Sequence[int]) -> tuple[Tensor, ...]:
    """Views x[..., :end, :] of x (..., L, D), one per end; none is shorter than the one before.

    Autograd's own would make a gradient of all L tokens for each of them, most of it zeros, and add these up.
    """
    return _Prefixes.apply(x, tuple(ends))  # type: ignore[no-untyped-call, no-any-return]


def prefix_attention(q: Tensor, k: Tensor, v: Tensor, scale_ends: tuple[int, ...]) -> Tensor:
    """softmax(q k^T) v in which every scale sees itself and the scales before it, as plain batched products.

    Parameters
    ----------
    q, k, v
        (N, L, D), contiguous.
    scale_ends
        Where each scale ends in the sequence.
    """
    return _PrefixAttention.apply(q, k, v, scale_ends)  # type: ignore[no-untyped-call, no-any-return]


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of a depthwise convolution in which token i sees tokens i - w + 1 ... i.

    Parameters
    ----------
    x
        (B, w - 1 + L, D), with what precedes the L tokens.
    weight
        (D, 1, w).
    bias
        (D,).

    Returns
    -------
    (B, L, D), of x's dtype; the sum is made in float32 at least.
    """
    return _CausalConvolution.apply(x, weight, bias)  # type: ignore[no-untyped-call, no-any-return]


def segment_decay(rates: Tensor) -> Tensor:
    """exp of the sum of rates j + 1 ... i where i >= j, else 0: rates (..., n), not positive -> (..., n, n)."""
    return _SegmentDecay.apply(rates)  # type: ignore[no-untyped-call, no-any-return]


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight g / sqrt(mean(g^2) + eps) with g = x silu(gate): x, gate (B, L, D), weight (D,) -> (B, L, D) as x."""
    return _GatedNorm.apply(x, gate, weight, eps)  # type: ignore[no-untyped-call, no-any-return]


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """No mixed precision within; the meta device of x, on which operations are counted, has none anyway."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LN(x) (1 + scale) + shift, where LN has no weights of its own; x (B, L, C), scale and shift (B, 1, C)."""
    return _ModulatedNorm.apply(x, scale, shift, eps)  # type: ignore[no-untyped-call, no-any-return]


class _ModulatedNorm(torch.autograd.Function):
    """Keeps x for the backward pass, which normalises it once more; autograd would keep LN(x) as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(x, scale, mean, rstd)
        return torch.addcmul(shift, normed, 1 + scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, scale, mean, rstd = ctx.saved_tensors
        normed = torch.sub(x, mean).mul_(rstd)
        dscale, dshift = normed.mul_(gradient).sum(1, keepdim=True), gradient.sum(1, keepdim=True)
        dx, _, _ = torch.ops.aten.native_layer_norm_backward(
            (gradient * (1 + scale)).to(x.dtype), x, x.shape[-1:], mean, rstd, None, None, [True, False, False]
        )
        return dx, dscale.to(scale.dtype), dshift, None


class _UnitLength(torch.autograd.Function):
    """For a gradient g at y = size x / |x|: (size / |x|) (g - y (y . g) / size^2) at x, and (y . g) / size at size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Tensor) -> Tensor:
        with without_autocast(x):  # which would copy x to float32 for the norm
            y = x.clone(memory_format=torch.contiguous_format)  # before the norm, which is slow on scattered vectors
            factor = (size / torch.linalg.vector_norm(y, dim=-1, keepdim=True).clamp_min(1e-12)).to(x.dtype)
            y.mul_(factor)
        ctx.save_for_backward(y, factor, size)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        y, factor, size = ctx.saved_tensors
        along = torch.linalg.vecdot(y, gradient)[..., None]
        x = torch.addcmul(gradient, y, (along / -size.square()).to(y.dtype)).mul_(factor)
        return x, (along / size).sum_to_size(size.shape) if ctx.needs_input_grad[1] else None


class _Prefixes(torch.autograd.Function):
    """The gradients are added from the longest to the shortest, as autograd does: its bits stay."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.ends, ctx.length = ends, x.shape[-2]
        return tuple(x[..., :end, :] for end in ends)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = F.pad(gradients[-1], (0, 0, 0, ctx.length - ctx.ends[-1]))  # a copy even where nothing is added
        for end, gradient in zip(ctx.ends[-2::-1], gradients[-2::-1], strict=True):
            total[..., :end, :].add_(gradient)
        return total, None


class _CausalConvolution(torch.autograd.Function):
    """As w shifted products: torch's depthwise convolutions take three times as long in bfloat16 on a CPU.

    Keeps x alone, of which the backward pass makes the sum once more. Autograd would keep the sum, and sum up w
    gradients that it first pads to the whole of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return F.silu(_shifted_sum(x, weight, bias), inplace=True).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        length, total = gradient.shape[1], _shifted_sum(x, weight, bias)
        dsum = torch.ops.aten.silu_backward(gradient.to(total.dtype), total)
        dx, dweight = torch.zeros_like(x, dtype=total.dtype), torch.empty_like(weight)
        for shift, column in enumerate(weight.to(total.dtype).unbind(2)):
            seen = slice(shift, shift + length)
            dx[:, seen].addcmul_(dsum, column[:, 0])
            dweight[:, 0, shift] = (x[:, seen] * dsum).sum((0, 1))
        return dx.to(x.dtype), dweight, dsum.sum((0, 1)).to(bias.dtype)


def _shifted_sum(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution itself: (B, L, D) in float32 at least."""
    weight, bias = (t.to(_exact(weight.dtype)) for t in (weight, bias))
    taps = weight.shape[-1]
    length = x.shape[1] - taps + 1
    total = torch.addcmul(bias, x[:, :length], weight[:, 0, 0])
    for shift in range(1, taps):
        total.addcmul_(x[:, shift : shift + length], weight[:, 0, shift])
    return total


class _SegmentDecay(torch.autograd.Function):
    """A rate's gradient is the sum over all segments it lies in, of which none is taken off again.

    Autograd would go through the cumulative sum, where large terms cancel: in float32 a gradient was off by 0.2 %.
    """

    @staticmethod
    def forward(ctx: Any, rates: Tensor) -> Tensor:
        grown = rates.cumsum(-1)
        decay = grown[..., :, None].sub(grown[..., None, :]).exp_().tril_()  # what overflows lies above the diagonal
        ctx.save_for_backward(decay)
        return decay

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (decay,) = ctx.saved_tensors
        ends_later = torch.ones(decay.shape[-2:], dtype=decay.dtype, device=decay.device).triu()
        later: Tensor = ends_later @ (gradient * decay)
        return later.tril_(-1).sum(-1)  # and begins before


class _GatedNorm(torch.autograd.Function):
    """Keeps x, the gate and a number per token, and makes g once more; autograd would keep five maps of x's size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        gated = F.silu(gate.to(_exact(weight.dtype))).mul_(x)
        rstd = gated.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, gate, weight, rstd)
        return gated.mul_(rstd).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gate, weight, rstd = ctx.saved_tensors
        exact, gradient = (t.to(rstd.dtype) for t in (gate, gradient))
        silu = F.silu(exact)
        normed = (silu * x).mul_(rstd)
        dweight = (gradient * normed).sum((0, 1))
        dnormed = gradient * weight
        dgated = dnormed.sub_(normed.mul_((dnormed * normed).mean(-1, keepdim=True))).mul_(rstd)
        dgate = torch.ops.aten.silu_backward(dgated * x, exact)
        return silu.mul_(dgated).to(x.dtype), dgate.to(gate.dtype), dweight.to(weight.dtype), None


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _PrefixAttention(torch.autograd.Function):
    """Keys and values are read where they lie, prefix by prefix, and their gradients are summed in place.

    Autograd would pad each prefix's gradient to the whole sequence first.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale_ends: tuple[int, ...]) -> Tensor:
        out, weights = torch.empty_like(q), []
        for start, end, hidden in runs(scale_ends, q.device):
            scores = q[:, start:end] @ k[:, :end].mT
            if hidden is not None:
                scores.masked_fill_(hidden, -torch.inf)
            weights.append(scores.softmax(-1))
            out[:, start:end] = weights[-1] @ v[:, :end]
        ctx.scale_ends = scale_ends
        ctx.save_for_backward(q, k, v, out, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, *weights = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        mean = torch.linalg.vecdot(gradient, out)[..., None]  # of the weights' gradients, under the weights
        for (start, end, _), weight in zip(runs(ctx.scale_ends, q.device), weights, strict=True):
            g = gradient[:, start:end]
            dv[:, :end].baddbmm_(weight.mT, g)
            scores = (g @ v[:, :end].mT).sub_(mean[:, start:end]).mul_(weight)
            dq[:, start:end] = scores @ k[:, :end]
            dk[:, :end].baddbmm_(scores.mT, q[:, start:end])
        return dq, dk, dv, None


def runs(scale_ends: tuple[int, ...], device: torch.device) -> list[tuple[int, int, Tensor | None]]:
    """Cuts a sequence of scales into (start, end, hidden): queries start ... end see the keys before `end`.

    But for those `hidden` (end - start, end) bool: the first scales are tiny, so all within the first quarter of the
    sequence share one run under a small mask.
    """
    small = [end for end in scale_ends if end <= scale_ends[-1] // 4]
    found: list[tuple[int, int, Tensor | None]] = []
    if len(small) > 1:
        hidden = torch.ones(small[-1], small[-1], dtype=torch.bool, device=device)
        for begin, end in pairwise((0, *small)):  # written there: numbers that are sent make a GPU wait
            hidden[begin:end, :end] = False
        found.append((0, small[-1], hidden))
    else:
        small = []
    rest = scale_ends[len(small) :]
    return found + [(start, end, None) for start, end in pairwise((small[-1] if small else 0, *rest))]
