"""Which tokens a mask holds, and pictures put together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fvar.editing import composite, masked_share, tile


@settings(max_examples=40, deadline=None)
@given(side=st.sampled_from([1, 2, 3, 4, 5, 8, 16]), seed=st.integers(0, 1000))
def test_the_masked_share_of_a_map_averages_to_the_mask(side: int, seed: int) -> None:
    mask = torch.rand(48, 48, generator=torch.Generator().manual_seed(seed)) < 0.4
    share = masked_share(mask, side)
    assert share.shape == (side, side)
    assert share.min() >= 0
    assert share.max() <= 1
    if 48 % side == 0:
        torch.testing.assert_close(share.mean(), mask.float().mean())


def test_a_cell_wholly_inside_or_outside_the_mask_is_1_or_0() -> None:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:, 8:] = True
    assert masked_share(mask, 4).tolist() == [[0, 0, 1, 1]] * 4
    assert masked_share(mask, 1).item() == 0.5


@pytest.mark.parametrize("side", [16, 24, 27])
def test_composite_keeps_every_known_pixel_and_what_a_faithful_decoder_generates(side: int) -> None:
    image, generated = torch.randint(0, 256, (3, side, side)), torch.randint(0, 256, (2, 3, side, side))
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[3:9, 2:11] = True
    out = composite(generated.byte(), image.byte(), mask, reach=8)
    assert torch.equal(out[:, :, ~mask], image.byte()[:, ~mask].expand(2, -1, -1))
    faithful = torch.where(mask, generated, image).byte()
    assert torch.equal(composite(faithful, image.byte(), mask, reach=8), faithful)


def test_composite_carries_what_the_decoder_misses_over_the_edge_and_no_further_than_its_reach() -> None:
    """A decoder 40 levels too dark: no step at the edge of the mask, and untouched pixels beyond the reach."""
    image, generated = torch.full((3, 64, 64), 140).byte(), torch.full((1, 3, 64, 64), 100).byte()
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:, 24:] = True
    rows = composite(generated, image, mask, reach=8)[0, 0].int()
    row = rows[30]
    assert torch.equal(rows, row.expand(64, -1)), "up to the picture's border"
    steps = row.diff()
    assert abs(steps[23]) <= 4, "known and generated pixels meet without a seam"
    assert torch.all((steps <= 0) & (steps >= -6)), "it fades evenly"
    assert torch.all(row[24 + 8 :] == 100)


@pytest.mark.parametrize("top", [0, 30, 62])
def test_composite_mends_a_pinhole_by_all_that_is_missed_around_it(top: int) -> None:
    image, generated = torch.full((3, 64, 64), 140).byte(), torch.full((1, 3, 64, 64), 100).byte()
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[top : top + 2, 40:42] = True
    assert torch.equal(composite(generated, image, mask, reach=8)[0], image)


def test_tiles_stand_where_rows_and_columns_say() -> None:
    images = [torch.full((3, 2, 4), value, dtype=torch.uint8) for value in (1, 2, 3)]
    picture = tile([images[:2], images[2:]], gap=1)
    assert picture.shape == (3, 5, 9)
    assert picture[0].tolist() == [
        [1, 1, 1, 1, 255, 2, 2, 2, 2],
        [1, 1, 1, 1, 255, 2, 2, 2, 2],
        [255] * 9,
        [3, 3, 3, 3, 255, 255, 255, 255, 255],
        [3, 3, 3, 3, 255, 255, 255, 255, 255],
    ]
