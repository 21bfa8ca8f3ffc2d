"""Measuring the pyramid itself agrees with the theory of decimation, and works where that has no formula."""

import pytest
import torch

from fvar.data import charts
from fvar.focus import optics, spectrum
from fvar.focus.aliasing import RECIPES, folded_share, tapered, view_quality


def noise(side: int = 96) -> torch.Tensor:
    return tapered(
        torch.rand(3, 2, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    )


@pytest.mark.parametrize("s", [2, 3, 4])
@pytest.mark.parametrize(("recipe", "rho"), [("decimate", 0.0), ("disk", 1.5), ("gaussian", 2.0)])
def test_it_equals_aliasing_energy_for_decimation_by_an_integer(recipe: str, rho: float, s: int) -> None:
    """Up to the borders, where the pyramid mirrors and the DFT repeats what rings there after the split of the band.
    The pyramid keeps pixel s // 2 of each interval and the formula the first: the image is turned by the difference."""
    x = noise()
    psf = {"decimate": None, "disk": optics.disk_psf(rho), "gaussian": optics.gaussian_psf(rho / 2)}[recipe]
    expected = spectrum.aliasing_energy(x.roll((-(s // 2), -(s // 2)), (-2, -1)), s, psf)
    measured = view_quality(x, 96 // s, rho, RECIPES[recipe]).aliasing
    assert torch.allclose(measured, expected, rtol=2e-2)


def test_plain_decimation_keeps_everything_and_blur_keeps_less_and_less() -> None:
    x = noise()
    assert torch.allclose(view_quality(x, 24, 0.0, RECIPES["decimate"]).kept, torch.ones(3, dtype=torch.float64))
    kept = [view_quality(x, 24, rho, RECIPES["disk"]).kept.mean().item() for rho in (0.0, 1.0, 2.0, 4.0)]
    assert kept == sorted(kept, reverse=True)


@pytest.mark.parametrize("recipe", sorted(RECIPES.keys() - {"ideal", "disk_pixel"}))  # which leave nothing of the tone
def test_a_tone_beyond_nyquist_is_all_alias_by_every_recipe_and_ratio(recipe: str) -> None:
    x = tapered(charts.grating(96, 0.4)[None].double())
    assert view_quality(x, 52, 1.0, RECIPES[recipe]).aliasing.item() > 0.97
    low = tapered(charts.grating(96, 0.1)[None].double())
    assert view_quality(low, 52, 1.0, RECIPES[recipe]).aliasing.item() < 0.03


def test_enough_blur_beats_vars_area_filter_and_too_little_does_not() -> None:
    x = noise()
    area = view_quality(x, 24, 0.0, RECIPES["area"]).aliasing.mean()
    assert view_quality(x, 24, 0.3 * 4, RECIPES["disk"]).aliasing.mean() > area
    assert view_quality(x, 24, 1.2 * 4, RECIPES["disk"]).aliasing.mean() < area


def test_a_residual_of_tones_beyond_nyquist_is_folded_and_one_of_tones_below_is_detail() -> None:
    high, low = (tapered(charts.grating(96, frequency)[None].double()) for frequency in (0.4, 0.1))
    for recipe in ("disk", "gaussian"):
        assert folded_share(high, 32, 4.0, RECIPES[recipe]).item() > 0.97
        assert folded_share(low, 32, 4.0, RECIPES[recipe]).item() < 0.03


def test_the_shares_of_white_noise_follow_the_areas_of_its_bands() -> None:
    """A blur so wide that it takes everything leaves D_k: of a flat spectrum 1 - 1/s^2 folds."""
    share = folded_share(noise(), 32, 40.0, RECIPES["gaussian"])
    assert torch.allclose(share, torch.full_like(share, 1 - 1 / 9), atol=0.03)
