"""Losses of a tokenizer: pixels, and the hinge game against a discriminator with its adaptive weight (VQGAN)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fvar.config import TokenizerLossConfig


def pixel_loss(made: Tensor, target: Tensor, cfg: TokenizerLossConfig) -> Tensor:
    """l1 * mean |d| + l2 * mean d^2, in float32."""
    difference = made.float() - target.float()
    return cfg.l1 * difference.abs().mean() + cfg.l2 * difference.square().mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half of mean max(0, 1 - real) + mean max(0, 1 + fake), over the logits."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    """- mean of the logits of what the generator made."""
    return -fake.float().mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """|gradient of the reconstruction loss| / |gradient of the adversarial loss| at the decoder's last layer.

    Makes both pull equally hard there, before the configured weight. At most 1e4; carries no gradient.
    """
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (played,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    weight: Tensor = wanted.norm() / (played.norm() + 1e-4)
    return weight.clamp(0, 1e4).detach()


def psnr(made: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, for values in [-1, 1]: (B, C, H, W) twice -> (B,)."""
    error = (made.float() - target.float()).square().mean((1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-10))
