"""Table 1 at twice the resolution: 512 px at the paper preset, with VAR's ten scales there.

    python -m studies.run table1_512 --preset paper --data folder:/path/to/imagenet --cluster slurm

The paper prints no numbers for it. A smaller preset also doubles its side, and takes as many of the ten scales as fit.
"""

from collections.abc import Iterator
from dataclasses import replace

from studies import table1
from studies.presets import Preset
from studies.study import Cell, Context, Study

SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)  # VAR's at 512 px


def doubled(preset: Preset) -> Preset:
    """The preset at twice its side in px and tokens."""
    last = 2 * preset.pyramid.patch_nums[-1]
    scales = (*(side for side in SCALES_512 if side < last), last)
    data = replace(preset.data, image_size=2 * preset.data.image_size)
    return replace(preset, data=data, pyramid=replace(preset.pyramid, patch_nums=scales))


def cells(ctx: Context) -> Iterator[Cell]:
    yield from table1.cells(replace(ctx, preset=doubled(ctx.preset)))


STUDY = Study("table1_512", "Table 1 at twice the resolution", cells, references=table1.STUDY.references)
