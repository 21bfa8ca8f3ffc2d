"""Value ranges, decoding, resizing, cropping."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fvar.data.images import Unreadable, as_rgb, check_decodes, crop_at, decode, resize_shorter, to_float, to_uint8


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
    with pytest.raises(Unreadable):
        reader(data[: len(data) * 2 // 3])
    with pytest.raises(Unreadable):
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


# ------------------------------------------------------------------------------------------------------ bits per sample


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(bits: int, sample_format: int, photometric: int, data: bytes) -> bytes:
    """A 4 x 4 px grey TIFF in little-endian order; sample formats: 1 unsigned, 2 signed, 3 float."""
    entries = ((256, 4), (257, 4), (258, bits), (259, 1), (262, photometric), (273, 134), (277, 1), (278, 4))
    tags = [*entries, (279, len(data)), (339, sample_format)]
    directory = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + struct.pack("<I", 0) + data


def png_of_16_bits(colour_type: int, *samples: int) -> bytes:
    """A 4 x 4 px PNG in which every pixel has these samples; colour types: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + struct.pack(f">{len(samples)}H", *samples) * 4) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


GREY_16 = Image.fromarray(np.full((4, 4), 30000, np.uint16))
DEEP = {
    "PNG": (png_of_16_bits(0, 30000), 117),
    "PNG with a transparent value": (saved(GREY_16, "PNG", transparency=30000), 255),
    "PNG in colour": (png_of_16_bits(2, 30000, 30000, 30000), 117),
    "PNG half transparent": (png_of_16_bits(4, 30000, 0x8000), 186),
    "PGM": (b"P5\n4 4\n65535\n" + struct.pack(">H", 30000) * 16, 117),
    "PGM up to 2000": (b"P5\n4 4\n2000\n" + struct.pack(">H", 1000) * 16, 128),
    "JPEG 2000": (saved(GREY_16, "JPEG2000"), 117),
    "TIFF": (tiff(16, 1, 1, struct.pack("<H", 30000) * 16), 117),
    "TIFF, white is zero": (tiff(16, 1, 0, struct.pack("<H", 30000) * 16), 255 - 117),
    "TIFF of 12 bits": (tiff(12, 1, 1, bytes([0x80, 0x08, 0x00]) * 8), 128),
    "TIFF of 32 bits": (tiff(32, 1, 1, struct.pack("<I", 3_000_000_000) * 16), 178),
}


@pytest.mark.parametrize("case", DEEP)
def test_integers_of_more_than_8_bits_are_scaled_by_their_full_range(case: str) -> None:
    data, grey = DEEP[case]
    check_decodes(data)
    assert np.unique(np.array(decode(data))).tolist() == [grey]


def test_every_16_bit_value_becomes_the_nearest_of_8_bits() -> None:
    values = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    found = np.array(decode(saved(Image.fromarray(values), "PNG")))[..., 0]
    assert np.array_equal(found, np.round(values / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point samples"),
        (saved(Image.new("F", (4, 4), 0.5), "PPM"), "floating-point samples"),
        (tiff(16, 2, 1, bytes(32)), "signed samples"),
    ],
)
@pytest.mark.parametrize("reader", [decode, check_decodes])
def test_samples_without_a_range_are_unreadable(data: bytes, reason: str, reader: Callable[[bytes], object]) -> None:
    with pytest.raises(Unreadable, match=reason):
        reader(data)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"]
)
def test_every_mode_of_8_bits_becomes_rgb(mode: str) -> None:
    assert as_rgb(Image.new(mode, (4, 4))).mode == "RGB"
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        assert np.array(as_rgb(Image.new(mode, (4, 4)))).min() == 255


def test_lightness_of_a_lab_image_is_grey() -> None:
    grey = np.array(decode(saved(Image.new("LAB", (4, 4), (128, 128, 128)), "TIFF")))
    assert np.unique(grey).tolist() == [119]  # CIE: L* = 50 is sRGB 119


@pytest.mark.parametrize("data", [b"DDS " + struct.pack("<I", 124) + bytes(120), b"BLP2" + bytes(200), b"", b"GIF89a"])
def test_whatever_a_decoder_raises_the_file_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, struct.error, SyntaxError, KeyError, OSError])
def test_any_error_of_a_decoder_counts_as_unreadable(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error("decoder gave up")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(Unreadable, match="decoder gave up"):
        decode(b"anything")


def test_a_failing_disk_is_not_an_unreadable_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "missing.png")
