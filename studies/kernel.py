"""Is it the disk, or any low-pass? The full method on pyramids of each kernel.

    python -m studies.run kernel --preset smoke

The disk and the Gaussian grow with the radius of a focus state. Area, bicubic and the ideal low-pass belong to the view
alone, and the camera (a disk, then pixels as wide as the view's) to both; see `fvar.focus.kernels`. Each kernel has
tokenizers of its own. `python -m studies.run spectral` measures what each of them aliases, without training.
"""

from collections.abc import Iterator
from typing import get_args

from fvar.config import Kernel
from fvar.focus.kernels import KERNELS
from studies.study import Cell, Context, Study
from studies.variants import chain

COMPARED: tuple[Kernel, ...] = tuple(kernel for kernel in get_args(Kernel) if kernel != "none")


def cells(ctx: Context) -> Iterator[Cell]:
    for kernel in COMPARED:
        for seed in range(ctx.seeds):
            stage = chain(ctx.preset, "full", seed, kernel=kernel)
            yield Cell(kernel, f"FVAR, {KERNELS[kernel].label}", seed, {"kernel": kernel}, stage)


STUDY = Study("kernel", "The kernel of the pyramid", cells, references=("disk",))
