"""The spectra of generated against real images: what the two numbers are, and that they tell aliasing from detail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fvar.config import DataConfig
from fvar.data import charts, open_dataset, to_float, to_uint8
from fvar.metrics.features import extract
from fvar.metrics.frechet import Statistics
from fvar.metrics.sources import ArrayImages
from fvar.metrics.spectra import aliasing_scores, load_spectra, log_spectral_distances, octaves, top_octave_ratio
from fvar.pyramid import FocusPyramid

SIDE = 64


def images(x):
    """Images in [-1, 1] as a file would hold them."""
    return ArrayImages(to_uint8(x.clamp(-1, 1)).permute(0, 2, 3, 1).numpy())


def scores(generated, real):
    return aliasing_scores(generated, real, extract)


def noise(count, height=SIDE, width=SIDE, deviation=0.1, seed=0):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * deviation


def view(x, kernel, digital, rho=0.0):
    """Images of half the side, blurred by rho px and sampled."""
    side = x.shape[-1]
    pyramid = FocusPyramid((side // 2, side), 1, rho, kernel=kernel, digital=digital, beta=(0, 0)).eval()
    return pyramid(x).focused[0].clamp(-1, 1)


CLEAN, LIGHTLY, HEAVILY = ("none", "bicubic"), ("disk", "decimate", 0.8), ("none", "decimate")


@pytest.fixture(scope="module")
def emoji():
    """Two halves of the data set at twice the side, as different from each other as such sets are."""
    whole = open_dataset(DataConfig(dataset="emoji", image_size=2 * SIDE), "all")
    return tuple(to_float(whole.batch(range(start, 1000, 4))) for start in (0, 2))


def test_decimated_emoji_are_further_from_well_sampled_ones_the_weaker_their_low_pass(emoji):
    generated, real = emoji
    found = [scores(images(view(generated, *how)), images(view(real, *CLEAN))) for how in (CLEAN, LIGHTLY, HEAVILY)]
    distance = [entry["spectral_distance"] for entry in found]
    top = [entry["top_octave"] for entry in found]
    assert distance[0].value < 1  # two sets of 250 are not alike
    for low, high in ((0, 1), (1, 2)):
        assert distance[high].value - distance[low].value > 5 * distance[low].details["spread"]
        assert top[high].value - top[low].value > 2 * top[low].details["spread"]
    assert top[0].value == pytest.approx(1, abs=3 * top[0].details["spread"])
    assert top[2].value > 1.5


def test_blur_is_far_from_the_real_images_too_but_lacks_energy_at_the_top(emoji):
    generated, real = emoji
    blurred = scores(images(view(generated, "disk", "decimate", 3.0)), images(view(real, *CLEAN)))
    assert blurred["top_octave"].value < 0.5
    assert blurred["spectral_distance"].value > 2


def test_a_decimated_zone_plate_has_the_energy_that_was_folded_in():
    plates = torch.stack([charts.zone_plate(2 * SIDE, 0.2 + 0.01 * i).expand(3, -1, -1) for i in range(24)])
    real = images(view(plates, *CLEAN))
    found = [scores(images(view(plates, *how)), real) for how in (CLEAN, LIGHTLY, HEAVILY)]
    distance, top = ([entry[key].value for entry in found] for key in ("spectral_distance", "top_octave"))
    assert distance[0] < distance[1] < distance[2]
    assert top[0] < top[1] < top[2]


def test_filling_a_coarse_grid_without_a_low_pass_shows_in_the_top_octave(emoji):
    """Nearest and bilinear upsampling leave images of the spectrum beyond the coarse grid's Nyquist frequency."""
    coarse = view(view(emoji[0], *CLEAN), *CLEAN)
    tops = []
    for mode in ("bicubic", "bilinear", "nearest"):
        x = torch.nn.functional.interpolate(coarse, scale_factor=2, mode=mode)
        tops.append(scores(images(x), images(view(emoji[0], *CLEAN)))["top_octave"].value)
    assert tops[2] > 3 * max(tops[:2])


def test_equal_sets_have_no_distance_and_equal_energy(emoji):
    same = scores(images(emoji[0]), images(emoji[0]))
    assert same["spectral_distance"].value == 0
    assert same["top_octave"].value == 1


def test_twice_the_amplitude_is_six_decibels_in_every_octave():
    low, high = noise(200, deviation=0.1), noise(200, deviation=0.2, seed=1)
    found = scores(images(high), images(low))
    assert found["top_octave"].value == pytest.approx(4, rel=0.02)
    assert found["spectral_distance"].value == pytest.approx(20 * math.log10(2), rel=0.05)
    upper = next(iter(found["spectral_distance"].details["octaves"].values()))
    assert upper == pytest.approx(20 * math.log10(2), rel=0.02)


def test_a_grating_counts_in_its_own_octave_only():
    network = load_spectra(SIDE, SIDE).network
    real = network(torch.full((1, 3, SIDE, SIDE), 128, dtype=torch.uint8))[0]
    lows = [low for low, _ in octaves(network.frequency)]
    assert lows == [0.25, 0.125, 0.0625, 0.03125]
    for octave, low in enumerate(lows):
        grating = to_uint8(0.5 * charts.grating(SIDE, 1.5 * low)).expand(1, 3, -1, -1)
        distances = log_spectral_distances(network(grating)[0], real, network)
        assert max(range(4), key=distances.__getitem__) == octave
        assert (top_octave_ratio(network(grating)[0], real, network) > 100) == (octave == 0)


def test_octaves_are_disjoint_and_reach_the_corners_of_the_frequency_plane():
    for height, width in ((64, 64), (48, 96), (6, 6), (33, 33)):
        frequency = load_spectra(height, width).network.frequency
        bands = [mask for _, mask in octaves(frequency)]
        assert torch.stack(bands).sum(0).max() == 1
        assert all(mask.any() for mask in bands)
        assert bands[0][-1]


def test_a_checkerboard_is_in_the_top_octave():
    board = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2 * 20 + 100
    board = board.to(torch.uint8).expand(1, 3, -1, -1)
    network = load_spectra(SIDE, SIDE).network
    assert top_octave_ratio(network(board)[0], network(board * 0 + 110)[0], network) > 100


def test_a_step_between_opposite_borders_is_not_measured():
    network = load_spectra(SIDE, SIDE).network
    ramp = torch.linspace(0, 255, SIDE).round().byte().expand(1, 3, SIDE, -1)
    power, grey = network(ramp)[0], network(torch.full_like(ramp, 128))[0]
    assert top_octave_ratio(power, grey, network) < 2  # rounding; a periodic ramp, with its step, has 17,000


def test_blank_images_have_the_power_of_rounding_and_give_a_number():
    grey = ArrayImages(np.full((5, SIDE, SIDE, 3), 77, np.uint8))
    found = scores(grey, images(noise(5)))
    assert 0 < found["top_octave"].value < 0.01
    assert math.isfinite(found["spectral_distance"].value)


def test_the_spread_is_that_of_repeated_draws():
    real = images(noise(400, seed=99))
    repeated = [scores(images(noise(40, seed=seed)), real)["top_octave"] for seed in range(12)]
    assert np.std([entry.value for entry in repeated]) == pytest.approx(
        np.mean([entry.details["spread"] for entry in repeated]), rel=0.6
    )


def test_one_image_is_a_number_without_a_spread():
    for entry in scores(images(noise(1)), images(noise(9, seed=1))).values():
        assert entry.value > 0
        assert "spread" not in entry.details


def test_other_sizes_and_bare_statistics_are_blanks_with_a_reason():
    small, wide = images(noise(4)), images(noise(4, 32, 64))
    for entry in scores(small, wide).values():
        assert entry.value is None
        assert "64 x 64 and 64 x 32 px" in entry.reason
    for entry in scores(small, Statistics(np.zeros(3), np.eye(3))).values():
        assert (entry.value, entry.reference_count) == (None, None)
        assert "statistics only" in entry.reason
