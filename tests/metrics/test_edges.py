"""The staircase score: what it gives for staircases of known height, and what it does not mistake for one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import Digital, Kernel
from fvar.data import charts
from fvar.focus.pyramid import FocusPyramid
from fvar.metrics.edges import CONTRAST, Reconstruct, edge_positions, staircase, straight_line_residuals


def round_trip(
    kernel: Kernel, digital: Digital, rho: float = 0.0, factor: int = 4, fill: str = "bicubic"
) -> Reconstruct:
    """Images blurred by rho px, sampled every `factor` px and enlarged again."""

    def reconstruct(x: Tensor) -> Tensor:
        side = x.shape[-1]
        pyramid = FocusPyramid((side // factor, side), 1, rho, kernel=kernel, digital=digital, beta=(0, 0)).eval()
        return F.interpolate(pyramid(x).focused[0], scale_factor=factor, mode=fill)

    return reconstruct


@pytest.mark.parametrize("side", [64, 128, 256])
def test_a_drawn_edge_is_straight(side: int) -> None:
    assert staircase(lambda x: x, side).jitter < 0.01
    assert staircase(lambda x: x, side).found == 1


@pytest.mark.parametrize("factor", [2, 4])
def test_keeping_every_sth_pixel_gives_a_sawtooth_of_s_minus_1_px(factor: int) -> None:
    """Between samples, over s - 1 px, the edge seems to stand still: a uniform deviation, so (s - 1)/sqrt(12)."""
    found = staircase(round_trip("none", "decimate", factor=factor), 256)
    assert found.jitter == pytest.approx((factor - 1) / math.sqrt(12), rel=0.03)


@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("factor", [2, 4])
def test_edges_are_the_more_jagged_the_weaker_the_low_pass(side: int, factor: int) -> None:
    clean, lightly, heavily = (
        staircase(reconstruct, side).jitter
        for reconstruct in (
            round_trip("none", "bicubic", factor=factor),
            round_trip("disk", "decimate", 0.35 * factor, factor),
            round_trip("none", "decimate", factor=factor),
        )
    )
    assert 2 * clean < lightly
    assert 1.4 * lightly < heavily


def test_pixels_filled_with_one_value_are_more_jagged_than_interpolated_ones() -> None:
    smooth, blocks = (
        staircase(round_trip("none", "bicubic", fill=fill), 128).jitter for fill in ("bicubic", "nearest")
    )
    assert blocks > 5 * smooth


def test_blur_shift_and_lower_contrast_are_no_staircase() -> None:
    blur = lambda x: F.avg_pool2d(F.pad(x, [2] * 4, mode="replicate"), 5, 1)  # noqa: E731
    for harmless in (blur, lambda x: x.roll(2, -1), lambda x: x.roll(2, -2), lambda x: 0.5 * x + 0.2):
        assert staircase(harmless, 128).jitter < 0.02


def test_an_edge_that_is_gone_is_no_number() -> None:
    for gone in (torch.zeros_like, lambda x: x * 0.2, lambda x: torch.full_like(x, -1.0)):
        found = staircase(gone, 64)
        assert math.isnan(found.jitter)
        assert found.found == 0


def test_lying_edges_are_measured_too() -> None:
    only_rows = lambda x: x[..., ::4, :].repeat_interleave(4, dim=-2)  # noqa: E731
    assert staircase(only_rows, 128).jitter > 0.3


@pytest.mark.parametrize("degrees", [0.0, 5.0, -20.0])
def test_positions_are_where_the_edge_was_drawn(degrees: float) -> None:
    side = 64
    found = edge_positions(charts.slanted_edge(side, degrees, CONTRAST)[0], degrees)
    rows = torch.arange(8, side - 8) - (side - 1) / 2
    torch.testing.assert_close(
        found, (side - 1) / 2 - rows.double() * math.tan(math.radians(degrees)), atol=0.01, rtol=0
    )


def test_residuals_are_those_of_the_best_line_and_leave_lost_rows_out() -> None:
    rows = torch.arange(20, dtype=torch.float64)
    wave = 0.1 * (-1.0) ** rows
    assert straight_line_residuals(3 - 0.2 * rows).abs().max() < 1e-9
    assert straight_line_residuals(3 - 0.2 * rows + wave).std() == pytest.approx(0.1, rel=0.05)
    lost = torch.where(rows == 7, torch.nan, 3 - 0.2 * rows)
    assert len(straight_line_residuals(lost)) == 19
    assert len(straight_line_residuals(torch.full((9,), torch.nan))) == 0


def test_images_too_small_for_an_edge_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 px, got 12"):
        staircase(lambda x: x, 12)
