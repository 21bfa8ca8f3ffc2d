"""In- and outpainting of held-out images: VAR against FVAR, in pictures and in scores under the mask (paper Fig. 4).

    python -m studies.run inpainting --preset smoke

Both complete the same images, once their middle and once all but the middle, holding the tokens of what is known
(`fvar.editing`). Networks are Table 2's; only the sampling is this study's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fvar.config import Mask, SamplesConfig, ScoresConfig, Stage
from studies.presets import Preset
from studies.study import Cell, Context, Study
from studies.variants import VARIANTS, chain

if TYPE_CHECKING:
    from analysis.results import StudyResults
    from analysis.style import Drawings

MASKS: dict[Mask, str] = {"center": "inpainting", "border": "outpainting"}
COMPARED = ("baseline", "full")


def completing(preset: Preset, variant: str, seed: int, mask: Mask) -> Stage:
    """The scores of held-out images that a variant completes, against all held-out images."""
    scores = chain(preset, variant, seed)
    samples = scores.inputs["samples"]
    assert isinstance(samples.config, SamplesConfig)
    assert isinstance(scores.config, ScoresConfig)
    masked = Stage(replace(samples.config, mask=mask), samples.inputs)
    return Stage(replace(scores.config, split="heldout", heldout=False), {"samples": masked})


def cells(ctx: Context) -> Iterator[Cell]:
    for mask, label in MASKS.items():
        for variant in COMPARED:
            for seed in range(ctx.seeds):
                stage = completing(ctx.preset, variant, seed, mask)
                yield Cell(f"{variant}-{mask}", f"{VARIANTS[variant].label}, {label}", seed, {"mask": mask}, stage)


def report(results: StudyResults) -> Drawings:
    from analysis import plot_inpainting, table

    return {"table.md": partial(table.write, results), "completed.png": partial(plot_inpainting.draw, results)}


STUDY = Study("inpainting", "In- and outpainting", cells, report=report, references=("baseline-{mask}",))
