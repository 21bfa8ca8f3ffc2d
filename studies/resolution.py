"""Does refocusing matter more where there is more to alias? Baseline and full method at half, at and at twice the size.

    python -m studies.run resolution --preset smoke

The radius is scaled with the image (`pyramid.rho_reference`), token maps grow with it, and so does the cost: twice the
side is four times the tokens. Images smaller than their data set are scaled down, larger ones up.
"""

from collections.abc import Iterator
from dataclasses import replace

from studies.presets import Preset
from studies.study import Cell, Context, Study
from studies.variants import VARIANTS, chain

FACTORS = (0.5, 1.0, 2.0)  # of the preset's side
COMPARED = ("baseline", "full")


def at(preset: Preset, factor: float) -> Preset | None:
    """The preset with images and token maps `factor` times as large; None where its coarsest maps cannot shrink."""
    if factor == 1:
        return preset
    sides = tuple(int(side * factor) for side in preset.pyramid.patch_nums if side * factor >= 1)
    if len(sides) < 2:
        return None
    if len(sides) < len(preset.pyramid.patch_nums) or sides[0] > preset.pyramid.patch_nums[0]:
        sides = tuple(sorted({preset.pyramid.patch_nums[0], *sides}))
    size = sides[-1] * preset.pyramid.downsample_factor
    pyramid = replace(preset.pyramid, patch_nums=sides)
    return replace(preset, data=replace(preset.data, image_size=size), pyramid=pyramid)


def cells(ctx: Context) -> Iterator[Cell]:
    for factor in FACTORS:
        preset = at(ctx.preset, factor)
        if preset is None:
            continue
        size = preset.data.image_size
        for variant in COMPARED:
            label = f"{VARIANTS[variant].label}, {size} px"
            for seed in range(ctx.seeds):
                yield Cell(f"{variant}-{size}", label, seed, {"pixels": size}, chain(preset, variant, seed))


STUDY = Study("resolution", "Baseline and FVAR by image size", cells, references=("baseline-{pixels}",))
