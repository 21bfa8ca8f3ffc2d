"""Value ranges, decoding, resizing, cropping."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fvar.data.images import DECODE_ERRORS, check_decodes, crop_at, decode, resize_shorter, to_float, to_uint8


def encoded(array: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def test_every_pixel_value_survives_the_way_to_floats_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    floats = to_float(values)
    assert floats[0] == -1
    assert floats[255] == 1
    assert torch.equal(to_uint8(floats), values)
    assert torch.equal(to_uint8(floats.to(torch.float64) + 0.003), values)  # 0.38 of a step: rounds back
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_transparency_becomes_white_and_grey_becomes_rgb() -> None:
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    assert np.array(decode(encoded(rgba))).min() == 255
    assert np.array(decode(encoded(np.full((4, 4), 9, np.uint8)))).shape == (4, 4, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("reader", [decode, check_decodes])
def test_truncated_files_do_not_decode(kind: str, reader: Callable[[bytes], object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    reader(data)
    with pytest.raises(DECODE_ERRORS):
        reader(data[: len(data) * 2 // 3])
    with pytest.raises(DECODE_ERRORS):
        reader(b"no image at all")


def test_resizing_keeps_the_aspect_ratio_and_removes_what_the_grid_cannot_hold() -> None:
    checkerboard = (np.indices((96, 192)).sum(0) % 2 * 255).astype(np.uint8)
    small = resize_shorter(decode(encoded(checkerboard)), 32)
    assert small.size == (64, 32)
    assert np.abs(np.array(small).astype(int)[4:-4, 4:-4] - 127).max() <= 2


def test_crops_reach_every_corner() -> None:
    pixels = torch.arange(3 * 6 * 8).reshape(3, 6, 8)
    assert torch.equal(crop_at(pixels, 4, (0.0, 0.0)), pixels[:, :4, :4])
    assert torch.equal(crop_at(pixels, 4, (0.999, 0.999)), pixels[:, 2:, 4:])
    assert torch.equal(crop_at(pixels, 4), pixels[:, 1:5, 2:6])
    assert torch.equal(crop_at(pixels, 4, mirror=True), pixels[:, 1:5, 2:6].flip(-1))
