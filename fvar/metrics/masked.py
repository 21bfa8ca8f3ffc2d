"""How well a hole in an image was filled: completed images against their originals, under the mask and along its edge.

A completion need not be the original to be good, so these do not stand alone: PSNR and LPIPS ask whether it is, the
step at the seam whether it fits what surrounds it, FID and KID (`fvar.metrics.compare`) whether the whole looks real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fvar.data.images import to_float
from fvar.errors import UserError
from fvar.metrics.compare import Score
from fvar.tokenizer.perceptual import MIN_SIDE, PerceptualDistance

LABELS = {"masked_psnr": "PSNR in the mask", "masked_lpips": "LPIPS", "seam": "Step at the seam"}
BATCH = 32
CLOSEST = 1 / 12  # mean squared error of rounding to 8 bits, below which no difference counts: PSNR ends at 58.9 dB
Images = Callable[[range], Tensor]  # of these numbers, (B, 3, S, S) uint8


def masked_scores(
    made: Images, originals: Images, count: int, mask: Tensor, device: torch.device | str = "cpu"
) -> dict[str, Score]:
    """Compare `count` completed images with the originals of the same numbers.

    Parameters
    ----------
    mask
        (S, S) bool, true where the images were completed.

    Returns
    -------
    "masked_psnr"
        Mean over images of 10 log10(255^2 / MSE) over the masked pixels, in dB.
    "masked_lpips"
        Mean perceptual distance of the whole images (outside the mask they are equal); a blank below 32 px or without
        the network's weights.
    "seam"
        Mean absolute difference of neighbours on two sides of the mask's edge, over that in the originals: 1 is as
        real, more is a visible step, less is blur.
    """
    psnr, steps, real_steps, distances = ([] for _ in range(4))
    network, reason = _perceptual(mask.shape[-1], device)
    for numbers in _batches(count):
        a, b = (images(numbers) for images in (made, originals))
        psnr += _psnr(a, b, mask).tolist()
        steps += _steps(a, mask).tolist()
        real_steps += _steps(b, mask).tolist()
        if network is not None:
            with torch.no_grad():
                distances += network(to_float(a).to(device), to_float(b).to(device)).tolist()
    real = sum(real_steps)
    found = {
        "masked_psnr": (sum(psnr) / count, ""),
        "masked_lpips": (sum(distances) / count if network is not None else None, reason),
        "seam": (sum(steps) / real if real else None, "" if real else "the originals are flat along the mask's edge"),
    }
    return {key: Score(f"{LABELS[key]}@{count}", value, why, count, count, None) for key, (value, why) in found.items()}


def _batches(count: int) -> Iterator[range]:
    for first in range(0, count, BATCH):
        yield range(first, min(first + BATCH, count))


def _psnr(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    error = (a.double() - b.double())[..., mask].square().mean((1, 2))  # (B,)
    return 10 * torch.log10(255**2 / error.clamp(min=CLOSEST))


def _steps(images: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference across the mask's edge, (B,), in units of 8 bits."""
    x = images.double()
    across = mask[:, 1:] != mask[:, :-1]
    along = mask[1:] != mask[:-1]
    found = [(x[..., 1:] - x[..., :-1])[..., across], (x[..., 1:, :] - x[..., :-1, :])[..., along]]
    return torch.cat(found, -1).abs().mean((1, 2))


def _perceptual(side: int, device: torch.device | str) -> tuple[PerceptualDistance | None, str]:
    """The network, or why there is none."""
    if side < MIN_SIDE:
        return None, f"LPIPS needs images of at least {MIN_SIDE} px"
    try:
        return PerceptualDistance().to(device), ""
    except UserError as error:
        return None, str(error)
