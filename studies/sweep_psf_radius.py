"""How much blur helps: the largest radius of the disk PSF, from none to twice the paper's 12 px (at 256 px).

    python -m studies.run sweep_psf_radius --preset smoke

Each radius has its own pair of tokenizers, trained once with seed 0 and shared by all seeds; radius 12 is Table 2's.
"""

from collections.abc import Iterator

from studies.study import Cell, Context, Study
from studies.variants import chain

RADII = (0.0, 3.0, 6.0, 9.0, 12.0, 18.0, 24.0)  # px of a 256 px image; smaller presets scale them with the image


def cells(ctx: Context) -> Iterator[Cell]:
    for rho in RADII:
        for seed in range(ctx.seeds):
            stage = chain(ctx.preset, "full", seed, rho_max=rho)
            yield Cell(f"rho{rho:g}", f"FVAR, rho_max = {rho:g} px", seed, {"rho_max": rho}, stage)


STUDY = Study("sweep_psf_radius", "Sweep of the PSF radius", cells, references=("rho12",))
