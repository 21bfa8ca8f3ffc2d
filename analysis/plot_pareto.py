"""What quality costs: a study's score against the hours that each variant took, its tokenizers included.

    python analysis/plot_pareto.py [STUDY] [--preset smoke] [--results results]

A point is a variant: means over its seeds with 95 % intervals both ways, from three seeds on. Hours are those its run
directories record, every stage above the score counted in full, shared or not: what the variant takes by itself. GPU
hours where jobs held GPUs, else hours of the processes. The line joins variants that no other beats in both means.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import style
from analysis.metrics import Metric, deciding
from analysis.results import CellResult, StudyResults
from analysis.stats import Spread, spread
from fvar.errors import run_main
from fvar.usage import gpu_hours


@dataclass(frozen=True)
class Point:
    """A variant: its score, unscaled, and its hours, over seeds."""

    label: str
    score: Spread
    hours: Spread


def points(results: StudyResults, metric: Metric) -> tuple[list[Point], str]:
    """Every variant of which all is known, in the study's order; and whose hours they are.

    Raises `NothingToDraw` for fewer than two.
    """
    done = {name: [cell for cell in cells if cell.state[0] == "done"] for name, cells in results.variants().items()}
    on_gpus = all(gpu_hours(run.path for run in cell.chain.values()) > 0 for cells in done.values() for cell in cells)
    found = []
    for cells in done.values():
        score = spread(metric.of(cell)[0] for cell in cells)
        hours = spread(_hours(cell, on_gpus) for cell in cells)
        if score and hours and hours.mean:
            found.append(Point(cells[0].label, score, hours))
    if len(found) < 2:
        raise style.NothingToDraw(f"{results.study} has fewer than two finished variants whose hours are recorded")
    return found, "GPU hours" if on_gpus else "hours of a process, without GPUs"


def front(found: Sequence[Point], better: str) -> list[Point]:
    """The points that no other equals in one mean and beats in the other, by rising hours."""
    sign = 1 if better == "lower" else -1
    kept: list[Point] = []
    for point in sorted(found, key=lambda point: (point.hours.mean, sign * point.score.mean)):
        if not kept or sign * point.score.mean < sign * kept[-1].score.mean:
            kept.append(point)
    return kept


def draw(results: StudyResults) -> list[Path]:
    """Write pareto.png into the study's folder. Raises `NothingToDraw` where there is nothing to compare."""
    counts = [score["count"] for cell in results.cells for score in cell.scores.values() if score.get("count")]
    metric = deciding(min(counts, default=0))
    found, unit = points(results, metric)
    figure = style.new_figure(style.PAGE, 4.2)
    ax = figure.subplots()
    best = front(found, metric.better)
    ax.plot([p.hours.mean for p in best], [metric.scale * p.score.mean for p in best], color="#bbbbbb", zorder=1)
    for point, colour in zip(found, style.colours(len(found)), strict=True):
        ax.errorbar(
            point.hours.mean,
            metric.scale * point.score.mean,
            yerr=metric.scale * (point.score.half_width or 0) or None,
            xerr=point.hours.half_width,
            marker="o",
            capsize=2,
            linestyle="",
            color=colour,
            label=f"{point.label} ({point.score.n} seed{'s' * (point.score.n > 1)})",
        )
    ax.set_xlabel(f"{unit}, for one seed with its tokenizers")
    ax.set_ylabel(metric.axis.format(n=min(counts, default=0)))
    figure.legend(loc="outside lower center", ncols=2)
    figure.suptitle(style.heading(results), x=0.01, ha="left")
    return style.save(figure, results.folder / "pareto.png")


def _hours(cell: CellResult, on_gpus: bool) -> float:
    paths = {run.path: run for run in cell.chain.values()}
    return gpu_hours(paths) if on_gpus else sum(run.status.seconds for run in paths.values()) / 3600


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw a study's scores over what its variants cost.", draw, argv, "trunk")


if __name__ == "__main__":
    run_main(main)
