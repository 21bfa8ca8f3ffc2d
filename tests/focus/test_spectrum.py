"""Claims of fvar.focus.spectrum: the paper's Eq. 6-8 hold, and the measurement says what theory says for pure tones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fft import fft, fft2

from fvar.focus import optics, spectrum


def image(height: int, width: int | None = None, batch: int = 2, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, height, width or height, generator=generator, dtype=torch.float64) * 2 - 1


def tone(side: int, fy: int, fx: int, phase: float = 0.3) -> torch.Tensor:
    """One cosine of fy, fx periods per side; (1, 1, side, side)."""
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64),) * 2, indexing="ij")
    return torch.cos(2 * math.pi * (fy * y + fx * x) / side + phase)[None, None]


# ----------------------------------------------------------------------------------------------------- folding, Eq. 6-8


@pytest.mark.parametrize("s", [1, 2, 3, 4, 12])
def test_folding_a_spectrum_is_decimating_the_image(s: int) -> None:
    x = image(24, 36)
    assert torch.allclose(spectrum.fold(fft2(x), s), fft2(x[..., ::s, ::s]))
    assert torch.allclose(spectrum.fold(fft(x), s, dims=(-1,)), fft(x[..., ::s]))
    assert torch.allclose(spectrum.fold(fft(x, dim=1), 3, dims=(1,)), fft(x[:, ::3], dim=1))


@pytest.mark.parametrize(("n", "m"), [(16, 13), (16, 6), (15, 10), (21, 14), (16, 15)])
def test_folding_by_a_fraction_samples_the_trigonometric_interpolant(n: int, m: int) -> None:
    signal = image(1, n)[0, 0, 0]
    position = torch.arange(m, dtype=torch.float64) * n / m
    coefficients = fft(signal) / n
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    values = (coefficients * torch.exp(2j * math.pi * position[:, None] * k / n)).real.sum(-1)
    folded = spectrum.fold(fft(signal), n / m, dims=(0,))
    assert torch.allclose(folded, fft(values))


def test_equations_6_to_8_hold_in_one_dimension_with_the_plain_dft() -> None:
    """N = 66 -> M = 33: no bin lies exactly at the view's Nyquist frequency.

    The paper's L(w) = X(w) must read X(w)/2, as its own Eq. 6 has it.
    """
    x = image(1, 66)[0, 0, 0]
    X, base = fft(x), torch.fft.fftfreq(66, 1 / 66).abs() <= 16
    D = fft(x[::2])
    L = fft(torch.fft.ifft(X * base).real[::2])  # ideal low-pass at pi/2, then decimation
    A = D - L
    X_base, X_folded = (X * base).view(2, 33).sum(0), (X * ~base).view(2, 33).sum(0)  # X(w), X(w + pi) on the base band
    assert torch.allclose(D, (X_base + X_folded) / 2)  # Eq. 6
    assert torch.allclose(L, X_base / 2)
    assert torch.allclose(A, X_folded / 2)  # Eq. 7
    assert A.abs().square().sum().item() == pytest.approx(X_folded.abs().square().sum().item() / 4)  # Eq. 8
    assert torch.allclose(spectrum.fold(X, 2, dims=(0,)), D)


def test_equations_7_and_8_hold_in_two_dimensions_with_the_unitary_dft_only() -> None:
    """Per axis a factor 1/2: with the plain DFT Eq. 7 has 1/4 and Eq. 8 1/16. The printed 1/2 and 1/4 are the unitary
    DFT's (norm="ortho"), and X(w + pi) of Eq. 8 is the sum over all three shifts, whose cross terms do not vanish."""
    x = image(66, 66)
    k = torch.fft.fftfreq(66, 1 / 66).abs() <= 16
    base = k[:, None] & k[None, :]
    for norm, factor in (("backward", 1 / 4), ("ortho", 1 / 2)):
        X = fft2(x, norm=norm)
        D = fft2(x[..., ::2, ::2], norm=norm)
        L = fft2(torch.fft.ifft2(X * base, norm=norm).real[..., ::2, ::2], norm=norm)
        shifts = (X * ~base).unflatten(-2, (2, 33)).unflatten(-1, (2, 33))  # (B, C, uy, wy, ux, wx)
        folded = shifts.sum((-4, -2))
        assert torch.allclose(D - L, factor * folded)
        energy = (D - L).abs().square().sum().item()
        assert energy == pytest.approx(factor**2 * folded.abs().square().sum().item())
        assert energy != pytest.approx(factor**2 * shifts.abs().square().sum().item(), rel=1e-3)


# ----------------------------------------------------------------------------------------------------- what is measured


@pytest.mark.parametrize(("fy", "fx"), [(0, 9), (20, 0), (13, 5), (31, 31)])
def test_a_tone_above_nyquist_is_all_alias_and_one_below_is_none(fy: int, fx: int) -> None:
    assert spectrum.aliasing_energy(tone(64, fy, fx), 4).item() == pytest.approx(1)
    assert spectrum.foldable_energy(tone(64, fy, fx), 4).item() == pytest.approx(1)
    assert spectrum.aliasing_energy(tone(64, fy % 8, fx % 8), 4).item() == pytest.approx(0, abs=1e-12)


def test_a_tone_exactly_at_nyquist_is_not_beyond_it() -> None:
    for fy, fx in ((0, 8), (8, 0), (8, 8)):
        assert spectrum.aliasing_energy(tone(64, fy, fx), 4).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rho", [1.5, 3.0, 5.0])
def test_a_filter_scales_the_folded_energy_by_its_otf_squared(rho: float) -> None:
    side, low, high = 128, 3, 41  # 41 folds onto 41 - 32 = 9: other than 3, so that energies add
    x = tone(side, 0, low) + 2 * tone(side, 0, high)
    psf = optics.disk_psf(rho)
    position = torch.arange(len(psf), dtype=torch.float64) - len(psf) // 2
    otf = {f: (psf.sum(0) * torch.cos(2 * math.pi * f / side * position)).sum().item() for f in (low, high)}
    expected = 4 * otf[high] ** 2 / (otf[low] ** 2 + 4 * otf[high] ** 2)
    assert spectrum.aliasing_energy(x, 4, psf).item() == pytest.approx(expected, rel=1e-9)
    assert spectrum.foldable_energy(x, 4, psf).item() == pytest.approx(expected, rel=1e-9)
    # The analytic OTF times the pixel's own transform agrees, up to the aliasing of the sampled disk's edge.
    analytic = optics.disk_otf(rho, torch.tensor(high / side), torch.tensor(0.0)) * torch.sinc(
        torch.tensor(high / side)
    )
    assert otf[high] == pytest.approx(analytic.item(), abs=0.02)


@pytest.mark.parametrize("s", [2, 3, 4])
def test_aliasing_energy_is_the_energy_of_what_decimation_adds_to_the_view(s: int) -> None:
    x = image(48)
    below, beyond = spectrum.split_band(x, s)
    assert torch.allclose(below + beyond, x)

    def energy(view: torch.Tensor) -> torch.Tensor:
        return (view - view.mean((-2, -1), keepdim=True)).square().sum((1, 2, 3))

    expected = energy(beyond[..., ::s, ::s]) / energy(x[..., ::s, ::s])
    assert torch.allclose(spectrum.aliasing_energy(x, s), expected)


def test_the_three_measures_ignore_the_mean() -> None:
    x = image(32)
    assert torch.allclose(spectrum.aliasing_energy(x, 2), spectrum.aliasing_energy(x + 0.7, 2))
    assert torch.allclose(spectrum.foldable_energy(x, 2), spectrum.foldable_energy(x + 0.7, 2))


def test_a_constant_image_has_neither_alias_nor_gradient_trouble() -> None:
    x = torch.full((2, 3, 16, 16), 0.5, dtype=torch.float64, requires_grad=True)
    energy = spectrum.aliasing_energy(x, 2) + spectrum.foldable_energy(x, 2)
    energy.sum().backward()
    assert torch.equal(energy, torch.zeros_like(energy))
    assert x.grad is not None
    assert x.grad.isfinite().all()


@given(
    m=st.integers(1, 9), s=st.sampled_from([1.0, 1.5, 2.0, 3.0, 8 / 3]), rho=st.floats(0, 6), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_blur_never_adds_and_foldable_energy_is_a_share(m: int, s: float, rho: float, seed: int) -> None:
    side = round(6 * m * s) if (6 * m * s).is_integer() else round(3 * m * s)
    x = image(side, seed=seed)
    share = spectrum.foldable_energy(x, s, optics.disk_psf(rho))
    assert ((share >= 0) & (share <= 1 + 1e-9)).all()
    assert (spectrum.aliasing_energy(x, s, optics.disk_psf(rho)) >= 0).all()


def test_a_transfer_function_larger_than_the_image_wraps_and_keeps_its_sum() -> None:
    transfer = spectrum.transfer_function(optics.disk_psf(6.0), (5, 8))
    assert transfer[0, 0].item() == pytest.approx(1)
    assert transfer.imag.abs().max() < 1e-14  # even and centred


def test_energy_is_differentiable() -> None:
    x = image(8, batch=1, channels=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spectrum.aliasing_energy(x, 2, optics.disk_psf(1.0)), x)


def test_low_precision_images_are_measured_in_float32() -> None:
    x = image(32).to(torch.bfloat16)
    assert torch.equal(spectrum.aliasing_energy(x, 2), spectrum.aliasing_energy(x.float(), 2))
    assert spectrum.aliasing_energy(x, 2).dtype == torch.float32


@pytest.mark.parametrize("factor", [0.5, 0.0, -2.0, 5, 1.7])
def test_a_factor_that_does_not_divide_is_named(factor: float) -> None:
    with pytest.raises(ValueError, match=rf"factor must .* divide the side 32 .* got {factor}"):
        spectrum.aliasing_energy(image(32), factor)


# --------------------------------------------------------------------------------------------------------- radial power


@given(height=st.integers(1, 20), width=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_radial_power_conserves_energy(height: int, width: int) -> None:
    x = image(height, width)
    rings = spectrum.radial_power(x)
    assert torch.allclose((rings.power * rings.bins).sum(-1), x.square().sum((-2, -1)).mean(1))
    assert rings.bins.sum() == height * width


def test_a_tone_appears_in_the_ring_of_its_frequency() -> None:
    rings = spectrum.radial_power(tone(64, 6, 8))
    assert rings.frequency[rings.power[0].argmax()].item() == pytest.approx(10 / 64)


def test_white_noise_is_flat() -> None:
    noise = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    power = spectrum.radial_power(noise).power.mean(0)[2:-2]
    assert (power - 1).abs().max() < 0.2  # the inmost ring averages over 16 bins of 48 images


# ----------------------------------------------------------------------------------------------------- Wiener, Eq. 12


def test_the_wiener_gain_has_the_least_squared_error() -> None:
    """Of all gains on x + n, alpha = S_xx / (S_xx + S_nn) leaves the smallest E|x - alpha (x + n)|^2."""
    signal, noise = torch.rand(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    gain = spectrum.wiener_gain(signal, noise)

    def error(alpha: torch.Tensor) -> torch.Tensor:
        return (1 - alpha) ** 2 * signal + alpha**2 * noise

    for other in (gain + 0.01, gain - 0.01, torch.zeros(50), torch.ones(50)):
        assert (error(gain) <= error(other)).all()
    assert (error(gain) - signal * noise / (signal + noise)).abs().max() < 1e-12


def test_the_wiener_gain_of_nothing_is_zero_and_negative_power_is_refused() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    assert spectrum.wiener_gain(zero, zero) == 0
    assert spectrum.wiener_gain(one, zero) == 1
    with pytest.raises(ValueError, match="must not be negative"):
        spectrum.wiener_gain(-one, one)


def test_a_decimated_spectrum_is_the_base_band_plus_what_folds() -> None:
    """Eq. 6 is the low band plus Eq. 7."""
    x = image(32)
    low, _ = spectrum.split_band(x, 2)
    base = spectrum.fold(fft2(low), 2)
    assert (spectrum.fold(fft2(x), 2) - base - spectrum.alias_spectrum(fft2(x), 2)).abs().max() < 1e-9


@pytest.mark.parametrize("periods", [9, 12, 15])
def test_the_folded_energy_is_a_quarter_of_the_upper_bands(periods: int) -> None:
    """Eq. 8: a tone above the view's Nyquist frequency, decimated 2:1 along one axis, keeps a quarter of its energy."""
    X = fft2(tone(32, 0, periods))
    folded = spectrum.fold(X, 2, dims=(-1,))
    assert float(folded.abs().square().sum() / X.abs().square().sum()) == pytest.approx(1 / 4)
    assert (spectrum.alias_spectrum(X, 2) - spectrum.fold(X, 2)).abs().max() < 1e-9  # all of it is alias
