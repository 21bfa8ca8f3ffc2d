"""A picture of what a tokenizer keeps: originals, what each prefix of scales decodes to, and the reconstruction."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from fvar.data import ImageSet, to_float, to_uint8
from fvar.tokenizer.bundle import Tokenizer
from fvar.tokenizer.quantiser import bicubic

GAP = 2  # px between pictures
ALIAS_GAIN = 3.0  # residuals are shown around grey, this many amplitudes reaching black or white


def reconstruction_sheet(tokenizer: Tokenizer, images: ImageSet, columns: int = 12) -> Image.Image:
    """Rows of pictures, one column per image: structure: the original, then each prefix decoded, coarse to final.

    Alias: for every scale with a signal (all, if none has), the scaled residual and below it what its tokens decode
    to, enlarged.
    """
    count = min(columns, len(images))
    chosen = [i * len(images) // count for i in range(count)]  # spread over the classes
    x = to_float(images.batch(chosen))
    indices = tokenizer.encode_images(x)
    made = tokenizer.decode_prefixes(indices)
    if tokenizer.config.signal == "structure":
        return sheet([x, *made])
    side, scaler, rows = images.image_size, tokenizer.scaler, []
    views = tokenizer.views(x)
    for k in scaler.audible_scales or range(len(views)):  # none has a signal at rho_max = 0: show that
        rows += [views[k], made[k] / scaler.std[k]]
    return sheet([bicubic(row / ALIAS_GAIN, side) for row in rows])


def sheet(rows: list[Tensor]) -> Image.Image:
    """Rows of images, each (N, 3, S, S) in [-1, 1], on white."""
    grid = torch.stack([to_uint8(row.float().cpu().clamp(-1, 1)) for row in rows])  # (R, N, 3, S, S)
    grid = torch.nn.functional.pad(grid, (GAP, GAP, GAP, GAP), value=255)
    rows_, columns, _, height, width = grid.shape
    flat = grid.permute(0, 3, 1, 4, 2).reshape(rows_ * height, columns * width, 3)
    return Image.fromarray(flat.numpy(), "RGB")
