"""The kernels of the blur, each once: its PSF, what sets its width, and how figures call it.

A kernel is a name of `fvar.config.Kernel` and an entry here. Pyramids, the recipes whose aliasing is measured and the
figures take it from here; `fvar.build` refuses a name that has no entry. Importing this module does not import torch.

A focus state has a radius rho and is sampled every s-th pixel. Defocus depends on rho, a digital low-pass on s, and a
camera (defocus, then sensor pixels as wide as the view's) on both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fvar.config import Kernel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class State:
    """What a kernel's width can depend on, in px of the image: a focus state and the view that is taken of it."""

    rho: float  # blur radius, at least 0
    s: float = 1.0  # px of the image per px of the view, at least 1
    side: int = 1  # of the image


@dataclass(frozen=True)
class Blur:
    """A kernel: PSF (n, n), n odd, of a focus state, summing to 1 and even in both axes; the delta for (0, 1)."""

    label: str  # in figures
    psf: Callable[[State], Tensor]
    radius: bool = True  # whether it depends on rho
    view: bool = False  # whether it depends on s


def _none(state: State) -> Tensor:
    from fvar.focus import optics

    return optics.disk_psf(0.0)


def _gaussian(state: State) -> Tensor:
    from fvar.focus import optics

    return optics.gaussian_psf(state.rho / 2)


def _disk(state: State) -> Tensor:
    from fvar.focus import optics

    return optics.disk_psf(state.rho)


def _area(state: State) -> Tensor:
    from fvar.focus import lowpass

    return lowpass.area_psf(state.s)


def _bicubic(state: State) -> Tensor:
    from fvar.focus import lowpass

    return lowpass.bicubic_psf(state.s)


def _ideal(state: State) -> Tensor:
    from fvar.focus import lowpass

    return lowpass.ideal_psf(state.s, state.side)


def _disk_pixel(state: State) -> Tensor:
    from fvar.focus import lowpass, optics

    return optics.convolved(optics.disk_psf(state.rho), lowpass.area_psf(state.s))


KERNELS: dict[Kernel, Blur] = {
    "none": Blur("no blur", _none, radius=False),
    "gaussian": Blur("Gaussian, σ = ρ/2", _gaussian),  # of the disk's variance
    "disk": Blur("disk of radius ρ", _disk),
    "area": Blur("area, s px", _area, radius=False, view=True),
    "bicubic": Blur("bicubic, s px", _bicubic, radius=False, view=True),
    "ideal": Blur("ideal low-pass", _ideal, radius=False, view=True),
    "disk_pixel": Blur("disk of radius ρ * pixel of s px", _disk_pixel, view=True),
}
BLURRING: tuple[Kernel, ...] = tuple(name for name, kernel in KERNELS.items() if kernel.radius)
"""Kernels whose blur grows with rho."""
