"""A sweep's scores over the parameters it varies: a curve for one, a map for two, one panel each for more.

What is varied and is not a number (a kernel, a schedule), or at the same value in several variants, has a row for each
variant instead.

    python analysis/plot_sweep.py [STUDY] [--preset smoke] [--results results]

Curves show the mean over seeds with its 95 % interval from three seeds on; every measured value is a dot.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import style
from analysis.metrics import Metric, printed
from analysis.results import StudyResults
from analysis.stats import Spread, spread
from fvar.errors import run_main

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 3  # at most, of a study with columns of its own


@dataclass(frozen=True)
class Point:
    """One variant: where it stands on the axes, and one metric of its finished seeds, scaled for display."""

    label: str
    params: dict[str, Any]
    values: list[float]
    mean: Spread


def draw(results: StudyResults) -> list[Path]:
    """Write sweep.png and .pdf into the study's folder.

    Raises `NothingToDraw` if nothing was varied or no cell is done.
    """
    axes_names = varied(results)
    if len(axes_names) <= 2 and not _told_apart(results, axes_names):
        axes_names = []
    if not axes_names and not _chosen(results):
        raise style.NothingToDraw(f"{results.study} varies no setting, so there is no sweep to draw")
    panels = {metric: points(results, metric) for metric in printed(results)[:PANELS]}
    panels = {metric: found for metric, found in panels.items() if found}
    if not panels:
        raise style.NothingToDraw(
            f"no cell of {results.study} is done yet; "
            f"let `python -m studies.run {results.study} --preset {results.preset}` go on first"
        )
    scores = [cell.scores.get(metric.key, {}) for cell in results.cells for metric in panels]
    n = "/".join(map(str, sorted({score["count"] for score in scores if "count" in score})))
    headings = {metric: metric.axis.format(n=n) for metric in panels}
    if len(axes_names) == 2 and all(_follows(found, *axes_names) for found in panels.values()):
        del axes_names[1]
    layout = {0: _rows, 1: _curves, 2: _maps}.get(len(axes_names), _scatters)
    figure = layout(panels, headings, axes_names)
    figure.suptitle(style.heading(results, figure.get_figwidth()), x=0.01, ha="left")
    return style.save(figure, results.folder / "sweep.png")


def varied(results: StudyResults) -> list[str]:
    """Parameters that differ between cells; none where one of them is not a number, which no axis could show."""
    differing = _differing(results)
    numbers = all(isinstance(value, int | float) for values in differing.values() for value in values)
    return list(differing) if numbers else []


def _told_apart(results: StudyResults, names: Sequence[str]) -> bool:
    """Whether each variant has values of its own: a curve through two methods at the same value would join them."""
    values = [tuple(cells[0].params.get(name) for name in names) for cells in results.variants().values()]
    return len(set(values)) == len(values)


def _chosen(results: StudyResults) -> bool:
    """Whether something else than numbers is varied, and not the method as a whole, as in Table 2."""
    return bool(_differing(results).keys() - {"variant"})


def _differing(results: StudyResults) -> dict[str, set[Any]]:
    """Parameters that differ between cells, with their values."""
    names = dict.fromkeys(key for cell in results.cells for key in cell.params)
    values = {name: {cell.params.get(name) for cell in results.cells} for name in names}
    return {name: found for name, found in values.items() if len(found) > 1}


def _follows(found: Sequence[Point], first: str, second: str) -> bool:
    """Whether the first parameter decides the second, as scales decide tokens: it then needs no axis of its own."""
    return len({point.params[first] for point in found}) == len({(p.params[first], p.params[second]) for p in found})


def points(results: StudyResults, metric: Metric) -> list[Point]:
    """The variants with at least one measured value, in the study's order."""
    found = []
    for cells in results.variants().values():
        values = [metric.scale * value for cell in cells if (value := cell.score(metric.key)) is not None]
        mean = spread(values)
        if mean is not None:
            found.append(Point(cells[0].label, dict(cells[0].params), values, mean))
    return found


def _rows(panels: dict[Metric, list[Point]], headings: dict[Metric, str], names: list[str]) -> Figure:
    """No parameter that is a number: a row for each variant, in the study's order, metrics side by side."""
    most = max(len(found) for found in panels.values())
    figure = style.new_figure(style.PAGE, 0.9 + 0.28 * most)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, (metric, found) in zip(grid, panels.items(), strict=True):
        ys = range(len(found))
        halves = [point.mean.half_width or 0 for point in found]
        means = [point.mean.mean for point in found]
        ax.errorbar(means, ys, xerr=halves, fmt="D", markersize=4, color=style.PALETTE[2], capsize=2)
        for y, point in zip(ys, found, strict=True):
            ax.plot(point.values, [y] * len(point.values), "o", color=style.PALETTE[2], alpha=0.6)
        ax.set_yticks(ys, [textwrap.shorten(point.label, 48) for point in found])
        ax.set_ylim(most - 0.5, -0.5)
        ax.set_xlabel(style.meaning((point.mean for point in found), "bars"))
        ax.set_title(headings[metric])
    return figure


def _curves(panels: dict[Metric, list[Point]], headings: dict[Metric, str], names: list[str]) -> Figure:
    """One parameter: metric over parameter."""
    figure = style.new_figure(style.COLUMN, 0.6 + 1.9 * len(panels))
    for ax, (metric, found) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        ordered = sorted(found, key=lambda point: point.params[names[0]])
        xs = [point.params[names[0]] for point in ordered]
        halves = [point.mean.half_width or 0 for point in ordered]
        ax.errorbar(xs, [point.mean.mean for point in ordered], halves, color=style.PALETTE[2], capsize=2)
        _dots(ax, ordered, names[0])
        ax.set_xticks(xs)
        told = style.meaning((point.mean for point in ordered), "bars")
        ax.set_xlabel("\n".join(filter(None, [style.AXES.get(names[0], names[0]), told])))
        ax.set_title(headings[metric])
    return figure


def _maps(panels: dict[Metric, list[Point]], headings: dict[Metric, str], names: list[str]) -> Figure:
    """Two parameters: a matrix of means, written out, the best one framed."""
    from matplotlib.patches import Rectangle

    figure = style.new_figure(style.COLUMN, 0.6 + 2.3 * len(panels))
    for ax, (metric, found) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        columns, rows = (sorted({point.params[name] for point in found}) for name in names)
        grid = [[float("nan")] * len(columns) for _ in rows]
        for point in found:
            grid[rows.index(point.params[names[1]])][columns.index(point.params[names[0]])] = point.mean.mean
        image = ax.imshow(grid, origin="lower", cmap="viridis", aspect="auto")
        ax.grid(visible=False)
        best = _best(found, metric)
        for point in found:
            x, y = columns.index(point.params[names[0]]), rows.index(point.params[names[1]])
            bright = image.norm(point.mean.mean) > 0.5
            ax.text(x, y, f"{point.mean.mean:.1f}", ha="center", va="center", color="black" if bright else "white")
            if point is best:
                ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=style.PALETTE[1], linewidth=2))
        ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        ax.set_xlabel(style.AXES.get(names[0], names[0]))
        ax.set_ylabel(style.AXES.get(names[1], names[1]))
        ax.set_title(headings[metric])
    return figure


def _scatters(panels: dict[Metric, list[Point]], headings: dict[Metric, str], names: list[str]) -> Figure:
    """More parameters: the metric over each of them, the best variant marked."""
    from matplotlib.ticker import NullFormatter

    figure = style.new_figure(style.PAGE, 0.6 + 2 * len(panels))
    grid = figure.subplots(len(panels), len(names), squeeze=False, sharey="row")
    for row, (metric, found) in zip(grid, panels.items(), strict=True):
        best = _best(found, metric)
        for ax, name in zip(row, names, strict=True):
            _dots(ax, found, name)
            ax.plot(
                best.params[name], best.mean.mean, marker="o", markersize=8, mfc="none", mec=style.PALETTE[1], mew=1.5
            )
            xs = sorted({point.params[name] for point in found})
            if xs[0] > 0 and xs[-1] / xs[0] > 20:
                ax.set_xscale("log")
                ax.xaxis.set_major_formatter("{x:g}")
                ax.xaxis.set_minor_formatter(NullFormatter())
            elif len(xs) <= 4:
                ax.set_xticks(xs)
            ax.set_xlabel(style.AXES.get(name, name))
        row[0].set_ylabel(headings[metric])
    return figure


def _best(found: Sequence[Point], metric: Metric) -> Point:
    sign = -1 if metric.better == "higher" else 1
    return min(found, key=lambda point: sign * point.mean.mean)


def _dots(ax: Axes, found: Sequence[Point], name: str) -> None:
    xs = [point.params[name] for point in found for _ in point.values]
    ax.plot(xs, [value for point in found for value in point.values], "o", color=style.PALETTE[2], alpha=0.6)


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw a sweep's scores over its parameters.", draw, argv, "sweep_psf_radius")


if __name__ == "__main__":
    run_main(main)
