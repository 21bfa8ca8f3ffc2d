"""Which tokens a mask holds, and pictures put together."""

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


def test_composite_changes_the_masked_pixels_only() -> None:
    image, generated = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:4] = True
    out = composite(generated, image, mask)
    assert torch.all(out[:, :, 2:4] == 9)
    assert out.sum() == 2 * 3 * 2 * 8 * 9


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
