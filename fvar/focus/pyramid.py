"""Focus states of an image and what decimation aliases: x -> (L_k, D_k, A_k).

    F_k = k_rho_k * x                                focus state        Eq. 1
    L_k = F_k down_s_k + beta_k eps                  focused view       Eq. 3
    D_k = x down_s_k                                 digital view       Eq. 4
    A_k = D_k - L_k                                  alias residual     Eq. 4

Blur first, then the *same* sampler `down` as the digital view: L_k and D_k are samples at the same points, so that no
shift between them can fake a residual. Where those points lie is the business of `_resampling`.

The blur is a product of spectra. One FFT of the image, extended by its mirror image, serves all states; a state that is
decimated by an integer folds its spectrum first (paper Eq. 6, `spectrum.fold`), so that the inverse FFT only computes
rows that are kept.

    pyramid = FocusPyramid((2, 4, 8, 16), downsample_factor=16, rho_max=12.0, schedule="cosine")
    views = pyramid(images)                          # (B, 3, 256, 256) in [-1, 1]
    views.focused[0]                                 # (B, 3, 32, 32)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fvar.config import Digital, Kernel, PyramidConfig, Schedule
from fvar.focus import lowpass, optics, spectrum
from fvar.focus.kernels import KERNELS, State

RANGE_SLACK = 1e-3  # how far beyond [-1, 1] rounding (of bf16, of a resize) may take a pixel
_CPU_CHUNK = 2**20  # padded values blurred at once on a CPU: 4 MB and their spectrum stay in cache


class FocusViews(NamedTuple):
    """The three views of each scale, coarse to fine; entry k is (B, C, f p_k, f p_k).

    The residual is the floating-point difference digital - focused to the bit; added back to `focused` it gives
    `digital` up to that difference's own rounding. At the full side `digital` is the image given, not a copy.
    """

    focused: list[Tensor]
    digital: list[Tensor]
    residual: list[Tensor]


def from_config(cfg: PyramidConfig) -> FocusPyramid:
    """The pyramid of a configuration, its radius scaled from the reference side to the image's."""
    return FocusPyramid(
        cfg.patch_nums, cfg.downsample_factor, cfg.rho_max_px, cfg.schedule, cfg.kernel, cfg.digital, cfg.beta
    )


class FocusPyramid(nn.Module):
    """Builds the focused, digital and residual views of images of side `downsample_factor * patch_nums[-1]`.

    The focus states k_rho_k * x of Eq. 1, sampled: `forward` computes Eq. 3 and Eq. 4.

    Images are taken to continue as their mirror image (half-sample symmetric), under which a blur keeps the mean.
    The sharpest state is not blurred: without noise, L_K = D_K = x, and A_K = 0. Kernels with negative entries
    (bicubic, ideal) may take a view beyond [-1, 1].
    The module has no parameters and no state to save. Blurs are computed in float32 (in float64 after `.double()`).

    Parameters
    ----------
    patch_nums
        Rising token sides p_k; view k has side downsample_factor * p_k.
    downsample_factor
        Pixels per token side (1 for views given in pixels).
    rho_max
        Blur radius of the coarsest state, in px of the image given; `optics.radius_schedule` brings it to 0.
    schedule
        "cosine", "linear" or "geometric".
    kernel
        One of `kernels.KERNELS`; with "none" L_k = D_k up to the noise. Some depend on how a state is sampled, not on
        its radius: "area", "bicubic" and "ideal".
    digital
        How views are sampled, both L_k and D_k: "decimate", "area" or "bicubic", see `_resampling`.
    beta
        Standard deviation of the noise on the coarsest and on the finest L_k, linear in between; in training only.

    Raises
    ------
    ValueError
        For scales that do not rise, sizes below 1, a negative rho_max or beta, or an unknown name.
    """

    def __init__(
        self,
        patch_nums: Sequence[int],
        downsample_factor: int,
        rho_max: float,
        schedule: Schedule = "cosine",
        kernel: Kernel = "disk",
        digital: Digital = "decimate",
        beta: tuple[float, float] = (1e-3, 1e-2),
    ) -> None:
        super().__init__()
        _check_arguments(patch_nums, downsample_factor, rho_max, kernel, digital, beta)
        self.sides = tuple(downsample_factor * p for p in patch_nums)
        self.radii = optics.radius_schedule(len(patch_nums), rho_max, schedule)
        self.betas = torch.linspace(*beta, len(patch_nums), dtype=torch.float64).tolist()
        self.digital: Digital = digital
        full = self.sides[-1]
        states = [State(rho, full / side, full) for rho, side in zip(self.radii, self.sides, strict=True)]
        psfs = [KERNELS[kernel].psf(state) for state in states]
        self._blurs = tuple(psf.shape[0] > 1 for psf in psfs)
        # Every integer ratio divides the margin and the padded side, which is what folding needs.
        ratios = [self.sides[-1] // m for m in self.sides if self.sides[-1] % m == 0]
        reach = max(psf.shape[0] // 2 for psf in psfs)
        self._margin = math.ceil(reach / math.lcm(*ratios)) * math.lcm(*ratios)
        if reach >= full and full % (2 * math.lcm(*ratios)) == 0:
            self._margin = full // 2  # which makes the padded image one whole period of the mirrored one
        for k, psf in enumerate(psfs):
            if self._blurs[k]:
                self.register_buffer(f"_transfer_{k}", self._transfer(psf, self._fold_ratio(k)), persistent=False)
            if self._interpolates(k):
                matrix = _keys_matrix(self.sides[-1], self.sides[k]).float()
                self.register_buffer(f"_matrix_{k}", matrix, persistent=False)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> FocusViews:
        """Views of x (B, C, S, S), real floating point in [-1, 1], any C; views have x's dtype and device.

        Eq. 3: L_k = (k_rho_k * x) down_s_k + beta_k eps. Eq. 4: D_k = x down_s_k and A_k = D_k - L_k.

        `generator` is used in training mode only; None draws from torch's global one. Differentiable in x.
        Raises ValueError for another shape, an integer or complex type, or values outside [-1, 1]
        (under `torch.compile` values are not looked at).
        """
        self._check_image(x)
        with torch.autocast(x.device.type, enabled=False):
            digital = [self._sample(x, k) for k in range(len(self.sides))]
            blurred = self._blur_and_sample(x)
            focused = [blurred.get(k, digital[k]) for k in range(len(self.sides))]
            if self.training:
                focused = [
                    L + beta * _noise_like(L, generator) if beta else L
                    for L, beta in zip(focused, self.betas, strict=True)
                ]
        return FocusViews(focused, digital, [D - L for D, L in zip(digital, focused, strict=True)])

    @property
    def silent(self) -> frozenset[int]:
        """Numbers of the scales that are not blurred, whose residual A_k is therefore zero (without noise)."""
        return frozenset(k for k, blurs in enumerate(self._blurs) if not blurs)

    # ------------------------------------------------------------------------------------------------------- sampling

    def _sample(self, x: Tensor, k: int) -> Tensor:
        """x (..., S, S) -> (..., m, m) by the sampler of scale k; x itself at the full side.

        Output i stands for the source interval [i s, (i+1) s), s = S/m, whose centre is c_i = (i + 1/2) s - 1/2 in px.
        area: mean over the interval (adaptive average pooling, VAR's own). bicubic: antialiased Keys cubic around c_i.
        decimate: the pixel nearest to c_i, at (i s + s // 2), if s is an integer. Otherwise there is no regular grid of
        pixels, and x is interpolated at c_i itself by Keys' cubic, which does not low-pass.
        """
        side, m = self.sides[-1], self.sides[k]
        if m == side:
            return x
        if self.digital == "area":
            return F.adaptive_avg_pool2d(x, (m, m))
        if self.digital == "bicubic":
            exact = x.to(self._dtype_for(x))
            return F.interpolate(exact, (m, m), mode="bicubic", antialias=True, align_corners=False).to(x.dtype)
        if self._interpolates(k):
            matrix: Tensor = self.get_buffer(f"_matrix_{k}")
            return (matrix @ x.to(matrix.dtype) @ matrix.T).to(x.dtype)
        s = side // m
        return x[..., s // 2 :: s, s // 2 :: s].contiguous()

    def _interpolates(self, k: int) -> bool:
        return self.digital == "decimate" and self.sides[-1] % self.sides[k] != 0

    def _fold_ratio(self, k: int) -> int:
        """The integer by which the spectrum of state k is folded before the inverse FFT; 1 if it is not."""
        side, m = self.sides[-1], self.sides[k]
        return side // m if self.digital == "decimate" and side % m == 0 else 1

    # ----------------------------------------------------------------------------------------------------------- blur

    def _transfer(self, psf: Tensor, ratio: int) -> Tensor:
        """Half spectrum (N, N/2 + 1) of a PSF on the padded image, rows advanced to the first one that is kept."""
        padded = self.sides[-1] + 2 * self._margin
        transfer = spectrum.transfer_function(psf, (padded, padded))[:, : padded // 2 + 1]
        if ratio == 1:
            return transfer.real.float()  # a PSF that is even in both axes has a real spectrum
        advance = torch.exp(2j * math.pi * (ratio // 2) * torch.fft.fftfreq(padded, dtype=torch.float64))
        return (transfer.real * advance[:, None]).to(torch.complex64)

    def _blur_and_sample(self, x: Tensor) -> dict[int, Tensor]:
        """L_k without noise, for the states that blur."""
        states = [k for k, blurs in enumerate(self._blurs) if blurs]
        if not states:
            return {}
        parts = [list(self._blurred_views(chunk, states)) for chunk in self._chunks(x)]
        return {k: torch.cat([part[i] for part in parts]).to(x.dtype) for i, k in enumerate(states)}

    def _chunks(self, x: Tensor) -> tuple[Tensor, ...]:
        """Slices of the batch: bounds the memory of the spectra and, on a CPU, keeps them in cache."""
        batch, channels = x.shape[:2]
        at_once = max(1, batch // 2)
        if x.device.type == "cpu":
            padded = self.sides[-1] + 2 * self._margin
            at_once = min(at_once, max(1, _CPU_CHUNK // (channels * padded**2)))
        return torch.split(x, at_once)

    def _blurred_views(self, x: Tensor, states: Sequence[int]) -> Iterator[Tensor]:
        margin, side = self._margin, self.sides[-1]
        padded = side + 2 * margin
        frequencies = torch.fft.rfft2(_mirror(x.to(self._dtype_for(x)), margin))  # (B, C, N, N/2 + 1)
        for k in states:
            ratio = self._fold_ratio(k)
            product = frequencies * self.get_buffer(f"_transfer_{k}")
            if ratio > 1:
                product = spectrum.fold(product, ratio, dims=(-2,))  # (B, C, N/s, N/2 + 1)
            blurred = torch.fft.irfft2(product, s=(padded // ratio, padded))
            rows = blurred[..., margin // ratio : (margin + side) // ratio, :]
            if ratio > 1:
                yield rows[..., margin + ratio // 2 : margin + side : ratio].contiguous()
            else:
                yield self._sample(rows[..., margin : margin + side], k)

    def _dtype_for(self, x: Tensor) -> torch.dtype:
        return torch.float64 if x.dtype == torch.float64 else torch.float32

    # --------------------------------------------------------------------------------------------------------- checks

    def _check_image(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise ValueError(f"x must be real floating point in [-1, 1], got {x.dtype}; see fvar.data.to_float")
        side = self.sides[-1]
        if x.ndim != 4 or x.shape[-2:] != (side, side):
            raise ValueError(
                f"x must be (B, C, {side}, {side}), the side being downsample_factor * patch_nums[-1]; "
                f"got {tuple(x.shape)}"
            )
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and x.numel():  # a GPU would be waited for
            low, high = (float(bound) for bound in x.detach().aminmax())
            if not (low >= -1 - RANGE_SLACK and high <= 1 + RANGE_SLACK):  # also when there is a NaN
                raise ValueError(f"x must lie in [-1, 1], got values from {low:.4g} to {high:.4g}")


def _check_arguments(
    patch_nums: Sequence[int],
    downsample_factor: int,
    rho_max: float,
    kernel: str,
    digital: str,
    beta: tuple[float, float],
) -> None:
    if len(patch_nums) < 1 or patch_nums[0] < 1 or list(patch_nums) != sorted(set(patch_nums)):
        raise ValueError(f"patch_nums must hold at least one scale and rise from at least 1, got {tuple(patch_nums)}")
    if downsample_factor < 1:
        raise ValueError(f"downsample_factor must be at least 1, got {downsample_factor}")
    if not (math.isfinite(rho_max) and rho_max >= 0):
        raise ValueError(f"rho_max must be a finite number >= 0 px, got {rho_max}")
    kernels = [name for name in get_args(Kernel) if name in KERNELS]
    for name, value, known in (("kernel", kernel, kernels), ("digital", digital, get_args(Digital))):
        if value not in known:
            *others, last = map(repr, known)
            raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")
    if len(beta) != 2 or not all(math.isfinite(b) and b >= 0 for b in beta):
        raise ValueError(f"beta must be two finite numbers >= 0, got {beta}")


def _mirror(x: Tensor, margin: int) -> Tensor:
    """Extend (..., S, S) by `margin` px on each side as dcba|abcd|dcba, as often as it takes."""
    for dim in (-2, -1):
        side = x.shape[dim]
        before = _mirrored(torch.arange(-margin, 0, device=x.device), side)
        after = _mirrored(torch.arange(side, side + margin, device=x.device), side)
        x = torch.cat([x.index_select(dim, before), x, x.index_select(dim, after)], dim)
    return x


def _mirrored(position: Tensor, side: int) -> Tensor:
    """Index of the pixel at any position of the mirrored image, which has the period 2 side."""
    position = position % (2 * side)
    return torch.minimum(position, 2 * side - 1 - position)


def _keys_matrix(n: int, m: int) -> Tensor:
    """(m, n) float64: row i interpolates n samples at (i + 1/2) n/m - 1/2 by Keys' cubic; borders mirrored."""
    centre = (torch.arange(m, dtype=torch.float64) + 0.5) * n / m - 0.5
    first = centre.floor().long() - 1
    matrix = torch.zeros(m, n, dtype=torch.float64)
    for tap in range(4):
        weight = lowpass.keys_cubic((centre - (first + tap)).abs())
        matrix.scatter_add_(1, _mirrored(first + tap, n)[:, None], weight[:, None])
    return matrix


def _noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal values for x, drawn where the generator lives: a seed gives the same noise on every device."""
    if generator is None:
        return torch.randn_like(x)
    return torch.randn(x.shape, generator=generator, device=generator.device).to(x)
