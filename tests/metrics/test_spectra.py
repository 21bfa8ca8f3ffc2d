"""The spectra of generated against real images: what the two numbers are, and that they tell aliasing from detail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fvar.config import DataConfig, Digital, Kernel
from fvar.data import charts, open_dataset, to_float, to_uint8
from fvar.focus.pyramid import FocusPyramid
from fvar.metrics.compare import Score
from fvar.metrics.features import Images, extract
from fvar.metrics.sources import ArrayImages
from fvar.metrics.spectra import (
    RadialSpectrum,
    aliasing_scores,
    load_spectra,
    log_spectral_distances,
    octaves,
    top_octave_ratio,
)
from tests.metrics.scored import number

SIDE = 64


def images(x: Tensor) -> ArrayImages:
    """Images in [-1, 1] as a file would hold them."""
    return ArrayImages(to_uint8(x.clamp(-1, 1)).permute(0, 2, 3, 1).numpy())


def scores(generated: Images, real: Images | None) -> dict[str, Score]:
    return aliasing_scores(generated, real, extract)


def noise(count: int, height: int = SIDE, width: int = SIDE, deviation: float = 0.1, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * deviation


def view(x: Tensor, kernel: Kernel, digital: Digital, rho: float) -> Tensor:
    """Images of half the side, blurred by rho px and sampled."""
    side = x.shape[-1]
    pyramid = FocusPyramid((side // 2, side), 1, rho, kernel=kernel, digital=digital, beta=(0, 0)).eval()
    focused: Tensor = pyramid(x).focused[0]
    return focused.clamp(-1, 1)


Sampling = tuple[Kernel, Digital, float]
CLEAN: Sampling = ("none", "bicubic", 0.0)
LIGHTLY: Sampling = ("disk", "decimate", 0.8)
HEAVILY: Sampling = ("none", "decimate", 0.0)


def spectrum_of(height: int, width: int) -> RadialSpectrum:
    network = load_spectra(height, width).network
    assert isinstance(network, RadialSpectrum)
    return network


@pytest.fixture(scope="module")
def emoji() -> tuple[Tensor, Tensor]:
    """Two halves of the data set at twice the side, as different from each other as such sets are."""
    whole = open_dataset(DataConfig(dataset="emoji", image_size=2 * SIDE), "all")
    first, second = (to_float(whole.batch(range(start, 1000, 4))) for start in (0, 2))
    return first, second


def test_decimated_emoji_are_further_from_well_sampled_ones_the_weaker_their_low_pass(
    emoji: tuple[Tensor, Tensor],
) -> None:
    generated, real = emoji
    found = [scores(images(view(generated, *how)), images(view(real, *CLEAN))) for how in (CLEAN, LIGHTLY, HEAVILY)]
    distance = [entry["spectral_distance"] for entry in found]
    top = [entry["top_octave"] for entry in found]
    assert number(distance[0]) < 1  # two sets of 250 are not alike
    for low, high in ((0, 1), (1, 2)):
        assert number(distance[high]) - number(distance[low]) > 5 * distance[low].details["spread"]
        assert number(top[high]) - number(top[low]) > 2 * top[low].details["spread"]
    assert top[0].value == pytest.approx(1, abs=3 * top[0].details["spread"])
    assert number(top[2]) > 1.5


def test_blur_is_far_from_the_real_images_too_but_lacks_energy_at_the_top(emoji: tuple[Tensor, Tensor]) -> None:
    generated, real = emoji
    blurred = scores(images(view(generated, "disk", "decimate", 3.0)), images(view(real, *CLEAN)))
    assert number(blurred["top_octave"]) < 0.5
    assert number(blurred["spectral_distance"]) > 2


def test_a_decimated_zone_plate_has_the_energy_that_was_folded_in() -> None:
    plates = torch.stack([charts.zone_plate(2 * SIDE, 0.2 + 0.01 * i).expand(3, -1, -1) for i in range(24)])
    real = images(view(plates, *CLEAN))
    found = [scores(images(view(plates, *how)), real) for how in (CLEAN, LIGHTLY, HEAVILY)]
    distance, top = ([number(entry[key]) for entry in found] for key in ("spectral_distance", "top_octave"))
    assert distance[0] < distance[1] < distance[2]
    assert top[0] < top[1] < top[2]


def test_filling_a_coarse_grid_without_a_low_pass_shows_in_the_top_octave(emoji: tuple[Tensor, Tensor]) -> None:
    """Nearest and bilinear upsampling leave images of the spectrum beyond the coarse grid's Nyquist frequency."""
    coarse = view(view(emoji[0], *CLEAN), *CLEAN)
    tops = []
    for mode in ("bicubic", "bilinear", "nearest"):
        x = torch.nn.functional.interpolate(coarse, scale_factor=2, mode=mode)
        tops.append(number(scores(images(x), images(view(emoji[0], *CLEAN)))["top_octave"]))
    assert tops[2] > 3 * max(tops[:2])


def test_equal_sets_have_no_distance_and_equal_energy(emoji: tuple[Tensor, Tensor]) -> None:
    same = scores(images(emoji[0]), images(emoji[0]))
    assert same["spectral_distance"].value == 0
    assert same["top_octave"].value == 1


def test_twice_the_amplitude_is_six_decibels_in_every_octave() -> None:
    low, high = noise(200, deviation=0.1), noise(200, deviation=0.2, seed=1)
    found = scores(images(high), images(low))
    assert found["top_octave"].value == pytest.approx(4, rel=0.02)
    assert found["spectral_distance"].value == pytest.approx(20 * math.log10(2), rel=0.05)
    upper = next(iter(found["spectral_distance"].details["octaves"].values()))
    assert upper == pytest.approx(20 * math.log10(2), rel=0.02)


def test_a_grating_counts_in_its_own_octave_only() -> None:
    network = spectrum_of(SIDE, SIDE)
    real = network(torch.full((1, 3, SIDE, SIDE), 128, dtype=torch.uint8))[0]
    lows = [low for low, _ in octaves(network.get_buffer("frequency"))]
    assert lows == [0.25, 0.125, 0.0625, 0.03125]
    for octave, low in enumerate(lows):
        grating = to_uint8(0.5 * charts.grating(SIDE, 1.5 * low)).expand(1, 3, -1, -1)
        distances = log_spectral_distances(network(grating)[0], real, network)
        assert max(range(4), key=distances.__getitem__) == octave
        assert (top_octave_ratio(network(grating)[0], real, network) > 100) == (octave == 0)


def test_octaves_are_disjoint_and_reach_the_corners_of_the_frequency_plane() -> None:
    for height, width in ((64, 64), (48, 96), (6, 6), (33, 33)):
        frequency = spectrum_of(height, width).get_buffer("frequency")
        bands = [mask for _, mask in octaves(frequency)]
        assert torch.stack(bands).sum(0).max() == 1
        assert all(mask.any() for mask in bands)
        assert bands[0][-1]


def test_a_checkerboard_is_in_the_top_octave() -> None:
    board = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2 * 20 + 100
    board = board.to(torch.uint8).expand(1, 3, -1, -1)
    network = spectrum_of(SIDE, SIDE)
    assert top_octave_ratio(network(board)[0], network(board * 0 + 110)[0], network) > 100


def test_a_step_between_opposite_borders_is_not_measured() -> None:
    network = spectrum_of(SIDE, SIDE)
    ramp = torch.linspace(0, 255, SIDE).round().byte().expand(1, 3, SIDE, -1)
    power, grey = network(ramp)[0], network(torch.full_like(ramp, 128))[0]
    assert top_octave_ratio(power, grey, network) < 2  # rounding; a periodic ramp, with its step, has 17,000


def test_blank_images_have_the_power_of_rounding_and_give_a_number() -> None:
    grey = ArrayImages(np.full((5, SIDE, SIDE, 3), 77, np.uint8))
    found = scores(grey, images(noise(5)))
    assert 0 < number(found["top_octave"]) < 0.01
    assert math.isfinite(number(found["spectral_distance"]))


def test_the_spread_is_that_of_repeated_draws() -> None:
    real = images(noise(400, seed=99))
    repeated = [scores(images(noise(40, seed=seed)), real)["top_octave"] for seed in range(12)]
    assert np.std([number(entry) for entry in repeated]) == pytest.approx(
        np.mean([entry.details["spread"] for entry in repeated]), rel=0.6
    )


def test_one_image_is_a_number_without_a_spread() -> None:
    for entry in scores(images(noise(1)), images(noise(9, seed=1))).values():
        assert number(entry) > 0
        assert "spread" not in entry.details


def test_other_sizes_and_bare_statistics_are_blanks_with_a_reason() -> None:
    small, wide = images(noise(4)), images(noise(4, 32, 64))
    for entry in scores(small, wide).values():
        assert entry.value is None
        assert "64 x 64 and 64 x 32 px" in entry.reason
    for entry in scores(small, None).values():
        assert (entry.value, entry.reference_count) == (None, None)
        assert "statistics only" in entry.reason
