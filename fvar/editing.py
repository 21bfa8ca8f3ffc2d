"""Inpainting, outpainting and class-conditional editing, by holding the tokens of what is known.

The image is coded by the tokenizer; at every scale the tokens whose cell is mostly known are held, the others are drawn
by the transformer, which sees the held ones as context from the next scale on. Inpainting masks a hole, outpainting the
surroundings; editing masks an object and names another class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fvar.config import DataConfig, Mask
from fvar.data import ImageSet, open_dataset
from fvar.data.images import Unreadable, decode, to_float, to_tensor
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.sampling import Known
from fvar.tokenizer.bundle import Tokenizer

MOSTLY = 0.5  # share of a token's cell that may be masked while the token is still held


def masks(side: int) -> dict[Mask, Tensor]:
    """The masks of a study, (S, S) bool, true where to generate, but for "none".

    "center" is the middle half of each axis, a quarter of the image (inpainting); "border" the rest (outpainting).
    """
    center = torch.zeros(side, side, dtype=torch.bool)
    center[side // 4 : side - side // 4, side // 4 : side - side // 4] = True
    return {"center": center, "border": ~center}


def originals(data: DataConfig, count: int, workers: int = 2) -> ImageSet:
    """The held-out images that a study completes: `count`, or all there are, of classes as equal as they allow."""
    held_out = open_dataset(replace(data, crop="center", crops=1), "heldout", workers)
    return held_out.balanced(count, data.split_seed)


def known_tokens(tokenizer: Tokenizer, image: Tensor, mask: Tensor) -> Known:
    """Tokens (1, n_k) of one image, and which of them to hold.

    Parameters
    ----------
    image
        (3, S, S) uint8. What lies under the mask has no influence: the mean colour of the rest replaces it.
    mask
        (S, S) bool, true where to generate.
    """
    mean = image[:, ~mask].float().mean(1).round().to(torch.uint8)
    indices = tokenizer.encode_images(to_float(torch.where(mask, mean[:, None, None], image))[None])
    held = [masked_share(mask, side).flatten()[None] <= MOSTLY for side in tokenizer.patch_nums]
    return Known(indices, [cells.to(tokenizer.device) for cells in held])


def masked_share(mask: Tensor, side: int) -> Tensor:
    """Share of every cell of a (side, side) token map that the (S, S) mask covers, in [0, 1]."""
    return F.adaptive_avg_pool2d(mask[None].float(), side)[0]


def composite(images: Tensor, image: Tensor, mask: Tensor, reach: int) -> Tensor:
    """Generated images under the mask, the original elsewhere, pixel for pixel.

    No tokenizer returns the known pixels exactly, so at the mask's edge the original would meet the decoder's idea of
    it. What the decoder misses, as a mean over the known pixels within `reach`, is therefore added on the generated
    side as well: wholly at the edge, then less and less, nothing from `reach` px on.

    Parameters
    ----------
    images
        (B, 3, S, S) uint8, generated while the tokens of `image` were held.
    image
        (3, S, S) uint8, or one of (B, 3, S, S) for each.
    mask
        (S, S) bool.
    reach
        In px: the side of a token's cell, since it is by tokens that the decoder errs.
    """
    image, mask = image.to(images.device), mask.to(images.device)
    known = (~mask)[None, None].float()
    missed = F.avg_pool2d((image.float() - images.float()) * known, 2 * reach + 1, 1, reach, count_include_pad=False)
    share = F.avg_pool2d(known, 2 * reach + 1, 1, reach, count_include_pad=False)  # 1/2 along a straight edge
    mended = images + missed / share.clamp_min(0.5)
    return torch.where(mask, mended.round().clamp(0, 255).to(torch.uint8), image)


def read_image(path: Path, side: int) -> Tensor:
    """A square RGB image as (3, side, side) uint8. Raises `UserError` if it is not an image or of another size."""
    return to_tensor(_open(path, side))


def read_mask(path: Path, side: int) -> Tensor:
    """A mask as (side, side) bool: true where it is white, the part to generate.

    Raises `UserError` if it is not an image, is of another size, or leaves nothing to generate or nothing known.
    """
    mask = to_tensor(_open(path, side)).float().mean(0) > 127.5
    if mask.all() or not mask.any():
        raise UserError(f"{path} must be white where to generate and black elsewhere, found only one of them")
    return mask


def _open(path: Path, side: int) -> Image.Image:
    try:
        image = decode(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (Unreadable, OSError) as error:
        raise UserError(f"{path} is not an image ({error})") from None
    if image.size != (side, side):
        raise UserError(
            f"{path} must be of the model's size: expected {side}x{side} px, found {image.width}x{image.height}"
        )
    return image


def write_png(path: Path, image: Tensor) -> None:
    """Write (3, H, W) uint8 atomically."""
    with atomic.replacing(path) as temporary:
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(temporary, format="png")


def tile(rows: Sequence[Sequence[Tensor]], gap: int = 2) -> Tensor:
    """Images (3, H, W) uint8 in rows, separated by `gap` white px: one (3, H', W') picture."""
    height, width = rows[0][0].shape[1:]
    columns = max(len(row) for row in rows)
    picture = torch.full((3, len(rows) * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            picture[:, top : top + height, left : left + width] = image
    return picture
