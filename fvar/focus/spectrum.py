"""Spectra of images and what decimation does to them: power spectrum, folding, aliasing energy.

Frequencies are in cycles per pixel; X is the two-dimensional DFT, computed in float32 (float64 for float64 images).
Decimating by s leaves frequencies up to 1/(2s), the view's Nyquist frequency; each one beyond it is folded onto
one below (paper Eq. 6), where nothing can tell the two apart. `aliasing_energy` measures how much of a view that is.

The DFT takes an image as one period: taper the borders (`hann`) of an image whose opposite sides differ, or the step
between them is measured as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class RadialPower(NamedTuple):
    """Power by distance from frequency zero."""

    frequency: Tensor  # (R,) centre of each ring, cycles per px
    power: Tensor  # (B, R) mean of |X|^2 / (H W) over the ring and the channels
    bins: Tensor  # (R,) DFT bins in the ring; (power * bins).sum(-1) is sum |x|^2 per channel (Parseval)


def radial_power(x: Tensor) -> RadialPower:
    """Power spectrum of x (B, C, H, W), averaged over rings one bin of the longer side wide."""
    height, width = x.shape[-2:]
    longer = max(height, width)
    power = torch.fft.fft2(_real(x)).abs().square().mean(1) / (height * width)  # (B, H, W)
    fy, fx = _frequencies(height, width, x.device)
    ring = (torch.hypot(fy, fx) * longer).round().long()
    rings = int((0.5 * 2**0.5) * longer + 0.5) + 1  # the corner's ring is the last
    count = torch.zeros(rings, device=x.device, dtype=power.dtype).index_add(
        0, ring.flatten(), torch.ones_like(ring.flatten(), dtype=power.dtype)
    )
    total = power.new_zeros(len(power), rings).index_add(1, ring.flatten(), power.flatten(1))
    return RadialPower(torch.arange(rings, device=x.device) / longer, total / count.clamp(min=1), count)


def fold(X: Tensor, s: float, dims: Sequence[int] = (-2, -1)) -> Tensor:
    """DFT of a signal sampled every s-th point, from the DFT X of the signal: (1/s) sum_u X(w + u) per axis.

    X holds the DFT along `dims`, zero frequency first. This is the paper's Eq. 6 for any s, and
    fold(fft2(x), s) = fft2(x[..., ::s, ::s]) if s divides the sides. A fraction s is allowed where n/s is an integer m:
    the result is the DFT of m even samples of the band-limited (trigonometric) interpolant of x.
    Raises ValueError if s < 1 or n/s is not an integer.
    """
    for dim in dims:
        n = X.shape[dim]
        m = _view_side(n, s)
        if n % m == 0:
            shape = (*X.shape[: dim % X.ndim], n // m, m, *X.shape[dim % X.ndim + 1 :])
            X = X.reshape(shape).mean(dim % X.ndim)
        else:
            X = _fold_fraction(X, m, dim)
    return X


def _fold_fraction(X: Tensor, m: int, dim: int) -> Tensor:
    """Fold a DFT of n bins onto m bins that do not divide n: the bin of frequency k goes to k mod m."""
    n = X.shape[dim]
    bins = torch.arange(n, device=X.device)
    signed = torch.where(bins <= (n - 1) // 2, bins, bins - n)
    shape = list(X.shape)
    shape[dim] = m
    folded = X.new_zeros(shape)
    if n % 2 == 0:  # the interpolant holds the Nyquist bin as a cosine: half at -n/2, half at n/2
        half = torch.where(bins == n // 2, 0.5, 1.0).to(X.real.dtype)
        X = X * half.view([-1 if d == dim % X.ndim else 1 for d in range(X.ndim)])
        folded = folded.index_add(dim, torch.tensor([(n // 2) % m], device=X.device), X.narrow(dim, n // 2, 1))
    return folded.index_add(dim, signed % m, X) * (m / n)


def transfer_function(psf: Tensor, size: tuple[int, int]) -> Tensor:
    """DFT (H, W), complex, of a PSF on a periodic image of that size; entry n // 2 of the PSF is its origin.

    A PSF larger than the image wraps around. Even, centred PSFs (odd n) have a real transfer function.
    """
    height, width = size
    rows = (torch.arange(psf.shape[0], device=psf.device) - psf.shape[0] // 2) % height
    columns = (torch.arange(psf.shape[1], device=psf.device) - psf.shape[1] // 2) % width
    image = psf.new_zeros(height, width).index_put((rows[:, None], columns[None, :]), psf, accumulate=True)
    transfer: Tensor = torch.fft.fft2(image)
    return transfer


def split_band(x: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """x = below + beyond: what a view decimated by `factor` can hold, and what folds, split by an ideal low-pass.

    "Beyond" is more than H/(2 factor) periods per height or W/(2 factor) per width; the mean belongs to neither side's
    aliasing but is left in `below`. Sizes as in `fold`; x is real, (..., H, W).
    """
    beyond = torch.fft.ifft2(torch.fft.fft2(_real(x)) * _beyond_nyquist(x, factor)).real
    return _real(x) - beyond, beyond


def alias_spectrum(X: Tensor, factor: float) -> Tensor:
    """What folds into the base band, Eq. 7: (1/s) sum_{u != 0} X(w + u) per axis, for an image's DFT X (..., H, W).

    The paper names it the alias residual A_k. A_k = D_k - L_k also holds what the blur took from the base band itself;
    the two are equal only for an ideal low-pass.
    """
    return fold(X * _beyond_nyquist(X.real, factor), factor)


def aliasing_energy(x: Tensor, factor: float, psf: Tensor | None = None) -> Tensor:
    """Share of a decimated view's energy that folded in from beyond its Nyquist frequency; (B,) for x (B, C, H, W).

    The energy of Eq. 8 over the view's: for 2:1 in one dimension, ||A||^2 = ||X(w + pi)||^2 / 4.

    With X the DFT of the image filtered by `psf`: ||sum_{u != 0} X(w + u)||^2 / ||sum_u X(w + u)||^2, summed over
    channels and base band without w = 0. Components exactly at the Nyquist frequency are not beyond it; 0 for a
    constant. Base and folded parts may cancel in the denominator, so that the ratio exceeds 1: the view then has
    less energy than the alias in it. Differentiable in x. Raises ValueError for sizes that `fold` refuses.
    """
    X = _filtered(x, psf)
    aliased = _energy_without_dc(alias_spectrum(X, factor))
    return _ratio(aliased, _energy_without_dc(fold(X, factor)))


def foldable_energy(x: Tensor, factor: float, psf: Tensor | None = None) -> Tensor:
    """Share of the filtered image's energy that lies beyond the view's Nyquist frequency; (B,), in [0, 1].

    The same as `aliasing_energy`, but before decimation, where nothing can cancel. 0 for a constant image.
    """
    X = _filtered(x, psf)
    return _ratio(_energy_without_dc(X * _beyond_nyquist(x, factor)), _energy_without_dc(X))


def wiener_gain(signal: Tensor, noise: Tensor) -> Tensor:
    """The gain of least squared error, Eq. 12: alpha* = S_xx / (S_xx + S_nn), in [0, 1].

    `signal` and `noise` are power spectral densities of one shape, such as two `radial_power`s; where both are 0 the
    gain is 0. Raises ValueError for a negative power.
    """
    if bool((signal < 0).any() or (noise < 0).any()):
        raise ValueError("power spectral densities must not be negative")
    total = signal + noise
    return torch.where(total > 0, signal / torch.where(total > 0, total, 1.0), 0.0)


def hann(height: int, width: int) -> Tensor:
    """Separable Hann taper (H, W) in float32: 1 in the middle, 0 at the borders."""
    return torch.outer(torch.hann_window(height), torch.hann_window(width))


def _beyond_nyquist(x: Tensor, factor: float) -> Tensor:
    """Mask (H, W): 1 where a frequency is beyond the Nyquist frequency of the view in either axis."""
    height, width = x.shape[-2:]
    fy, fx = _frequencies(height, width, x.device)
    rows, columns = _view_side(height, factor), _view_side(width, factor)
    # In whole periods, where comparisons are exact.
    outside = ((fy * height).round().abs() * 2 > rows) | ((fx * width).round().abs() * 2 > columns)
    return outside.to(_real(x).dtype)


def _frequencies(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """fy (H, 1) and fx (1, W) in cycles per px, in DFT order."""
    fy = torch.fft.fftfreq(height, device=device, dtype=torch.float64)
    fx = torch.fft.fftfreq(width, device=device, dtype=torch.float64)
    return fy[:, None], fx[None, :]


def _filtered(x: Tensor, psf: Tensor | None) -> Tensor:
    X: Tensor = torch.fft.fft2(_real(x))
    if psf is not None:
        X = X * transfer_function(psf.to(x.device, torch.float64), (x.shape[-2], x.shape[-1])).to(X.dtype)
    return X


def _energy_without_dc(X: Tensor) -> Tensor:
    """Sum of |X|^2 over channels and bins other than (0, 0); (B,)."""
    energy = X.abs().square()
    return energy.sum((-3, -2, -1)) - energy[..., 0, 0].sum(-1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0.0)


def _real(x: Tensor) -> Tensor:
    """x as the FFT takes it: float32, or float64 as given."""
    return x if x.dtype == torch.float64 else x.float()


def _view_side(n: int, s: float) -> int:
    m = round(n / s) if s >= 1 else 0
    if m < 1 or abs(m * s - n) > 1e-6 * n:
        raise ValueError(f"factor must be at least 1 and divide the side {n} into a whole number of samples, got {s}")
    return m
