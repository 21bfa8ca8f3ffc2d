"""Structural similarity of two images (Wang et al. 2004)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # px, of the Gaussian window (Wang et al. 2004)
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # of values in 0 to 255


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of images (B, C, H, W) with values in 0 to 255, (B,); 1 where they are equal.

    Wang et al. 2004, Eq. 13: means, variances and covariance under a Gaussian window of 11 px; the mean over all places
    where the window fits, and over channels. Raises ValueError for images smaller than the window.
    """
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} px, got {tuple(a.shape[-2:])}")
    a, b = a.double(), b.double()  # the variances are small differences of large squares
    mean_a, mean_b = _windowed(a), _windowed(b)
    var_a = _windowed(a**2) - mean_a**2
    var_b = _windowed(b**2) - mean_b**2
    covariance = _windowed(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (var_a + var_b + C2)
    return (luminance * structure).mean((1, 2, 3))


def _windowed(x: Tensor) -> Tensor:
    """Mean of (B, C, H, W) under the window around every place where it fits, (B, C, H - 10, W - 10)."""
    position = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-(position**2) / (2 * SIGMA**2))
    window = window / window.sum()
    planes = x.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, window[None, None, :, None]), window[None, None, None, :])
    return planes.view(*x.shape[:2], *planes.shape[-2:])
