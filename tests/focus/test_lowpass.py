"""Low-passes of a decimation against theory: OTF zeros, second implementations, and what is left to fold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fvar.focus import lowpass, optics, spectrum
from fvar.focus.kernels import BLURRING, KERNELS, State
from fvar.focus.pyramid import FocusPyramid

LOWPASSES = ("area", "bicubic", "ideal")


def noise(side: int) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def cosine(side: int, periods: float) -> torch.Tensor:
    """(1, 1, S, S): half-sample symmetric, so that its mirror image continues it: `periods` / 2 over the side."""
    line = torch.cos(math.pi * periods * (torch.arange(side, dtype=torch.float64) + 0.5) / side)
    return line.expand(1, 1, side, side).contiguous()


def otf(psf: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """Transfer function along one axis at frequencies in cycles per px, by its definition."""
    reach = psf.shape[0] // 2
    n = torch.arange(-reach, reach + 1, dtype=torch.float64)
    return (psf.sum(0) * torch.cos(2 * math.pi * frequency[:, None] * n)).sum(1)


# ------------------------------------------------------------------------------------------------------------ all three


@pytest.mark.parametrize("name", KERNELS)
@given(s=st.floats(1, 20), rho=st.floats(0, 12))
@settings(max_examples=15, deadline=None)
def test_every_kernel_is_even_keeps_the_mean_and_is_odd_in_size(name: str, s: float, rho: float) -> None:
    psf = KERNELS[name].psf(State(rho, s, 24))  # type: ignore[index]
    assert psf.shape[0] == psf.shape[1]
    assert psf.shape[0] % 2 == 1
    assert psf.dtype == torch.float64
    assert float(psf.sum()) == pytest.approx(1, abs=1e-9)
    assert (psf - psf.flip(0)).abs().max() < 1e-12
    assert (psf - psf.flip(1)).abs().max() < 1e-12


@pytest.mark.parametrize("name", LOWPASSES)
def test_where_no_pixel_is_left_out_nothing_is_filtered(name: str) -> None:
    assert KERNELS[name].psf(State(12.0, 1.0, 32)).shape == (1, 1)  # type: ignore[index]
    assert FocusPyramid((1, 2, 4), 8, 12.0, kernel=name).silent == {2}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LOWPASSES)
def test_a_low_pass_of_the_view_knows_no_radius(name: str) -> None:
    kernel = KERNELS[name]  # type: ignore[index]
    assert kernel.view
    assert not kernel.radius
    assert torch.equal(kernel.psf(State(0.0, 4.0, 32)), kernel.psf(State(12.0, 4.0, 32)))


@pytest.mark.parametrize("make", [lowpass.area_psf, lowpass.bicubic_psf, lambda s: lowpass.ideal_psf(s, 8)])
@pytest.mark.parametrize("s", [0.5, math.nan, math.inf])
def test_less_than_one_pixel_per_pixel_is_refused(make, s: float) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="s must be a finite number >= 1"):
        make(s)


# ------------------------------------------------------------------------------------------------------ area, bicubic


@pytest.mark.parametrize("s", [2, 3, 4, 8, 16])
def test_the_area_otf_is_zero_at_every_multiple_of_the_views_sampling_frequency(s: int) -> None:
    multiples = torch.arange(1, s // 2 + 1, dtype=torch.float64) / s
    assert otf(lowpass.area_psf(s), multiples).abs().max() < 1e-12
    f = torch.linspace(0.01, 0.5, 50, dtype=torch.float64)
    box = torch.sin(math.pi * s * f) / (s * torch.sin(math.pi * f))  # Dirichlet's kernel
    shared = torch.cos(math.pi * f) if s % 2 == 0 else 1  # an even box, centred on a pixel, is split between two
    assert torch.allclose(otf(lowpass.area_psf(s), f), box * shared, atol=1e-12)


@pytest.mark.parametrize("s", [3, 5])
def test_for_odd_s_area_is_average_pooling_and_bicubic_is_the_librarys(s: int) -> None:
    x = noise(15 * s)
    area = FocusPyramid((15, 15 * s), 1, 0.0, kernel="area").double().eval()(x).focused[0]
    assert (area - F.avg_pool2d(x, s)).abs().max() < 1e-6
    cubic = FocusPyramid((15, 15 * s), 1, 0.0, kernel="bicubic").double().eval()(x).focused[0]
    library = F.interpolate(x, (15, 15), mode="bicubic", antialias=True)
    assert (cubic - library)[..., 2:-2, 2:-2].abs().max() < 1e-6  # at the borders the library renormalises


def test_keys_cubic_reproduces_ramps_and_is_one_where_it_stands() -> None:
    assert lowpass.keys_cubic(torch.tensor([0.0, 1.0, 2.0, 3.0])).tolist() == [1, 0, 0, 0]
    taps = torch.arange(-3, 5, dtype=torch.float64)
    for at in (0.1, 0.5, 0.8):
        weights = lowpass.keys_cubic((at - taps).abs())
        assert weights.sum().item() == pytest.approx(1)
        assert (weights * taps).sum().item() == pytest.approx(at)


# ---------------------------------------------------------------------------------------------------------------- ideal


@pytest.mark.parametrize("m", [12, 24, 32, 40])  # 40: a ratio of 2.4, where the view is interpolated
def test_the_ideal_low_pass_keeps_all_below_nyquist_and_lets_nothing_fold(m: int) -> None:
    pyramid = FocusPyramid((m, 96), 1, 0.0, kernel="ideal").double().eval()
    for periods in (0, 1, m // 2, m - 1):
        views = pyramid(cosine(96, periods))
        assert views.residual[0].abs().max() < 1e-6
    for periods in (m, m + 1, 2 * m, 95):
        assert pyramid(cosine(96, periods)).focused[0].abs().max() < 1e-6


def test_the_ideal_view_has_the_energy_of_its_band_and_its_residual_the_rest() -> None:
    """Parseval, over the half-sample symmetric cosines that a mirrored image is made of (its DCT)."""
    x = torch.cat([cosine(32, k) for k in (3, 7, 9, 14)], 1).sum(1, keepdim=True) / 4
    views = FocusPyramid((8, 32), 1, 0.0, kernel="ideal").double().eval()(x)
    assert views.focused[0].square().mean().item() == pytest.approx(
        2 * (1 / 4) ** 2 / 2, rel=1e-6
    )  # 3 and 7 of the four
    alias = FocusPyramid((8, 32), 1, 0.0).double().eval()(x - _below(x, 8)).digital[0]
    assert (views.residual[0] - alias).abs().max() < 1e-6  # A_k is the folded part and nothing else


def _below(x: torch.Tensor, m: int) -> torch.Tensor:
    """The components below m half-periods per side along x's last axis, by projecting on the cosines."""
    side = x.shape[-1]
    basis = torch.stack([cosine(side, k)[0, 0, 0] for k in range(m)])
    weights = torch.full((m, 1), 2 / side, dtype=torch.float64)
    weights[0] = 1 / side
    return (x @ (basis * weights).T) @ basis


@pytest.mark.parametrize("s", [2, 4, 8])
def test_the_ideal_psf_leaves_no_foldable_energy_on_its_own_period(s: int) -> None:
    x = torch.cat([noise(32), noise(32).flip(-1)], -1)
    x = torch.cat([x, x.flip(-2)], -2)  # one period of the mirrored image
    psf = lowpass.ideal_psf(s, 32)
    assert spectrum.foldable_energy(x, s, psf).max() < 1e-20
    assert spectrum.aliasing_energy(x, s, psf).max() < 1e-20
    assert spectrum.aliasing_energy(x, s, lowpass.area_psf(s)).min() > 1e-3


# ----------------------------------------------------------------------------------------------------------- the camera


def test_disk_and_pixel_is_the_disk_then_the_mean_over_the_views_pixel() -> None:
    fx = torch.linspace(0, 0.5, 33, dtype=torch.float64)
    psf = KERNELS["disk_pixel"].psf(State(4.0, 3.0, 32))
    product = otf(optics.disk_psf(4.0), fx) * otf(lowpass.area_psf(3.0), fx)
    assert torch.allclose(otf(psf, fx), product, atol=1e-12)
    assert torch.allclose(KERNELS["disk_pixel"].psf(State(0.0, 3.0, 32)), lowpass.area_psf(3.0))
    assert torch.allclose(KERNELS["disk_pixel"].psf(State(4.0, 1.0, 32)), optics.disk_psf(4.0))
    assert "disk_pixel" in BLURRING


def test_the_camera_aliases_less_than_either_of_its_parts() -> None:
    x, s, rho = noise(96), 4, 2.4
    energy = {
        name: spectrum.aliasing_energy(x, s, KERNELS[name].psf(State(rho, s, 96))).mean()
        for name in ("disk", "area", "disk_pixel")
    }
    assert energy["disk_pixel"] < min(energy["disk"], energy["area"])
