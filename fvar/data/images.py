"""One image at a time: decoding, resizing, cropping, and the two value ranges.

Files hold uint8 RGB in 0..255; networks see float32 in [-1, 1].
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from PIL import Image, ImageCms, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

T = TypeVar("T")

EXTENSIONS = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
RANDOM_CROP_SCALE = 1.125  # the shorter side before a random crop, relative to the crop (VAR's recipe)


class Unreadable(Exception):
    """A file that cannot be read as an image, and why. A disk or a permission that fails is an OSError instead."""


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1], any shape."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 0..255, rounded to nearest; values outside are clamped. Inverts `to_float` exactly."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def decode(source: bytes | Path) -> Image.Image:
    """Decode a file completely as RGB (see `as_rgb`).

    Raises `Unreadable` on a truncated file, on anything else that is not an image, and where samples have no range;
    OSError where the system cannot give the file's bytes.
    """
    return _opened(source, as_rgb)


def check_decodes(source: bytes | Path) -> None:
    """Read every byte of an image but, for JPEG, only an eighth of its resolution: cheap enough for a million files.

    Raises as `decode` does.
    """

    def check(image: Image.Image) -> None:
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        if image.mode in WIDE_MODES:
            white_of(image)

    _opened(source, check)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in px, from the header alone. Raises as `decode` does."""
    with open(path, "rb") as file:
        return _opened(file, lambda image: image.size)


def _opened(source: bytes | Path | IO[bytes], use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of the image. The bytes are fetched first, so that whatever fails later is the image's fault."""
    if isinstance(source, Path):
        source = source.read_bytes()
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return use(image)
    except (MemoryError, Unreadable):
        raise
    except UnidentifiedImageError as error:  # whose own message names an object in memory
        raise Unreadable("no image format that Pillow reads") from error
    except Exception as error:  # a decoder may raise anything: RuntimeError, NotImplementedError, struct.error, ...
        raise Unreadable(" ".join(str(error).split())[:120] or type(error).__name__) from error


# ----------------------------------------------------------------------------------------------------------- 8-bit RGB

WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of more than 8 bits, all of one channel
UNSIGNED = 1  # TIFF's SampleFormat


def as_rgb(image: Image.Image) -> Image.Image:
    """Any image as 8-bit RGB: integers scaled by their full range, transparent pixels composited on white.

    16 bits per sample become round(value / 257). Of 16-bit colour Pillow itself keeps the high byte. Raises
    `Unreadable` for samples whose black and white nobody defines: floats and signed integers.
    """
    image.load()
    if image.mode in WIDE_MODES:
        return _narrowed(image)
    if image.mode == "LAB":  # Pillow converts it by colour profiles only
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None
        return converted
    if image.has_transparency_data:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))  # from premultiplied
        rgba = straight.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def white_of(image: Image.Image) -> int:
    """The largest value that a sample of a mode in `WIDE_MODES` can have in its file; black is 0."""
    if image.mode == "F":
        raise Unreadable("floating-point samples have no defined black and white")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if tags.get(TiffImagePlugin.SAMPLEFORMAT, (UNSIGNED,))[0] != UNSIGNED:
            raise Unreadable("signed samples have no defined black and white")
        return int(2 ** tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]) - 1
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # which Pillow scales to 16 bits
        raise Unreadable(f"32-bit samples of {image.format} have no defined black and white")
    return 0xFFFF


def _narrowed(image: Image.Image) -> Image.Image:
    """A loaded image of one of `WIDE_MODES` as RGB."""
    white = white_of(image)
    values = np.asarray(image)
    if values.dtype.itemsize == 4:  # 32 unsigned bits lie in signed ones
        values = values.astype(np.int32).view(np.uint32)
    grey = np.rint(values.astype(np.float64) * (255 / white)).clip(0, 255).astype(np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
            grey = 255 - grey
    elif isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


# ------------------------------------------------------------------------------------------------------------ geometry


def resize_shorter(image: Image.Image, side: int) -> Image.Image:
    """Lanczos-resize so that the shorter side is `side` px; the aspect ratio is kept.

    Pillow widens the filter when it shrinks, so this does not alias. It works on the stored (gamma-encoded) values, as
    the tokenizers that are compared here were trained.
    """
    width, height = image.size
    if min(width, height) == side:
        return image
    scale = side / min(width, height)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def resized_side(image_size: int, crop: str) -> int:
    """The shorter side in px from which an `image_size` crop is taken."""
    return round(image_size * RANDOM_CROP_SCALE) if crop == "random" else image_size


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def crop_at(pixels: Tensor, side: int, place: tuple[float, float] = (0.5, 0.5), mirror: bool = False) -> Tensor:
    """Cut a square from (3, H, W).

    `place` in [0, 1)^2 runs over all positions, top to bottom and left to right; 0.5 is the centre.
    """
    height, width = pixels.shape[-2:]
    top = int(place[0] * (height - side + 1))
    left = int(place[1] * (width - side + 1))
    window = pixels[..., top : top + side, left : left + side]
    return window.flip(-1) if mirror else window
