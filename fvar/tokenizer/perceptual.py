"""Perceptual distance of image pairs: the shift-tolerant LPIPS of Ghildyal and Liu (ECCV 2022).

VGG-16 features with anti-aliased pooling, unit-normalised per pixel, squared differences weighted per channel. The
trained weights come with the package `stlpips-pytorch`; only they are used, since importing the package itself drags in
interactive tools it does not declare.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvar.errors import UserError

MIN_SIDE = 32  # px; the deepest features of a smaller image are all border
STAGES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))


class PerceptualDistance(nn.Module):
    """(B, 3, S, S) twice, in [-1, 1], S >= 32 -> (B,) distances >= 0. Frozen; gradients flow to the images.

    Raises `UserError` if the package with the weights is not installed, ValueError for smaller images.
    """

    def __init__(self) -> None:
        super().__init__()
        weights = torch.load(_weights_file(), map_location="cpu", weights_only=True)
        self.register_buffer("shift", weights["scaling_layer.shift"])
        self.register_buffer("scale", weights["scaling_layer.scale"])
        self.register_buffer("binomial", torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16)
        convolutions = iter(
            (weights[key], weights[key.replace("weight", "bias")])
            for key in weights  # in the network's order
            if key.startswith("net.") and key.endswith("weight")
        )
        self.stages = nn.ModuleList()
        for channels in STAGES:
            stage: list[nn.Module] = []
            for a, b in pairwise(channels):
                layer = nn.Conv2d(a, b, 3, padding=1)
                weight, bias = next(convolutions)
                layer.load_state_dict({"weight": weight, "bias": bias})
                stage += [layer, nn.ReLU()]
            self.stages.append(nn.Sequential(*stage))
        for i in range(len(STAGES)):
            self.register_buffer(f"importance_{i}", weights[f"lin{i}.model.1.weight"])  # (1, C, 1, 1)
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if a.shape[-1] < MIN_SIDE or a.shape[-2] < MIN_SIDE:
            raise ValueError(f"perceptual distance needs images of at least {MIN_SIDE} px, got {tuple(a.shape)}")
        h = (torch.cat([a, b]) - self.get_buffer("shift")) / self.get_buffer("scale")
        total = a.new_zeros(a.shape[0], dtype=torch.float32)
        for i, stage in enumerate(self.stages):
            h = self._pool(h) if i else h
            h = stage(h)
            unit_a, unit_b = F.normalize(h.float(), eps=1e-10).chunk(2)
            difference = (unit_a - unit_b).square()
            total = total + (difference * self.get_buffer(f"importance_{i}")).sum(1).mean((1, 2))
        return total

    def _pool(self, h: Tensor) -> Tensor:
        """Dense 2x2 maximum, then binomial blur, then every second pixel (Zhang 2019), with wide reflecting borders."""
        h = F.pad(F.max_pool2d(h, 2, stride=1), (2, 2, 2, 2), mode="reflect")
        blur = self.get_buffer("binomial").to(h.dtype).expand(h.shape[1], 1, 3, 3)
        return F.conv2d(h, blur, stride=2, groups=h.shape[1])


def _weights_file() -> Path:
    package = importlib.util.find_spec("stlpips_pytorch")
    if package is None or package.origin is None:
        raise UserError(
            "the perceptual loss needs its weights: pip install stlpips-pytorch, or set loss.perceptual to 0"
        )
    return Path(package.origin).parent / "weights" / "vST0.0" / "vgg_shift_tolerant.pth"
