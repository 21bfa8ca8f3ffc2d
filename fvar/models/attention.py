"""Self-attention over scales: a token sees its own scale and all coarser ones (VAR), or its own alone (M-VAR).

The sequence lists the token maps scale by scale, coarse to fine. Instead of masking a dense (L, L) product, every run
of queries attends only to what it may see: the hidden part is not computed at all. While sampling, the keys and values
of earlier scales lie in a preallocated cache, and no mask exists either, since everything cached is visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fvar.config import TransformerConfig
from fvar.models.gradients import prefix_attention, prefixes, runs, unit_length

MAX_LOG_SCALE = 4.605170185988092  # ln 100, VAR's cap of the learned temperature
SCORES = 1 << 24  # numbers that written-out attention holds at a time


class KVCache:
    """Keys and values of one block for all scales but the last, allocated once: two tensors (B, H, length, D).

    Nobody reads the last scale's again, so what does not fit any more is joined for the one use and not kept.
    """

    def __init__(self, batch: int, heads: int, length: int, head_dim: int, like: Tensor) -> None:
        self.keys = like.new_empty(batch, heads, length, head_dim)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest scale's keys and values (B, H, n, D); return all of them so far."""
        end = self.length + key.shape[2]
        if end > self.keys.shape[2]:
            known = self.keys[:, :, : self.length], self.values[:, :, : self.length]
            return torch.cat((known[0], key), dim=2), torch.cat((known[1], value), dim=2)
        self.keys[:, :, self.length : end] = key
        self.values[:, :, self.length : end] = value
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class OneScale:
    """A cache that keeps nothing, where no scale sees an earlier one."""

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The newest scale's keys and values, as they are."""
        return key, value


class SelfAttention(nn.Module):
    """Multi-head self-attention with l2-normalised queries and keys and a learned temperature per head (VAR).

    With `attn_l2_norm`, q and k have unit length, and q k^T is multiplied by exp(min(scale_mul, ln 100)); without it,
    by 0.25/sqrt(D), a quarter of the usual, as in VAR's code. Keys have no bias: `zero_k_bias` holds its place in the
    fused projection.
    """

    zero_k_bias: Tensor

    def __init__(self, cfg: TransformerConfig, patch_nums: Sequence[int]) -> None:
        super().__init__()
        dim = cfg.dim
        self.heads = cfg.num_heads
        self.l2_norm = cfg.attn_l2_norm
        self.scale_ends = scale_ends(patch_nums)
        self.mat_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("zero_k_bias", torch.zeros(dim))
        if self.l2_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, self.heads, 1, 1), 4.0).log())
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, cache: KVCache | OneScale | None = None) -> Tensor:
        """Attend within the whole sequence x (B, L, C) or, with a cache, from the newest scale x.

        Returns (B, L, C).
        """
        batch, length, dim = x.shape
        bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        qkv = F.linear(x, self.mat_qkv.weight, bias).view(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, L, D)
        softmax_scale = 0.25 * q.shape[-1] ** -0.5
        if self.l2_norm:
            temperature = self.scale_mul_1H11.clamp_max(MAX_LOG_SCALE).exp()
            q, k, softmax_scale = unit_length(q, temperature), unit_length(k, temperature.new_ones(())), 1.0
        if cache is not None:
            k, v = cache.append(k, v)
            out = attend(q, k, v, softmax_scale).transpose(1, 2)
        else:
            # A copy: the backward pass then keeps v alone, and not all of the projection it is a part of.
            out = self.over_scales(q, k, v.contiguous(), softmax_scale)
        projected: Tensor = self.proj(out.reshape(batch, length, dim))
        return projected

    def over_scales(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """softmax(scale q k^T) v over a whole sequence: q, k, v (B, H, L, D) -> (B, L, H, D)."""
        raise NotImplementedError


class PrefixAttention(SelfAttention):
    """VAR's: a scale sees itself and all coarser ones."""

    def new_cache(self, batch: int, like: Tensor) -> KVCache:
        """Room for what later scales will see."""
        kept = self.scale_ends[-2] if len(self.scale_ends) > 1 else 0
        return KVCache(batch, self.heads, kept, len(self.q_bias) // self.heads, like)

    def over_scales(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `block_causal_attention`."""
        return block_causal_attention(q, k, v, self.scale_ends, scale)


class ScaleAttention(SelfAttention):
    """M-VAR's: a scale sees itself alone. Its checkpoints hold the tokens of every scale as a buffer."""

    patch_nums: Tensor

    def __init__(self, cfg: TransformerConfig, patch_nums: Sequence[int]) -> None:
        super().__init__(cfg, patch_nums)
        self.register_buffer("patch_nums", torch.tensor([p * p for p in patch_nums], dtype=torch.int32))

    def new_cache(self, batch: int, like: Tensor) -> OneScale:
        """Nothing has to be kept."""
        return OneScale()

    def over_scales(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `block_diagonal_attention`."""
        return block_diagonal_attention(q, k, v, self.scale_ends, scale)


def scale_ends(patch_nums: Sequence[int]) -> tuple[int, ...]:
    """Where each scale ends in the sequence: (n_1, n_1 + n_2, ..., L)."""
    return tuple(accumulate(p * p for p in patch_nums))


def block_diagonal_attention(q: Tensor, k: Tensor, v: Tensor, scale_ends: tuple[int, ...], scale: float) -> Tensor:
    """softmax(scale q k^T) v within each scale: q, k, v (B, H, L, D) -> (B, L, H, D)."""
    sizes = [end - start for start, end in pairwise((0, *scale_ends))]
    scales = zip(*(x.split(sizes, dim=2) for x in (q, k, v)), strict=True)
    return torch.cat([attend(q, k, v, scale).transpose(1, 2) for q, k, v in scales], dim=1)


def block_causal_attention(q: Tensor, k: Tensor, v: Tensor, scale_ends: tuple[int, ...], scale: float) -> Tensor:
    """softmax(scale q k^T) v in which a scale's queries see the keys of that scale and of those before it.

    q, k, v (B, H, L, D) -> (B, L, H, D).

    In bfloat16 on a CPU it is written out, as in `attend`.
    """
    if _plain_products(q) and q.requires_grad:
        heads = q.shape[1]
        q, k, v = (t.contiguous().flatten(0, 1) for t in (q if scale == 1 else q * scale, k, v))
        return prefix_attention(q, k, v, scale_ends).view(-1, heads, *q.shape[1:]).transpose(1, 2)
    cuts = runs(scale_ends, q.device)
    queries = q.split([end - start for start, end, _ in cuts], dim=2)
    ends = [end for _, end, _ in cuts]
    parts = [
        attend(q, k, v, scale, hidden).transpose(1, 2)
        for q, k, v, (_, _, hidden) in zip(queries, prefixes(k, ends), prefixes(v, ends), cuts, strict=True)
    ]
    return torch.cat(parts, dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, hidden: Tensor | None = None) -> Tensor:
    """softmax(scale q k^T) v, without the pairs that are `hidden` (n, m).

    In bfloat16 on a CPU it is written out: torch's fused kernel has no bfloat16 arithmetic there, so the plain products
    take 0.6 of its time, forward and backward. Their scores are rounded, which doubles the rounding error of the result
    (0.8 % against 0.45 % for a temperature of 16).
    """
    if _plain_products(q) and hidden is None and not torch.is_grad_enabled():
        out, q = torch.empty_like(q), q if scale == 1 else q * scale
        images = max(1, SCORES // (q.shape[1] * q.shape[2] * k.shape[2]))
        for first in range(0, len(q), images):
            some = slice(first, first + images)
            torch.matmul((q[some] @ k[some].mT).softmax(-1), v[some], out=out[some])
        return out
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if hidden is None else ~hidden, scale=scale)


def _plain_products(q: Tensor) -> bool:
    return q.dtype == torch.bfloat16 and q.device.type == "cpu"
