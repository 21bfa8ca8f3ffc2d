"""Claims of fvar.focus.optics, against theory and against brute-force supersampling."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fvar.config import Schedule
from fvar.focus import optics

RADII = [0.6 * (k + 1) for k in range(40)]  # 0.6 ... 24 px


def supersampled_disk(radius: float, size: int) -> torch.Tensor:
    """Share of the points of a pixel that lie in the disk: 64 x 64 of them, or more where a disk of few pixels would
    otherwise be counted too coarsely for a reference."""
    per_pixel = max(64, 1024 // size)
    points = (torch.arange(size * per_pixel, dtype=torch.float64) + 0.5) / per_pixel - size / 2
    inside = (points[:, None] ** 2 + points[None, :] ** 2) <= radius**2
    counts = inside.view(size, per_pixel, size, per_pixel).sum((1, 3), dtype=torch.float64)
    return counts / counts.sum()


@pytest.mark.parametrize("radius", RADII)
def test_disk_psf_is_the_exact_area_of_every_pixel(radius: float) -> None:
    psf = optics.disk_psf(radius)
    assert (psf - supersampled_disk(radius, len(psf))).abs().sum() < 1e-3


def test_the_area_covered_adds_up_to_pi_r_squared() -> None:
    # Fully covered pixels carry weight 1 / area, which reveals the normalisation.
    for radius in (3.0, 7.3, 12.0, 24.0):
        assert 1 / optics.disk_psf(radius).max().item() == pytest.approx(math.pi * radius**2, rel=1e-12)


@given(st.floats(0, 40))
@settings(max_examples=100, deadline=None)
def test_disk_psf_sums_to_one_is_nonnegative_and_odd_sized_with_eightfold_symmetry(radius: float) -> None:
    psf = optics.disk_psf(radius)
    n = len(psf)
    assert psf.shape == (n, n)
    assert n % 2 == 1
    assert n == 1 or n / 2 >= radius > n / 2 - 1  # the smallest square of whole pixels around the disk
    assert psf.sum().item() == pytest.approx(1, abs=1e-12)
    assert psf.min() >= 0
    for other in (psf.T, psf.flip(0), psf.flip(1), psf.flip(0).T, psf.flip(1).T, psf.flip(0, 1), psf.flip(0, 1).T):
        assert (psf - other).abs().max() < 1e-13


def test_a_disk_within_one_pixel_is_the_delta_and_larger_ones_leave_it_continuously() -> None:
    for radius in (0.0, 1e-9, 0.3, 0.5):
        assert torch.equal(optics.disk_psf(radius), torch.ones(1, 1, dtype=torch.float64))
    centre = [optics.disk_psf(0.5 + step)[1, 1].item() for step in (1e-6, 1e-3, 1e-2)]
    assert centre[0] > 1 - 1e-6
    assert centre == sorted(centre, reverse=True)


def test_disk_psf_comes_in_the_type_asked_for() -> None:
    assert optics.disk_psf(2.0).dtype == torch.float64
    assert optics.disk_psf(2.0, torch.float32).dtype == torch.float32


def test_otf_zero_sits_at_0_61_over_rho() -> None:
    for radius in (0.75, 3.0, 12.0):
        low, high = 0.5 / radius, 0.7 / radius
        for _ in range(60):
            middle = (low + high) / 2
            positive = optics.disk_otf(radius, torch.tensor(middle, dtype=torch.float64), torch.tensor(0.0)) > 0
            low, high = (middle, high) if positive else (low, middle)
        assert low * radius == pytest.approx(0.6098, abs=1e-4)
        assert low * radius == pytest.approx(optics.FIRST_ZERO, abs=1e-4)


def test_first_side_lobe_reverses_contrast_by_0_13() -> None:
    lobe = optics.disk_otf(1.0, torch.linspace(0.6, 1.2, 2000, dtype=torch.float64), torch.tensor(0.0))
    assert lobe.min().item() == pytest.approx(-0.1323, abs=2e-4)


def test_otf_is_one_at_frequency_zero_and_smooth_there() -> None:
    f = torch.tensor([0.0, 1e-7, 1.5e-5, 1.7e-5], dtype=torch.float64)
    assert torch.allclose(optics.disk_otf(1.0, f, torch.tensor(0.0)), 1 - (math.pi * f) ** 2 / 2, atol=1e-15)
    assert torch.equal(optics.disk_otf(0.0, f, f), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("radius", [1.0, 3.0, 7.5, 12.0])
def test_otf_is_the_fourier_transform_of_the_psf(radius: float) -> None:
    """Averaging over pixels multiplies by the pixel's transform, sampling repeats it at every integer frequency."""
    psf = optics.disk_psf(radius)
    position = torch.arange(len(psf), dtype=torch.float64) - len(psf) // 2
    shift = torch.arange(-12, 13, dtype=torch.float64)
    f = torch.linspace(0, 0.5, 30, dtype=torch.float64)
    for fx, fy in ((f, 0 * f), (f, f), (f, 0.3 + 0 * f)):
        row = torch.cos(2 * math.pi * fy[:, None] * position)
        column = torch.cos(2 * math.pi * fx[:, None] * position)
        transform = torch.einsum("fy,yx,fx->f", row, psf, column)
        u, v = fy[:, None, None] + shift[:, None], fx[:, None, None] + shift[None, :]
        expected = (optics.disk_otf(radius, u, v) * torch.sinc(u) * torch.sinc(v)).sum((1, 2))
        assert (transform - expected).abs().max() < 2e-4


def test_gaussian_has_the_variance_of_the_disk_it_replaces() -> None:
    for rho in (3.0, 6.0, 12.0):
        variances = []
        for psf in (optics.disk_psf(rho), optics.gaussian_psf(rho / 2)):
            position = torch.arange(len(psf), dtype=torch.float64) - len(psf) // 2
            variances.append((psf.sum(0) * position**2).sum().item())
        assert variances[0] == pytest.approx(rho**2 / 4 + 1 / 12, rel=2e-2)  # 1/12 is the pixel's own
        assert variances[1] == pytest.approx(variances[0], rel=2e-2)


def test_gaussian_sums_to_one_and_starts_from_the_delta() -> None:
    assert optics.gaussian_psf(3.0).sum().item() == pytest.approx(1)
    assert torch.equal(optics.gaussian_psf(0.0), torch.ones(1, 1, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["cosine", "linear", "geometric"])
@given(states=st.integers(2, 12), rho_max=st.floats(0.1, 100))
@settings(deadline=None)
def test_schedules_fall_strictly_from_rho_max_to_exactly_zero(kind: Schedule, states: int, rho_max: float) -> None:
    radii = optics.radius_schedule(states, rho_max, kind)
    assert len(radii) == states
    assert radii[0] == pytest.approx(rho_max)
    assert radii[-1] == 0.0
    assert all(a > b for a, b in itertools.pairwise(radii))


def test_the_papers_schedule_is_12_9_3_0() -> None:
    assert optics.radius_schedule(4, 12.0) == pytest.approx((12, 9, 3, 0))
    assert optics.radius_schedule(4, 12.0, "linear") == pytest.approx((12, 8, 4, 0))
    assert optics.radius_schedule(4, 12.0, "geometric") == pytest.approx((12, 6, 3, 0))


def test_a_single_state_is_in_focus() -> None:
    assert optics.radius_schedule(1, 12.0) == (0.0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optics.disk_psf(-1.0), r"radius must be .* >= 0 px, got -1"),
        (lambda: optics.disk_psf(math.nan), "radius must be .* got nan"),
        (lambda: optics.gaussian_psf(-0.5), r"sigma must be .* >= 0 px, got -0.5"),
        (lambda: optics.disk_otf(-2.0, torch.zeros(1), torch.zeros(1)), "radius must be .* got -2"),
        (lambda: optics.radius_schedule(0, 12.0), "num_states must be at least 1, got 0"),
        (lambda: optics.radius_schedule(4, -12.0), "rho_max must be .* got -12"),
        (lambda: optics.radius_schedule(4, math.inf), "rho_max must be .* got inf"),
        (
            lambda: optics.radius_schedule(4, 12.0, "cubic"),  # type: ignore[arg-type]
            "kind must be 'cosine', 'linear' or 'geometric'",
        ),
    ],
)
def test_bad_values_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
