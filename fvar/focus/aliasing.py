"""How much a view aliases, and what it keeps, for any way of making it.

A view is linear in its image. An image is split into what the view can hold and what lies beyond the view's Nyquist
frequency (`spectrum.split_band`), and the pyramid's own blur and sampler are applied to both parts: what comes out of
the second part is alias, by any sampler and at any ratio. For decimation by an integer this is exactly
`spectrum.aliasing_energy`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fvar.config import Digital, Kernel
from fvar.focus import spectrum
from fvar.focus.kernels import KERNELS
from fvar.focus.pyramid import FocusPyramid

HEADROOM = 8.0  # both parts of an image in [-1, 1], without its mean, stay within [-8, 8]: the pyramid takes [-1, 1]


class Recipe(NamedTuple):
    """A way of making a view: blur, then sampler."""

    kernel: Kernel
    digital: Digital


SAMPLERS: dict[str, Recipe] = {  # without blur
    "decimate": Recipe("none", "decimate"),
    "area": Recipe("none", "area"),  # VAR's own downsampling
    "bicubic": Recipe("none", "bicubic"),
}
# A kernel that is also the name of a sampler is measured as that sampler, from which it differs in phase alone.
RECIPES: dict[str, Recipe] = {k: Recipe(k, "decimate") for k in KERNELS if k != "none"} | SAMPLERS


class ViewQuality(NamedTuple):
    """Per image, (N,)."""

    aliasing: Tensor  # share of the view's energy that folded in from beyond its Nyquist frequency
    kept: Tensor  # energy of what the view can hold, over that in the plainly decimated view; 1: nothing is lost


def tapered(x: Tensor) -> Tensor:
    """Images (N, C, S, S) without their mean and faded out to the borders, so that only their content is measured."""
    window = spectrum.hann(x.shape[-2], x.shape[-1]).to(x)
    return (x - x.mean((-2, -1), keepdim=True)) * window


def view_quality(x: Tensor, side: int, rho: float, recipe: Recipe) -> ViewQuality:
    """Measures the views of that side of tapered images x (N, C, S, S), blurred by rho px (unless the recipe is none).

    Both numbers exclude the view's mean.
    """
    below, beyond = spectrum.split_band(x, x.shape[-1] / side)
    pyramid = FocusPyramid((side, x.shape[-1]), 1, rho, kernel=recipe.kernel, digital=recipe.digital).eval()
    plain = FocusPyramid((side, x.shape[-1]), 1, 0.0).eval()
    held, alias = (pyramid(part / HEADROOM).focused[0] for part in (below, beyond))
    reference = plain(below / HEADROOM).focused[0]
    return ViewQuality(_ratio(alias, held + alias), _ratio(held, reference))


def folded_share(x: Tensor, side: int, rho: float, recipe: Recipe) -> Tensor:
    """Which share of the alias residual's energy is alias, (N,) in [0, 1], for tapered images x (N, C, S, S).

    A_k = D_k - L_k holds what decimation folds in from beyond the view's Nyquist frequency and the blur removes, and
    what the blur takes from below it: detail that was never aliased. Their energies are compared, each by itself; NaN
    where both are 0.
    """
    pyramid = FocusPyramid((side, x.shape[-1]), 1, rho, kernel=recipe.kernel, digital=recipe.digital).eval()
    parts = spectrum.split_band(x, x.shape[-1] / side)
    detail, folded = (pyramid(part / HEADROOM).residual[0].square().sum((1, 2, 3)) for part in parts)
    share: Tensor = folded / (folded + detail)
    return share


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    energy = [(view - view.mean((-2, -1), keepdim=True)).square().sum((1, 2, 3)) for view in (part, whole)]
    return energy[0] / energy[1].clamp(min=torch.finfo(torch.float32).tiny)
