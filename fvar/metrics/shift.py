"""Shift consistency: whether a picture that moves by a pixel is reconstructed as the same picture, moved by a pixel.

What aliases cannot be consistent: Zhang (2019, "Making convolutional networks shift-invariant again") showed that every
step that decimates without a low-pass makes the result depend on where the grid happens to lie. Karras et al. (2021,
"Alias-free generative adversarial networks") measure it for generators as EQ-T, a PSNR over shifts and valid pixels.
This is EQ-T of a round trip R = decode(encode(.)), for shifts T by whole pixels, which need no interpolation:

    10 log10(2^2 / mean (R(T x) - T R(x))^2)   in dB, over images, shifts, channels and valid pixels

A blank reconstruction is perfectly consistent: the number means something beside the PSNR of R(x) against x only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fvar.metrics.edges import Reconstruct

Shift = tuple[int, int]  # px down, px right
MARGIN = 8  # a side's eighth is left out at each border, beyond the shift: pictures go round, and there is a seam
EXACT = 4e-10  # mean square below which two pictures are called equal: PSNR ends at 100 dB


class ShiftConsistency(NamedTuple):
    """PSNR in dB: over all shifts, by shift, and of the reconstruction itself (R(x) against x)."""

    psnr: float
    by_shift: dict[Shift, float]
    reconstruction: float


def shifts_within(period: int) -> list[Shift]:
    """Shifts by 1, 2, 4, ... px, up to half a period of the token grid: after a whole one the grid lies as before."""
    sizes = [2**power for power in range(max(1, int(math.log2(max(period, 2)))))]
    return [shift for size in sizes for shift in ((size, 0), (0, size))]


@torch.no_grad()
def shift_consistency(
    reconstruct: Reconstruct, images: Tensor, shifts: Sequence[Shift], batch_size: int = 16
) -> ShiftConsistency:
    """Measure images (N, 3, S, S) in [-1, 1]. Raises ValueError if shifts leave no pixel valid."""
    side = images.shape[-1]
    border = side // MARGIN + max(max(abs(down), abs(right)) for down, right in shifts)
    if 2 * border >= side:
        raise ValueError(f"shifts by up to {border - side // MARGIN} px leave nothing of images of {side} px")
    valid = slice(border, side - border)
    errors = torch.zeros(1 + len(shifts), dtype=torch.float64)
    for x in torch.split(images, batch_size):
        straight = reconstruct(x).float().cpu()
        errors[0] += (straight - x.cpu()).double().square().mean((1, 2, 3)).sum()
        for number, shift in enumerate(shifts, start=1):
            moved = reconstruct(x.roll(shift, (-2, -1))).float().cpu()
            difference = (moved - straight.roll(shift, (-2, -1)))[..., valid, valid]
            errors[number] += difference.double().square().mean((1, 2, 3)).sum()
    means = (errors / len(images)).tolist()
    by_shift = {shift: _psnr(mean) for shift, mean in zip(shifts, means[1:], strict=True)}
    return ShiftConsistency(_psnr(sum(means[1:]) / len(shifts)), by_shift, _psnr(means[0]))


def _psnr(mean_square: float) -> float:
    return 10 * math.log10(4 / max(mean_square, EXACT))
