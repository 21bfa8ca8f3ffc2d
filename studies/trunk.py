"""What a teacher of its own trunk buys over one that shares the student's, or over a frozen one: quality against cost.

    python -m studies.run trunk --preset smoke

The paper lets both networks process the batch, which doubles a step, yet claims 6-15 % more FLOPs, which only a shared
trunk can reach (see READINGS.md). Eq. 13 has no loss for the teacher: another cell takes the teacher that the first
one trained, frozen, so that its student learns from a finished network. All cells share one pair of tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, get_args

from fvar.config import TeacherConfig, Trunk
from studies.engine import outputs
from studies.study import Cell, Context, Study
from studies.variants import chain

if TYPE_CHECKING:
    from analysis.results import StudyResults
    from analysis.style import Drawings


def cells(ctx: Context) -> Iterator[Cell]:
    for trunk in get_args(Trunk):
        for seed in range(ctx.seeds):
            stage = chain(ctx.preset, "full", seed, teacher=TeacherConfig(trunk=trunk))
            yield Cell(trunk, f"FVAR, {trunk} trunk", seed, {"trunk": trunk}, stage)
    for seed in range(ctx.seeds):
        stage = chain(ctx.preset, "full", seed, teacher=TeacherConfig(learns="frozen"))
        yield Cell("frozen", "FVAR, the first row's teacher, frozen", seed, {"trunk": "separate, frozen"}, stage)
    for seed in range(ctx.seeds):
        yield Cell("no_teacher", "FVAR without teacher", seed, {"trunk": "none"}, chain(ctx.preset, "no_teacher", seed))


def report(results: StudyResults) -> Drawings:
    """What every study of samples shows, and quality against cost."""
    from analysis import plot_pareto

    return {**outputs.report(results), "pareto.png": partial(plot_pareto.draw, results)}


STUDY = Study("trunk", "The teacher's trunk: quality against cost", cells, report, references=("no_teacher",))
