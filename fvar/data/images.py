"""One image at a time: decoding, resizing, cropping, and the two value ranges.

Files hold uint8 RGB in 0..255; networks see float32 in [-1, 1].
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
RANDOM_CROP_SCALE = 1.125  # the shorter side before a random crop, relative to the crop (VAR's recipe)
# What Pillow raises on a truncated, corrupt, absurdly large or non-image file.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1], any shape."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 0..255, rounded to nearest; values outside are clamped. Inverts `to_float` exactly."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def decode(source: bytes | Path) -> Image.Image:
    """Decode a file completely as RGB; transparent pixels are composited on white.

    Raises one of `DECODE_ERRORS` on a truncated file or anything else that is not an image.
    """
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            canvas = Image.new("RGBA", rgba.size, "white")
            return Image.alpha_composite(canvas, rgba).convert("RGB")
        return image.convert("RGB")


def check_decodes(source: bytes | Path) -> None:
    """Read every byte of an image but, for JPEG, only an eighth of its resolution: cheap enough for a million files.

    Raises one of `DECODE_ERRORS`.
    """
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()


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
