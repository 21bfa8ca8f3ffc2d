"""What each of the two tokenizers sees: the structure one focused views, the alias one their scaled signed residuals.

A_k = D_k - L_k is signed, small, and differs in strength from scale to scale; the sharpest one is zero where
rho_K = 0. It is divided by its own root mean square per scale, measured on training images, and never clamped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fvar.config import Signal
from fvar.focus.pyramid import FocusPyramid, FocusViews

SILENT = 1e-4  # root mean square (images span 2) below which a scale counts as empty and is left unscaled


class SignalScaler(nn.Module):
    """Per-scale amplitude of a signal: views are divided by it before coding and multiplied by it after."""

    std: Tensor

    def __init__(self, scales: int) -> None:
        super().__init__()
        self.register_buffer("std", torch.ones(scales))
        self.register_buffer("audible", torch.ones(scales, dtype=torch.bool))  # scales that carry any signal
        self._heard: list[int] | None = None  # their numbers, once they were asked for: a GPU is waited for only then

    def forward(self, views: list[Tensor]) -> list[Tensor]:
        """Scaled views, of about unit root mean square."""
        return [view / std for view, std in zip(views, self.std, strict=True)]

    def restore(self, k: int, view: Tensor) -> Tensor:
        """A scaled view of scale k in image units again."""
        return view * self.std[k]

    @torch.no_grad()
    def measure(self, batches: Iterable[list[Tensor]]) -> None:
        """Set the amplitudes to the root mean square of all values of each scale; empty scales keep 1."""
        power = torch.zeros(len(self.std), dtype=torch.float64)
        count = 0
        for views in batches:
            power += torch.stack([view.double().square().mean().cpu() for view in views]) * len(views[0])
            count += len(views[0])
        std = (power / count).sqrt()
        audible = std > SILENT
        self.std.copy_(torch.where(audible, std, 1.0))
        self.get_buffer("audible").copy_(audible)
        self._heard = None

    @property
    def audible_scales(self) -> list[int]:
        """Numbers of the scales that carry a signal."""
        if self._heard is None:
            self._heard = [k for k, heard in enumerate(self.get_buffer("audible").tolist()) if heard]
        return self._heard

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._heard = None


def select(views: FocusViews, signal: Signal) -> list[Tensor]:
    """L_k or A_k of all scales."""
    return views.focused if signal == "structure" else views.residual


def silent_scales(pyramid: FocusPyramid, signal: Signal) -> frozenset[int]:
    """Scales (from 0) that carry nothing: of the residual those without blur."""
    return pyramid.silent if signal == "alias" else frozenset()


def signal_views(
    pyramid: FocusPyramid,
    scaler: SignalScaler,
    signal: Signal,
    x: Tensor,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """What is coded of images x (B, 3, S, S) in [-1, 1]; with noise in the pyramid's training mode."""
    return scaler(select(pyramid(x, generator), signal))  # type: ignore[no-any-return]
