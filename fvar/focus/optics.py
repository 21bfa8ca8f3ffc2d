"""Defocus in closed form: disk and Gaussian point-spread functions (PSF), transfer function, radius schedules.

A lens out of focus by a circular aperture spreads each point evenly over a disk of radius rho (the "circle of
confusion"). Everything here is in pixels and cycles per pixel, and computed in float64.

>>> disk_psf(3.0).shape
torch.Size([7, 7])
>>> radius_schedule(4, 12.0)
(12.0, 9.0, 3.0, 0.0)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import Schedule

FIRST_ZERO = 0.6098  # rho |f| at the disk's first OTF zero: 3.8317 / (2 pi)
GAUSSIAN_REACH = 4.0  # standard deviations kept on each side; what is cut off weighs less than 1e-4


def disk_psf(radius: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """The uniform disk of `radius` px: each entry is the exact area of its pixel that the disk covers, over the sum.

    Returns an (n, n) tensor with odd n = 2 ceil(radius - 1/2) + 1, the disk centred on the middle pixel. Up to a radius
    of half a pixel the disk lies within that pixel, and the result is the delta, [[1]].
    Raises ValueError if `radius` is negative or not finite.
    """
    _check_length("radius", radius)
    reach = math.ceil(radius - 0.5)
    if reach < 1:
        return torch.ones(1, 1, dtype=dtype)
    edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
    corner = _quadrant_area(edges[:, None], edges[None, :], radius)
    covered = corner[1:, 1:] - corner[:-1, 1:] - corner[1:, :-1] + corner[:-1, :-1]
    covered = covered.clamp(min=0.0)  # rounding leaves -1e-14 in corners outside the disk
    return (covered / covered.sum()).to(dtype)


def _quadrant_area(x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Area of the disk within the rectangle from its centre to (x, y), negative when x and y differ in sign.

    The boundary is min(y, sqrt(r^2 - t^2)) over t in [0, x]: flat up to t0 = sqrt(r^2 - y^2), the circle after it.
    """
    sign = torch.sign(x) * torch.sign(y)
    x, y = x.abs().clamp(max=radius), y.abs().clamp(max=radius)
    flat_until = torch.minimum(x, (radius**2 - y**2).clamp(min=0.0).sqrt())
    return sign * (y * flat_until + _circle_integral(x, radius) - _circle_integral(flat_until, radius))


def _circle_integral(x: Tensor, radius: float) -> Tensor:
    """Integral of sqrt(r^2 - t^2) over t in [0, x], for 0 <= x <= r."""
    return 0.5 * (x * (radius**2 - x**2).clamp(min=0.0).sqrt() + radius**2 * torch.asin(x / radius))


def gaussian_psf(sigma: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """A Gaussian of standard deviation `sigma` px, integrated over each pixel and normalised to sum 1.

    Returns (n, n) with odd n reaching `GAUSSIAN_REACH` sigmas; sigma = 0 gives the delta. With sigma = rho / 2 it has
    the variance of the disk of radius rho. Raises ValueError if `sigma` is negative or not finite.
    """
    _check_length("sigma", sigma)
    reach = math.ceil(GAUSSIAN_REACH * sigma)
    if reach < 1:
        return torch.ones(1, 1, dtype=dtype)
    edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
    line = torch.special.ndtr(edges / sigma).diff()
    line = line / line.sum()
    return torch.outer(line, line).to(dtype)


def disk_otf(radius: float, fx: Tensor, fy: Tensor) -> Tensor:
    """Optical transfer function of the disk: 2 J1(z) / z with z = 2 pi radius |f|, in [-0.133, 1], 1 at f = 0.

    `fx` and `fy` (broadcast together) are in cycles per px. The first zero is at |f| = 0.6098 / radius; the lobe after
    it is negative (contrast reverses) down to -0.132: a disk is not band-limited.
    Raises ValueError if `radius` is negative or not finite.
    """
    _check_length("radius", radius)
    z = 2 * math.pi * radius * torch.hypot(fx.double(), fy.double())
    small = z < 1e-4  # below it the series 1 - z^2/8 is exact to 1e-17 and J1(z)/z is 0/0
    safe = torch.where(small, 1.0, z)
    return torch.where(small, 1 - z**2 / 8, 2 * torch.special.bessel_j1(safe) / safe)


def radius_schedule(num_states: int, rho_max: float, kind: Schedule = "cosine") -> tuple[float, ...]:
    """Radii of the focus states in px, falling from `rho_max` to exactly 0; a single state is in focus.

    cosine: rho_k = rho_max (1 + cos(pi (k-1)/(K-1))) / 2, Eq. 2 with its sign mended: as printed, the radii would rise.
    linear: equal steps. geometric: each state halves the radius, and the last is 0.
    Raises ValueError for num_states < 1, a negative or infinite rho_max, or an unknown kind.
    """
    if num_states < 1:
        raise ValueError(f"num_states must be at least 1, got {num_states}")
    _check_length("rho_max", rho_max)
    steps = range(num_states - 1)
    last = max(num_states - 1, 1)
    if kind == "cosine":
        radii = [rho_max * (1 + math.cos(math.pi * k / last)) / 2 for k in steps]
    elif kind == "linear":
        radii = [rho_max * (1 - k / last) for k in steps]
    elif kind == "geometric":
        radii = [rho_max * 0.5**k for k in steps]
    else:
        raise ValueError(f"kind must be 'cosine', 'linear' or 'geometric', got {kind!r}")
    return (*radii, 0.0)


def convolved(first: Tensor, second: Tensor) -> Tensor:
    """The full convolution of two PSFs (n, n) and (m, m), n and m odd: (n + m - 1, n + m - 1), their blurs in turn."""
    side = first.shape[0] + second.shape[0] - 1
    return F.conv2d(first[None, None], second.flip(0, 1)[None, None], padding=second.shape[0] - 1).view(side, side)


def _check_length(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0 px, got {value}")
