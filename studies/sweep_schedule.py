"""How the radius falls from rho_max to 0: in a cosine (Eq. 2), in equal steps, or halved from state to state.

    python -m studies.run sweep_schedule --preset smoke

Schedules of K states agree in the first and the last; each has tokenizers of its own.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from fvar.config import Schedule
from studies.study import Cell, Context, Study
from studies.variants import chain


def cells(ctx: Context) -> Iterator[Cell]:
    for schedule in get_args(Schedule):
        preset = replace(ctx.preset, pyramid=replace(ctx.preset.pyramid, schedule=schedule))
        for seed in range(ctx.seeds):
            stage = chain(preset, "full", seed)
            yield Cell(schedule, f"FVAR, {schedule} schedule", seed, {"schedule": schedule}, stage)


STUDY = Study("sweep_schedule", "Sweep of the radius schedule", cells, references=("cosine",))
