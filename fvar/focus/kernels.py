"""The kernels of the blur, each once: its PSF and how figures call it.

A kernel is a name of `fvar.config.Kernel` and an entry here. Pyramids, the recipes whose aliasing is measured and the
figures take it from here; `fvar.build` refuses a name that has no entry. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fvar.config import Kernel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Blur:
    """A kernel: PSF (n, n), n odd, of a blur by rho px, summing to 1, even in both axes; the delta for rho = 0."""

    label: str  # in figures
    psf: Callable[[float], Tensor]
    blurs: bool = True  # whether it depends on rho at all


def _none(rho: float) -> Tensor:
    from fvar.focus import optics

    return optics.disk_psf(0.0)


def _gaussian(rho: float) -> Tensor:
    from fvar.focus import optics

    return optics.gaussian_psf(rho / 2)


def _disk(rho: float) -> Tensor:
    from fvar.focus import optics

    return optics.disk_psf(rho)


KERNELS: dict[Kernel, Blur] = {
    "none": Blur("no blur", _none, blurs=False),
    "gaussian": Blur("Gaussian, σ = ρ/2", _gaussian),  # of the disk's variance
    "disk": Blur("disk of radius ρ", _disk),
}
BLURRING: tuple[Kernel, ...] = tuple(name for name, kernel in KERNELS.items() if kernel.blurs)
