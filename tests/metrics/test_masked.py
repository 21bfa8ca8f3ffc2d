"""Scores of completed images, against images whose errors and steps are known."""

from __future__ import annotations

import pytest
import torch

from fvar.metrics.masked import Images, masked_scores

SIDE = 32


def images(pixels: torch.Tensor) -> Images:
    return lambda numbers: pixels[numbers.start : numbers.stop]


def noise(count: int = 40) -> torch.Tensor:
    return torch.randint(30, 200, (count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def mask() -> torch.Tensor:
    found = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    found[8:24, 8:24] = True
    return found


def test_psnr_is_that_of_the_masked_pixels_alone(mask: torch.Tensor) -> None:
    real = noise()
    made = real + 10 * mask.to(torch.uint8)  # an error of 10 wherever the mask is
    found = masked_scores(images(made), images(real), len(real), mask)["masked_psnr"]
    assert found.value == pytest.approx(10 * torch.log10(torch.tensor(255**2 / 100)).item(), abs=1e-4)
    elsewhere = real + 10 * (~mask).to(torch.uint8)
    same = masked_scores(images(elsewhere), images(real), len(real), mask)["masked_psnr"]
    assert same.value == pytest.approx(58.92, abs=0.01)  # as equal as 8 bits can be


def test_the_originals_have_a_seam_of_one_and_a_patch_pasted_in_has_more(mask: torch.Tensor) -> None:
    ramp = torch.arange(SIDE).expand(4, 3, SIDE, SIDE).to(torch.uint8) * 4  # steps of 4 to the right, 0 downwards
    own = masked_scores(images(ramp), images(ramp), 4, mask)
    assert own["seam"].value == pytest.approx(1)
    assert own["masked_lpips"].value == pytest.approx(0, abs=1e-6)
    brighter = ramp + 20 * mask.to(torch.uint8)
    # Over the edge: left |4 + 20|, right |4 - 20|, top and bottom 20; in the original 4, 4 and 0.
    assert masked_scores(images(brighter), images(ramp), 4, mask)["seam"].value == pytest.approx((24 + 16 + 40) / 8)


def test_flat_originals_have_no_seam_to_compare_with(mask: torch.Tensor) -> None:
    flat = torch.full((2, 3, SIDE, SIDE), 7, dtype=torch.uint8)
    found = masked_scores(images(flat), images(flat), 2, mask)["seam"]
    assert found.value is None
    assert found.reason == "the originals are flat along the mask's edge"


def test_small_images_leave_the_perceptual_distance_blank() -> None:
    small = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    hole = torch.eye(16, dtype=torch.bool)
    found = masked_scores(images(small), images(small), 2, hole)["masked_lpips"]
    assert (found.value, found.reason) == (None, "LPIPS needs images of at least 32 px")


def test_what_is_further_from_the_original_is_perceptually_further(mask: torch.Tensor) -> None:
    real = noise(4)
    near = torch.where(mask, (real.int() + 8).to(torch.uint8), real)
    far = torch.where(mask, 255 - real, real)
    distances = [masked_scores(images(made), images(real), 4, mask)["masked_lpips"].value for made in (near, far)]
    assert distances[0] is not None
    assert distances[1] is not None
    assert 0 < distances[0] < distances[1]
