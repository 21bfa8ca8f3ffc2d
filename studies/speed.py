"""How fast the deployment networks sample: latency and images per second, by depth and by batch.

    python -m studies.run speed --preset smoke
    python -m studies.run speed --preset paper --cluster slurm --seeds 3

FVAR deploys VAR's network, key for key, so one row stands for both; M-VAR's is timed in turns with it. Nothing is
trained. A stage is a depth; keep the machine quiet, and repeat a measurement by `--recompute speed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from fvar.config import Stage
from studies.study import Cell, Context, Study
from studies.table1 import PRINTED, depths

if TYPE_CHECKING:
    from analysis.results import StudyResults
    from analysis.style import Drawings


def cells(ctx: Context) -> Iterator[Cell]:
    """One per depth of Table 1, scaled down as there."""
    for printed, depth in zip(PRINTED, depths(ctx.preset), strict=True):
        label = f"d{printed}" + ("" if depth == printed else f" at depth {depth}")
        for seed in range(ctx.seeds):
            yield Cell(f"d{printed}", label, seed, {"depth": depth}, Stage(ctx.preset.speed(depth, seed)))


def report(results: StudyResults) -> Drawings:
    """The table and the figure."""
    from analysis import plot_speed

    return {"table.md": partial(plot_speed.write, results), "speed.png": partial(plot_speed.draw, results)}


STUDY = Study("speed", "Speed of sampling by depth and batch", cells, report)
