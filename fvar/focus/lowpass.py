"""Digital low-passes that belong to a decimation by s: the box, Keys' cubic, and the ideal one.

Where defocus is set by its radius, these are set by the view alone: each is the textbook's filter before every s-th
pixel is taken, and each is the delta for s = 1, where nothing is left out. All are separable, in pixels and float64.

>>> area_psf(3.0).shape
torch.Size([3, 3])
>>> ideal_psf(4.0, 16).shape
torch.Size([33, 33])
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def area_psf(s: float) -> Tensor:
    """The mean over a square of `s` px: each entry is the share of the square that its pixel covers.

    Returns (n, n) with odd n = 2 ceil((s - 1) / 2) + 1, summing to 1. For odd s decimation after it is average pooling,
    VAR's own downsampling; for even s, whose windows are centred between pixels, it is that half a pixel further on.
    Raises ValueError for s < 1.
    """
    _require_factor(s)
    reach = math.ceil((s - 1) / 2)
    distance = torch.arange(-reach, reach + 1, dtype=torch.float64).abs()
    line = (s / 2 + 0.5 - distance).clamp(0, 1) / s
    return torch.outer(line, line)


def bicubic_psf(s: float) -> Tensor:
    """Keys' cubic with a = -1/2 (1981), stretched by `s` px against aliasing, sampled at pixels and normalised.

    Returns (n, n) with odd n, summing to 1; it has negative entries. Decimation after it is "bicubic, antialiased" of
    image libraries, at the pixels that decimation takes. Raises ValueError for s < 1.
    """
    _require_factor(s)
    reach = max(math.ceil(2 * s) - 1, 0) if s > 1 else 0
    t = torch.arange(-reach, reach + 1, dtype=torch.float64).abs() / s
    line = keys_cubic(t)
    line = line / line.sum()
    return torch.outer(line, line)


def ideal_psf(s: float, side: int) -> Tensor:
    """All below the Nyquist frequency 1 / (2 s) of the view, nothing from there on, for mirrored images of `side` px.

    A mirrored image has the period 2 `side`, so the sinc is summed over all its periods: the Dirichlet kernel of the
    2 side / s - 1 frequencies that are kept. Returns (2 side + 1, 2 side + 1) summing to 1, whose first and last
    entries are the same point and share its value. Raises ValueError for s < 1.
    """
    _require_factor(s)
    if s == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    kept = math.ceil(side / s - 1e-9)  # periods per 2 side from which on nothing passes
    position = torch.arange(-side, side + 1, dtype=torch.float64)
    frequency = torch.arange(1, kept, dtype=torch.float64) / (2 * side)
    line = (1 + 2 * torch.cos(2 * math.pi * frequency[:, None] * position).sum(0)) / (2 * side)
    line[[0, -1]] /= 2
    return torch.outer(line, line)


def keys_cubic(t: Tensor) -> Tensor:
    """Keys' cubic (1981) with a = -1/2, the one that reproduces linear ramps, at distances t >= 0."""
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))


def _require_factor(s: float) -> None:
    if not (math.isfinite(s) and s >= 1):
        raise ValueError(f"s must be a finite number >= 1, got {s}")
