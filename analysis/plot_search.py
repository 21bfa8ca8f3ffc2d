"""A search's history, importances, slices, contour, parallel coordinates and Pareto front.

    python analysis/plot_search.py [STUDY] [--preset smoke] [--results results]

Drawn from search.json (`analysis.search`). Every point is a trial of one seed; a ring marks the best, and one seed
does not make a ranking. Pruned trials are hollow, where they have a place: at their last intermediate value they are
shown in the curves only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import style
from analysis.results import StudyResults
from analysis.search import FEWEST_FOR_IMPORTANCE, Axis, SearchResults, Trial
from analysis.style import NothingToDraw
from fvar.errors import run_main

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINT, BEST, PRUNED = style.PALETTE[2], style.PALETTE[1], style.PALETTE[0]
ACROSS = 3  # panels side by side
FEWEST_FOR_CONTOUR = 4  # points that span a surface


def history(found: SearchResults) -> Figure:
    """Each trial's value in the order in which they were asked for, and the best so far; below, the curves."""
    done = _some(found, 1)
    curves = [trial for trial in found.trials if trial.curve]
    figure = style.new_figure(style.COLUMN, 2.4 + 1.9 * bool(curves))
    panels = figure.subplots(1 + bool(curves), 1, squeeze=False)[:, 0]
    ax = panels[0]
    ax.plot([t.number for t in done], [t.values[0] for t in done], "o", color=POINT, alpha=0.7, label="trial")
    best = [min(t.values[0] for t in done[: i + 1]) for i in range(len(done))]
    ax.step([t.number for t in done], best, where="post", color=BEST, label="best so far")
    ax.set_xlabel("trial")
    ax.set_ylabel(found.objectives[0].name)
    _integers(ax)
    ax.legend()
    if curves:
        _curves(panels[1], curves)
    return figure


def _curves(ax: Axes, trials: Sequence[Trial]) -> None:
    """Intermediate values over steps; a cross where a trial was pruned."""
    labelled: set[str] = set()
    for trial in trials:
        steps, values = zip(*trial.curve, strict=True)
        pruned = trial.state == "pruned"
        label = "pruned" if pruned else "not pruned"
        ax.plot(
            steps,
            values,
            color=PRUNED if pruned else POINT,
            alpha=0.7,
            linewidth=0.8,
            marker="x" if pruned else ".",
            markevery=[len(steps) - 1],
            label="" if label in labelled else label,
        )
        labelled.add(label)
    ax.set_xlabel("step of training")
    ax.set_ylabel("intermediate value")
    ax.legend()


def importances(found: SearchResults) -> Figure:
    """Share of the variance that each axis explains."""
    shares = found.importances()
    if not shares:
        raise NothingToDraw(f"importances need {FEWEST_FOR_IMPORTANCE} finished trials that differ")
    figure = style.new_figure(style.COLUMN, 0.9 + 0.25 * len(shares))
    ax = figure.subplots()
    names = {axis.name: axis.label for axis in found.axes}
    order = sorted(shares, key=lambda name: shares[name])
    ax.barh([names[name] for name in order], [shares[name] for name in order], color=POINT, height=0.6)
    for y, name in enumerate(order):
        ax.text(shares[name] + 0.01, y, f"{shares[name]:.0%}", va="center")
    ax.set_xlim(0, min(1.15, max(shares.values()) * 1.2 + 0.05))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"share of variance explained (fANOVA, {len(found.done)} trials)")
    return figure


def slices(found: SearchResults) -> Figure:
    """The first objective over each axis; the later a trial, the darker its point."""
    done = _some(found, 2)
    rows = -(-len(found.axes) // ACROSS)
    figure = style.new_figure(style.PAGE, 0.7 + 1.9 * rows)
    grid = figure.subplots(rows, min(ACROSS, len(found.axes)), squeeze=False, sharey=True)
    best = found.best()[0]
    for ax, axis in zip(grid.flat, found.axes, strict=False):
        xs = [_shown(axis, trial) for trial in done]
        shade = ax.scatter(
            xs, [t.values[0] for t in done], c=[t.number for t in done], cmap="viridis_r", vmin=0, s=14, zorder=3
        )
        ax.plot(_shown(axis, best), best.values[0], "o", markersize=8, mfc="none", mec=BEST, mew=1.5)
        _scale(ax, ax.xaxis, axis)
        ax.set_xlabel(axis.label)
    for ax in grid.flat[len(found.axes) :]:
        ax.set_visible(False)
    for row in grid:
        row[0].set_ylabel(found.objectives[0].name)
    figure.colorbar(shade, ax=grid, label="trial", fraction=0.03)
    return figure


def contour(found: SearchResults) -> Figure:
    """The first objective over the two axes that explain most of it, interpolated between the trials."""
    ranges = [axis for axis in found.axes if not axis.options]
    done = _some(found, FEWEST_FOR_CONTOUR)
    if len(ranges) < 2:
        raise NothingToDraw("a contour needs two axes that are ranges")
    shares = found.importances()
    across, up = sorted(ranges, key=lambda axis: -shares.get(axis.name, 0.0))[:2]
    xs, ys = [t.params[across.name] for t in done], [t.params[up.name] for t in done]
    figure = style.new_figure(style.COLUMN, 2.9)
    ax = figure.subplots()
    values = [t.values[0] for t in done]
    try:  # interpolated where the axes are shown, which may be logarithmic
        triangles, surface = _surface([across.place(x) for x in xs], [up.place(y) for y in ys], values)
    except (RuntimeError, ValueError):
        raise NothingToDraw("the finished trials lie on one line") from None
    triangles.x, triangles.y = _along(across, triangles.x), _along(up, triangles.y)
    filled = ax.tricontourf(triangles, surface, levels=12, cmap="viridis")
    ax.plot(xs, ys, "o", color="white", mec="black", mew=0.5)
    best = found.best()[0]
    ax.plot(best.params[across.name], best.params[up.name], "o", markersize=8, mfc="none", mec=BEST, mew=1.5)
    _scale(ax, ax.xaxis, across)
    _scale(ax, ax.yaxis, up)
    ax.set_xlabel(across.label)
    ax.set_ylabel(up.label)
    figure.colorbar(filled, ax=ax, label=found.objectives[0].name)
    return figure


def _surface(xs: list[float], ys: list[float], values: list[float]) -> tuple[Any, Any]:
    """A triangulation of the points, refined, and the values linearly between them."""
    from matplotlib.tri import LinearTriInterpolator, Triangulation, UniformTriRefiner

    coarse = Triangulation(xs, ys)
    fine, surface = UniformTriRefiner(coarse).refine_field(
        values, triinterpolator=LinearTriInterpolator(coarse, values), subdiv=2
    )
    return fine, surface


def _along(axis: Axis, places: Any) -> Any:
    """Values at places between 0 and 1 of a range."""
    import numpy as np

    if axis.log:
        return axis.low * np.power(axis.high / axis.low, places)
    return axis.low + (axis.high - axis.low) * np.asarray(places)


def parallel(found: SearchResults) -> Figure:
    """Each finished trial as a line over all axes, coloured by the first objective; the best drawn thick."""
    import matplotlib

    done = _some(found, 2)
    figure = style.new_figure(style.PAGE, 2.9)
    ax = figure.subplots()
    norm = matplotlib.colors.Normalize(min(t.values[0] for t in done), max(t.values[0] for t in done))
    shades = matplotlib.colormaps["viridis_r"]
    best = found.best()[0]
    for trial in sorted(done, key=lambda trial: -trial.values[0]):
        heights = [axis.place(trial.params[axis.name]) for axis in found.axes]
        ax.plot(
            range(len(heights)),
            heights,
            color=BEST if trial is best else shades(norm(trial.values[0])),
            linewidth=2.2 if trial is best else 0.9,
            alpha=1.0 if trial is best else 0.7,
        )
    for x, axis in enumerate(found.axes):
        ax.axvline(x, color="black", linewidth=0.6)
        marks = axis.options or (axis.low, axis.high)
        for mark in marks:
            ax.text(x, axis.place(mark), f" {_number(mark)}", va="center", ha="left", fontsize=7)
    ax.set_xticks(range(len(found.axes)), [axis.label for axis in found.axes])
    ax.set_yticks([])
    ax.set_xlim(-0.1, len(found.axes) - 0.6)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    mappable = matplotlib.cm.ScalarMappable(norm, shades)
    figure.colorbar(mappable, ax=ax, label=found.objectives[0].name, fraction=0.04)
    return figure


def pareto(found: SearchResults) -> Figure:
    """The first objective over the second, or, of a search for one, over what the trials took."""
    done = [trial for trial in _some(found, 2) if trial.hours or len(found.objectives) > 1]
    if len(done) < 2:
        raise NothingToDraw("fewer than two trials whose hours are recorded")
    several = len(found.objectives) > 1
    xs = {trial.number: trial.values[1] if several else trial.hours or 0.0 for trial in done}
    kept: list[Trial] = []
    for trial in sorted(done, key=lambda trial: (xs[trial.number], trial.values[0])):
        if not kept or trial.values[0] < kept[-1].values[0]:
            kept.append(trial)
    figure = style.new_figure(style.COLUMN, 2.6)
    ax = figure.subplots()
    ax.plot([xs[t.number] for t in done], [t.values[0] for t in done], "o", color=POINT, alpha=0.7, label="trial")
    ax.plot(
        [xs[t.number] for t in kept], [t.values[0] for t in kept], "o-", color=BEST, label="no other beats it in both"
    )
    for trial in kept:
        ax.annotate(f"{trial.number}", (xs[trial.number], trial.values[0]), xytext=(3, 4), textcoords="offset points")
    ax.set_xlabel(f"{found.unit}\n(a trial with its tokenizers)")
    ax.set_ylabel(found.objectives[0].name)
    ax.legend()
    return figure


def _some(found: SearchResults, least: int) -> list[Trial]:
    """The finished trials. Raises `NothingToDraw` for too few."""
    if len(found.done) < least:
        raise NothingToDraw(f"{len(found.done)} trials are done, and this needs {least}")
    return found.done


def _shown(axis: Axis, trial: Trial) -> Any:
    """Where a trial lies on an axis: its value, or the place of its option."""
    value = trial.params[axis.name]
    return axis.options.index(value) if axis.options else value


def _scale(ax: Axes, side: Any, axis: Axis) -> None:
    """Give one side of a panel (`ax.xaxis` or `ax.yaxis`) the scale, ends and ticks of an axis of the space."""
    from matplotlib.ticker import LogLocator, NullFormatter

    margin = 0.04
    if axis.options:
        side.set_ticks(range(len(axis.options)), [str(option) for option in axis.options])
        ends = (-0.5, len(axis.options) - 0.5)
    else:
        ends = (_along(axis, -margin), _along(axis, 1 + margin))
    if axis.log:
        (ax.set_xscale if side is ax.xaxis else ax.set_yscale)("log")
        side.set_major_locator(LogLocator(numticks=4, subs=(1.0, 3.0)))
        side.set_major_formatter("{x:g}")
        side.set_minor_formatter(NullFormatter())
    (ax.set_xlim if side is ax.xaxis else ax.set_ylim)(*ends)


def _integers(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _draw(make: Callable[[SearchResults], Figure], name: str, results: StudyResults) -> list[Path]:
    figure = make(SearchResults.of(results))
    title = style.heading(results, 0.85 * figure.get_figwidth())
    if title.count("\n") > 1:  # it lists the settings of the command, for which a figure has no room
        title = f"{results.study} · preset {results.preset} · 1 seed"
    figure.suptitle(title, x=0.01, ha="left")
    return style.save(figure, results.folder / name)


MAKERS = (history, importances, slices, contour, parallel, pareto)
FIGURES: dict[str, Callable[[StudyResults], list[Path]]] = {
    f"search_{make.__name__}.png": partial(_draw, make, f"search_{make.__name__}.png") for make in MAKERS
}


def draw(results: StudyResults) -> list[Path]:
    """Every figure that there are trials enough for."""
    files, _ = style.draw_each({name: partial(one, results) for name, one in FIGURES.items()}, print)
    return files


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw what a search found.", draw, argv, "search_distillation")


if __name__ == "__main__":
    run_main(main)
