"""Charts hold what they say they hold."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fvar.data import charts

ALL = [
    lambda side: charts.zone_plate(side),
    lambda side: charts.siemens_star(side),
    lambda side: charts.grating(side, 0.2, 30),
    lambda side: charts.rendered_text(side),
    lambda side: charts.slanted_edge(side, 5),
]


@pytest.mark.parametrize("chart", ALL)
@pytest.mark.parametrize("side", [1, 33, 128])
def test_charts_are_grey_images_in_range_and_always_the_same(chart: Callable[[int], Tensor], side: int) -> None:
    image = chart(side)
    assert image.shape == (1, side, side)
    assert image.dtype == torch.float32
    assert image.abs().max() <= 1
    assert torch.equal(image, chart(side))


@pytest.mark.parametrize(("degrees", "peak"), [(0, (0, 16)), (90, (16, 0))])
def test_a_grating_has_one_frequency_in_one_direction(degrees: float, peak: tuple[int, int]) -> None:
    power = torch.fft.fft2(charts.grating(64, 0.25, degrees)[0]).abs()
    assert divmod(int(power.argmax()), 64) in (peak, ((-peak[0]) % 64, (-peak[1]) % 64))
    assert power.square().topk(2).values.sum() / power.square().sum() > 0.999


def test_the_frequency_of_a_zone_plate_rises_evenly_from_the_centre() -> None:
    side, highest = 512, 0.4
    row = charts.zone_plate(side, highest)[0, side // 2]
    crossings = (row[:-1] * row[1:] < 0).nonzero().squeeze(1) - side / 2
    for distance in (60, 120, 180):
        near = crossings[(crossings - distance).abs() < 12]
        frequency = (len(near) - 1) / 2 / (near[-1] - near[0]).item()
        assert frequency == pytest.approx(highest * distance / (side / 2), rel=0.1)


def test_a_siemens_star_has_its_number_of_spokes_on_every_circle() -> None:
    star, side, spokes = charts.siemens_star(256, spokes=24)[0], 256, 24
    for radius in (40, 80):
        angle = torch.arange(2000) / 2000 * 2 * math.pi
        y = (radius * torch.sin(angle) + side / 2 - 0.5).round().long()
        x = (radius * torch.cos(angle) + side / 2 - 0.5).round().long()
        assert torch.fft.rfft(star[y, x]).abs()[1:].argmax().item() + 1 == spokes


@pytest.mark.parametrize("chart", [charts.zone_plate, charts.siemens_star])
def test_round_charts_hold_next_to_nothing_beyond_their_highest_frequency(chart: Callable[..., Tensor]) -> None:
    power = torch.fft.fft2(chart(256, highest=0.3)[0].double()).abs().square()
    f = torch.fft.fftfreq(256, dtype=torch.float64)
    beyond = torch.hypot(f[:, None], f[None, :]) > 0.34
    assert power[beyond].sum() / (power.sum() - power[0, 0]) < 0.01


def test_text_is_dark_on_white_and_larger_type_makes_taller_lines() -> None:
    def line_height(size: int) -> int:
        rows = (charts.rendered_text(64, (size,))[0] < 0).any(1).nonzero().squeeze(1)
        gaps = (rows.diff() > 1).nonzero()
        return int(gaps[0]) + 1 if len(gaps) else len(rows)

    assert charts.rendered_text(128).mean() > 0
    assert charts.rendered_text(128).min() < -0.9
    assert line_height(8) < line_height(14) < line_height(24)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: charts.zone_plate(0), "side must be at least 1 px, got 0"),
        (lambda: charts.zone_plate(64, 0.7), r"frequency must be in \(0, 0.5\] .* got 0.7"),
        (lambda: charts.grating(64, 0.0), "frequency must be .* got 0"),
        (lambda: charts.rendered_text(64, ()), r"sizes must .* got \(\)"),
    ],
)
def test_bad_values_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("degrees", [0.0, 5.0, -12.0, 30.0])
def test_a_slanted_edge_is_the_mean_over_every_pixels_area(degrees: float) -> None:
    side, fine, angle = 16, 64, math.radians(degrees)
    edge = charts.slanted_edge(side, degrees, contrast=1.0)[0].double()
    place = (torch.arange(side * fine, dtype=torch.float64) + 0.5) / fine - side / 2
    bright = (place * math.cos(angle) + place[:, None] * math.sin(angle) > 0).double() * 2 - 1
    torch.testing.assert_close(edge, torch.nn.functional.avg_pool2d(bright[None], fine)[0], atol=2e-3, rtol=0)
    crossing = (1 - edge).sum(1) / 2 - 0.5
    drawn = (side - 1) / 2 - (torch.arange(side) - (side - 1) / 2) * math.tan(angle)
    inside = (drawn > 1) & (drawn < side - 2)
    torch.testing.assert_close(crossing[inside], drawn[inside].double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("degrees", "contrast"), [(50.0, 0.5), (5.0, 0.0), (5.0, 1.5)])
def test_edges_beyond_45_degrees_or_out_of_range_are_refused(degrees: float, contrast: float) -> None:
    with pytest.raises(ValueError, match="contrast"):
        charts.slanted_edge(16, degrees, contrast)
