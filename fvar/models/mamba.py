"""Mamba-2, the mixer that M-VAR runs over all scales, coarse to fine (Dao & Gu 2024, "Transformers are SSMs").

Every head h keeps a state S (P, N). Token after token, with step dt_t > 0 and decay A_h < 0, it computes

    S_t = exp(dt_t A_h) S_{t-1} + dt_t x_t B_t^T,        y_t = S_t C_t + D_h x_t.

Cut into chunks, that is three matrix products and a sum over the chunks (the state-space dual form): within a chunk the
outputs are a causal attention whose weights (C_i . B_j) exp(sum of dt A over j < t <= i) need no softmax; what all
earlier chunks amount to stands in their last state. Training takes the whole sequence that way, and sampling one scale,
from the state the scale before has left: a scale costs its own tokens only.

In this file B is the batch, L the length of what comes in, C the width, I = expand C the inner width, H the heads, P
their width (I = H P) and N the size of a state per channel. One group of B and C serves all heads.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fvar.config import MambaConfig
from fvar.models.gradients import causal_convolution, gated_norm, segment_decay, without_autocast

CHUNK = 64  # tokens at most; see tests/benchmarks/bench_mvar.py
NORM_EPS = 1e-5
RATES = ("dt_bias", "A_log")  # parameters that are computed with in float32 even where all others are in half precision
DT_RANGE = (1e-3, 1e-1)  # of the steps at the start, Dao & Gu
DECAY_RANGE = (1.0, 16.0)  # of -A at the start, Dao & Gu


@dataclass
class MambaState:
    """What Mamba-2 has to know of all earlier tokens, whatever their number.

    `ssm` (B, H, P, N) float32: the state after the last of them; `tail` (B, d_conv - 1, I + 2 N): the last inputs of
    the convolution.
    """

    ssm: Tensor
    tail: Tensor


class Mamba2(nn.Module):
    """Projection to (z, x, B, C, dt), causal convolution of (x, B, C), state space, gated norm, projection.

    Names and shapes of the parameters are those of the `mamba_ssm` package, which M-VAR's checkpoints hold.
    """

    def __init__(self, dim: int, cfg: MambaConfig) -> None:
        super().__init__()
        inner = cfg.expand * dim
        self.d_state, self.head_dim, self.heads = cfg.d_state, cfg.head_dim, inner // cfg.head_dim
        mixed = inner + 2 * cfg.d_state
        self.in_proj = nn.Linear(dim, inner + mixed + self.heads, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, cfg.d_conv, groups=mixed)
        low, high = (math.log(bound) for bound in DT_RANGE)
        dt = torch.empty(self.heads).uniform_(low, high).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(*DECAY_RANGE).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def new_cache(self, batch: int, like: Tensor) -> MambaState:
        """The state before the first token."""
        ssm = like.new_zeros(batch, self.heads, self.head_dim, self.d_state, dtype=_exact(like.dtype))
        return MambaState(ssm, like.new_zeros(batch, self.conv1d.kernel_size[0] - 1, self.conv1d.in_channels))

    def forward(self, x: Tensor, cache: MambaState | None = None) -> Tensor:
        """Mix x (B, L, C), a whole sequence or, with a cache, what follows the tokens it stands for.

        Returns (B, L, C); the cache then stands for these tokens as well.
        """
        state = cache or self.new_cache(len(x), x)
        inner, n = self.heads * self.head_dim, self.d_state
        z, mixed, dt = self.in_proj(x).split((inner, inner + 2 * n, self.heads), dim=-1)
        padded = torch.cat((state.tail.to(mixed.dtype), mixed), dim=1)
        convolved = causal_convolution(padded, self.conv1d.weight, cast(Tensor, self.conv1d.bias))
        values, b, c = convolved.split((inner, n, n), dim=-1)
        values = values.unflatten(-1, (self.heads, self.head_dim))
        with without_autocast(x):
            exact = _exact(dt.dtype)
            dt = F.softplus(dt.to(exact) + self.dt_bias)
            y, ssm = state_space(values, dt, -self.A_log.to(exact).exp(), b, c, state.ssm)
            y = torch.addcmul(y, values, self.D.to(y.dtype)[:, None])
        if cache is not None:
            cache.ssm, cache.tail = ssm, padded[:, x.shape[1] :]
        out: Tensor = self.out_proj(self.norm(y.flatten(2), z))
        return out


class GatedNorm(nn.Module):
    """weight RMSnorm(y silu(z)): gated before the norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """y, z (B, L, I) -> (B, L, I)."""
        return gated_norm(y, z, self.weight, NORM_EPS)


def state_space(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence of this module's first lines, without D: mamba_ssm's kernels where they can, else plain torch.

    Parameters
    ----------
    x : (B, L, H, P)
    dt : (B, L, H), steps, positive
    a : (H,), decays, negative
    b, c : (B, L, N)
    state : (B, H, P, N), before the first token

    Returns
    -------
    y : (B, L, H, P) of x's dtype
    state : (B, H, P, N), after the last token
    """
    kernel = _kernel() if x.is_cuda and x.dtype != torch.float64 else None
    if kernel is None and torch.is_grad_enabled():
        # Its chunks would be kept at the cost of ten maps as large as x, and take a tenth of the mixer's time.
        made: tuple[Tensor, Tensor] = checkpoint(
            chunked, x, dt, a, b, c, state, use_reentrant=False, preserve_rng_state=False
        )
        return made
    if kernel is None:
        return chunked(x, dt, a, b, c, state)
    y, last = kernel(
        x, dt, a, b[:, :, None], c[:, :, None], chunk_size=256, initial_states=state, return_final_states=True
    )
    return y, last


def chunked(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """`state_space` in the dual form, in chunks of about equal length, at most `chunk`.

    Decays are computed in dt's precision, products in x's, as in mamba_ssm.
    """
    length, heads, width = x.shape[1:]
    count = -(-length // chunk)
    size = -(-length // count)
    if padding := count * size - length:  # steps of length zero change nothing
        x, dt = F.pad(x, (0, 0, 0, 0, 0, padding)), F.pad(dt, (0, 0, 0, padding))
        b, c = (F.pad(t, (0, 0, 0, padding)) for t in (b, c))
    x, dt, b, c = (t.unflatten(1, (count, size)) for t in (x, dt, b, c))  # (B, chunks, size, ...)
    rates = dt * a  # logarithms of the decays: (B, chunks, size, H)
    x = x * dt.to(x.dtype)[..., None]

    # Within a chunk.
    decay = segment_decay(rates.transpose(2, 3))  # (B, chunks, H, size, size)
    weights = decay.to(x.dtype) * (c @ b.mT)[:, :, None]
    y = (weights @ x.transpose(2, 3)).transpose(2, 3)  # (B, chunks, size, H, P)

    # What a chunk adds to the state, and what it begins with.
    left = F.pad(
        rates[:, :, 1:].flip(2).cumsum(2).flip(2), (0, 0, 0, 1)
    ).exp()  # decay after token i, to the chunk's end
    added = (x * left.to(x.dtype)[..., None]).flatten(3).mT @ b  # (B, chunks, H P, N)
    added = added.unflatten(2, (heads, width)).to(state.dtype)
    through = rates.sum(2).exp()[..., None, None]  # (B, chunks, H, 1, 1)
    begins = []
    for number in range(count):
        begins.append(state)
        state = torch.addcmul(added[:, number], through[:, number], state)

    # From the state at the chunk's beginning.
    before = torch.stack(begins, dim=1).flatten(2, 3)  # (B, chunks, H P, N)
    carried = (c @ before.mT.to(c.dtype)).unflatten(-1, (heads, width))  # (B, chunks, size, H, P)
    y = torch.addcmul(y, carried, rates.cumsum(2).exp().to(y.dtype)[..., None])
    return y.flatten(1, 2)[:, :length], state


@functools.cache
def _kernel() -> Callable[..., Any] | None:
    try:
        found: Callable[..., Any] = importlib.import_module(
            "mamba_ssm.ops.triton.ssd_combined"
        ).mamba_chunk_scan_combined
    except Exception:  # also what its compiled parts raise where they do not fit torch or the GPU
        return None
    return found


def _exact(dtype: torch.dtype) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(dtype, torch.float32)
