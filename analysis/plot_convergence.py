"""Convergence of a study's variants: held-out cross-entropy and token accuracy by training step.

Where samples were scored while the networks trained (`curve.every` of the var stages), their FID and KID too.

    python analysis/plot_convergence.py [STUDY] [--preset smoke] [--results results]

One line per variant: the mean over its seeds, with a band of its 95 % interval from three seeds on.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import style
from analysis.results import CellResult, StudyResults
from analysis.stats import Spread, spread
from fvar.errors import run_main

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (  # split and key of metrics.jsonl, scale, title
    ("heldout", "cross_entropy", 1, "held-out cross-entropy (nats per token)"),
    ("heldout", "accuracy", 100, "held-out token accuracy (%)"),
)
SAMPLED = re.compile(r"(fid|kid)_(\d+)")  # a score and the number of samples it was taken of


def draw(results: StudyResults) -> list[Path]:
    """Write convergence.png and .pdf into the study's folder.

    Raises `NothingToDraw` where no network was evaluated yet.
    """
    all_panels = offered(results)
    curves = {
        (split, key): {name: curve(cells, split, key) for name, cells in results.variants().items()}
        for split, key, *_ in all_panels
    }
    panels = [panel for panel in all_panels if any(curves[panel[:2]].values())]
    if not panels:
        raise style.NothingToDraw(
            f"no network of {results.study} was evaluated yet; "
            f"let `python -m studies.run {results.study} --preset {results.preset}` go on first"
        )
    figure = style.new_figure(style.COLUMN, 0.9 + 1.7 * len(panels) + 0.16 * len(results.variants()))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    labels = {name: cells[0].label for name, cells in results.variants().items()}
    for ax, (split, key, scale, title) in zip(axes, panels, strict=True):
        _panel(ax, curves[split, key], labels, scale)
        ax.set_title(title)
    notes = ["training step"]
    if not results.one_tokenizer:
        notes.append("(tokens of different tokenizers are not equally\nhard to predict)")
    notes.append(
        style.meaning((point for made in curves.values() for c in made.values() for point in c.values()), "bands")
    )
    axes[-1].set_xlabel("\n".join(filter(None, notes)))
    handles, drawn = axes[0].get_legend_handles_labels()
    figure.legend(handles, drawn, loc="outside lower center", ncols=1 if len(drawn) <= 8 else 2)
    figure.suptitle(style.heading(results, style.COLUMN), x=0.01, ha="left")
    return style.save(figure, results.folder / "convergence.png")


def offered(results: StudyResults) -> list[tuple[str, str, int, str]]:
    """Split and key of metrics.jsonl, scale and title of what may be drawn: held-out losses, then scores of samples."""
    return [*PANELS, *_sampled(results)]


def curve(cells: Sequence[CellResult], split: str, key: str) -> dict[int, Spread]:
    """Step -> mean and spread over the seeds that have a finite value there."""
    values: dict[int, list[float]] = {}
    for cell in cells:
        for record in cell.metrics(split):
            if math.isfinite(record.get(key, math.nan)):
                values.setdefault(record["step"], []).append(record[key])
    return {step: found for step in sorted(values) if (found := spread(values[step]))}


def _sampled(results: StudyResults) -> list[tuple[str, str, int, str]]:
    """A panel for every score of samples that some network has, with the number of samples in its title."""
    keys = {key for cell in results.cells for record in cell.metrics("sampled") for key in record}
    found = [match for key in sorted(keys) if (match := SAMPLED.fullmatch(key))]
    return [("sampled", match[0], 1, f"{match[1].upper()}@{int(match[2]):,} of samples") for match in found]


def _panel(ax: Axes, curves: dict[str, dict[int, Spread]], labels: dict[str, str], scale: float) -> None:
    for index, (name, colour) in enumerate(zip(curves, style.colours(len(curves)), strict=True)):
        if not curves[name]:
            continue
        steps, points = list(curves[name]), list(curves[name].values())
        means = [scale * point.mean for point in points]
        dash = style.DASHES[index % len(style.DASHES)]
        marker = "o" if len(steps) <= 12 else ""  # a single evaluation makes no line
        ax.plot(steps, means, color=colour, linestyle=dash, marker=marker, label=labels[name])
        if any(point.half_width is not None for point in points):
            low, high = zip(*(style.interval(point, scale) for point in points), strict=True)
            ax.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw how a study's variants converge.", draw, argv, "ablation_table2")


if __name__ == "__main__":
    run_main(main)
