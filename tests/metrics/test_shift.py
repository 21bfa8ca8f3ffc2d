"""Shift consistency: that it is endless for what does not alias, and falls with the aliasing of a round trip."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import DataConfig, Digital, Kernel
from fvar.data import charts, open_dataset, to_float
from fvar.focus import spectrum
from fvar.focus.pyramid import FocusPyramid
from fvar.metrics.edges import Reconstruct
from fvar.metrics.shift import shift_consistency, shifts_within

SIDE, FACTOR = 64, 4
SHIFTS = shifts_within(FACTOR)


def round_trip(kernel: Kernel, digital: Digital, rho: float = 0.0) -> Reconstruct:
    pyramid = FocusPyramid((SIDE // FACTOR, SIDE), 1, rho, kernel=kernel, digital=digital, beta=(0, 0)).eval()
    return lambda x: F.interpolate(pyramid(x).focused[0], scale_factor=FACTOR, mode="bicubic")


def ideal_low_pass(x: Tensor) -> Tensor:
    return spectrum.split_band(x, FACTOR)[0]


@pytest.fixture(scope="module")
def emoji() -> Tensor:
    return to_float(open_dataset(DataConfig(dataset="emoji", image_size=SIDE), "heldout").batch(range(0, 185, 8)))


@pytest.mark.parametrize("chart", ["emoji", "zone plate"])
def test_consistency_falls_with_aliasing(emoji: Tensor, chart: str) -> None:
    x = emoji if chart == "emoji" else charts.zone_plate(SIDE).expand(1, 3, -1, -1)
    ideal = shift_consistency(ideal_low_pass, x, SHIFTS).psnr
    clean, lightly, heavily = (
        shift_consistency(reconstruct, x, SHIFTS).psnr
        for reconstruct in (
            round_trip("disk", "decimate", 4.0),
            round_trip("disk", "decimate", 1.4),
            round_trip("none", "decimate"),
        )
    )
    assert ideal == pytest.approx(100)  # to rounding: a filter commutes with shifts
    assert ideal > clean > lightly + 2 > heavily + 4


def test_the_number_is_the_psnr_of_the_difference(emoji: Tensor) -> None:
    """Marks of 0.1 that stay where they are when the picture moves, on every other column: by one px all differ."""

    def marks(x: Tensor) -> Tensor:
        y = x.clone()
        y[..., ::2] += 0.1
        return y

    even, odd = (shift_consistency(marks, emoji, [(0, right)]).psnr for right in (2, 1))
    assert even == pytest.approx(100)
    assert odd == pytest.approx(10 * math.log10(4 / 0.1**2), abs=1e-3)
    assert shift_consistency(marks, emoji, [(0, 1), (0, 2)]).psnr == pytest.approx(odd + 10 * math.log10(2), abs=1e-3)


def test_the_reconstructions_own_psnr_stands_beside_it(emoji: Tensor) -> None:
    """A blank round trip is consistent, and worthless."""
    blank = shift_consistency(torch.zeros_like, emoji, SHIFTS)
    assert blank.psnr == pytest.approx(100)
    assert blank.reconstruction == pytest.approx(10 * math.log10(4 / emoji.square().mean().item()), abs=1e-3)
    assert shift_consistency(lambda x: x, emoji, SHIFTS).reconstruction == pytest.approx(100)


def test_batches_do_not_matter_and_seams_are_left_out(emoji: Tensor) -> None:
    decimated = round_trip("none", "decimate")
    one, many = (shift_consistency(decimated, emoji, SHIFTS, batch_size=size) for size in (5, 64))
    assert one.psnr == pytest.approx(many.psnr, abs=1e-6)
    assert list(one.by_shift) == SHIFTS

    def framed(x: Tensor) -> Tensor:  # a border of its own that does not move
        y = x.clone()
        y[..., :2] = 0
        return y

    assert shift_consistency(framed, emoji, SHIFTS).psnr == pytest.approx(100)


@pytest.mark.parametrize(("period", "sizes"), [(1, {1}), (2, {1}), (4, {1, 2}), (8, {1, 2, 4}), (16, {1, 2, 4, 8})])
def test_shifts_reach_half_a_token(period: int, sizes: set[int]) -> None:
    shifts = shifts_within(period)
    assert {max(shift) for shift in shifts} == sizes
    assert len(shifts) == 2 * len(sizes)


def test_shifts_that_leave_nothing_are_refused(emoji: Tensor) -> None:
    with pytest.raises(ValueError, match="leave nothing of images of 64 px"):
        shift_consistency(torch.zeros_like, emoji, [(0, 24)])
