"""The teacher's gate beside the Wiener gain, by frequency: what study `wiener` measured, as a figure and a table.

`python analysis/plot_gate.py [STUDY] [--preset smoke] [--results results]`
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import style
from analysis.render import pipe_row
from analysis.results import StudyResults
from analysis.stats import FEWEST, compare, spread
from fvar.errors import run_main
from fvar.machine import atomic

FILE = "gate.csv"
WIENER, GATE = style.PALETTE[0], style.PALETTE[1]
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a gate.csv, numbers as numbers; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {
                "run": row["run"],
                "seed": int(row["seed"]),
                "scale": int(row["scale"]),
                **{name: float(row[name]) for name in ("frequency", "gate", "wiener")},
            }
            for row in csv.DictReader(file)
        ]


def agreements(folder: Path) -> dict[int, float]:
    """By seed: the correlation of gate and Wiener gain over frequencies and scales, each scale's mean taken off."""
    rows = read(folder / FILE)
    return {seed: agreement([row for row in rows if row["seed"] == seed]) for seed in sorted({r["seed"] for r in rows})}


def agreement(rows: Sequence[Row]) -> float:
    """Of one teacher, in [-1, 1]; 0 where the gate is the same at all frequencies, as it then follows nothing."""
    pairs: list[tuple[float, float]] = []
    for scale in {row["scale"] for row in rows}:
        own = [row for row in rows if row["scale"] == scale]
        means = [statistics.fmean(row[name] for row in own) for name in ("gate", "wiener")]
        pairs += [(row["gate"] - means[0], row["wiener"] - means[1]) for row in own]
    gates, gains = zip(*pairs, strict=True)
    if max(map(abs, gates)) < 1e-12 or max(map(abs, gains)) < 1e-12:
        return 0.0
    return statistics.correlation(gates, gains)


def write(results: StudyResults) -> Path:
    """Write table.md: a line per scale and the agreement of the two curves. Raises `NothingToDraw` without rows."""
    path = results.folder / "table.md"
    atomic.write_text(path, markdown(results, _rows(results), agreements(results.folder)))
    return path


def markdown(results: StudyResults, rows: Sequence[Row], found: dict[int, float]) -> str:
    """What the gate does at each scale, over seeds, and whether it does what Eq. 12 would."""
    told = ", ".join(f"seed {seed}: {value:.2f}" for seed, value in found.items())
    lines = [
        f"# {results.title}",
        "",
        f"- Measured at preset `{results.preset}` on held-out images, by trained teachers of the full method.",
        "- Gate: opening for energy of a frequency; Wiener gain: detail over detail and alias, in the residual A_k.",
        f"- Correlation of the two over frequencies and scales, each scale's mean taken off: {told}.",
    ]
    over = compare(list(found.values()))
    if over.low is not None and over.high is not None:
        lines.append(f"- Over seeds {over.mean:.2f} [{over.low:.2f}, {over.high:.2f}] (95 %).")
    else:
        lines.append(f"- No interval below {FEWEST} seeds.")
    headings = ["Scale", "Gate, mean", "Gate, lowest to highest", "Wiener gain, lowest to highest"]
    lines += ["", pipe_row(headings), pipe_row(["---", "---:", "---:", "---:"])]
    for scale in sorted({row["scale"] for row in rows}):
        own = [row for row in rows if row["scale"] == scale]
        gates, gains = ([row[name] for row in own] for name in ("gate", "wiener"))
        span = [f"{min(values):.3g} to {max(values):.3g}" for values in (gates, gains)]
        lines.append(pipe_row([str(scale), f"{statistics.fmean(gates):.3g}", *span]))
    return "\n".join(lines) + "\n"


def draw(results: StudyResults) -> list[Path]:
    """Write gate.png into the study's folder. Raises `NothingToDraw` where no teacher was measured."""
    rows = _rows(results)
    scales = sorted({row["scale"] for row in rows})
    figure = style.new_figure(style.PAGE, 3.6)
    axes = figure.subplots(2, len(scales), sharex=True, sharey="row", squeeze=False)
    for column, scale in enumerate(scales):
        own = [row for row in rows if row["scale"] == scale]
        for ax, name, colour in ((axes[0, column], "wiener", WIENER), (axes[1, column], "gate", GATE)):
            xs = sorted({row["frequency"] for row in own})
            found = [spread(row[name] for row in own if row["frequency"] == x) for x in xs]
            means = [point.mean for point in found if point]
            halves = [point.half_width or 0.0 for point in found if point]
            ax.plot(xs, means, "-o", color=colour)
            low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
            ax.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        axes[0, column].set_title(f"scale {scale}")
    axes[0, 0].set_ylim(0, 1)
    axes[1, 0].set_ylim(0, 1.15 * max(row["gate"] for row in rows))  # from 0: a gate that hardly moves looks like one
    axes[0, 0].set_ylabel("Wiener gain\n$S_{xx} / (S_{xx} + S_{nn})$")
    axes[1, 0].set_ylabel("opening of the gate\nfor energy of a frequency")
    told = ", ".join(f"{value:.2f}" for value in agreements(results.folder).values())
    figure.supxlabel(f"frequency (cycles per px of the view)\ncorrelation of the two, seed by seed: {told}", fontsize=8)
    figure.suptitle(style.heading(results), x=0.01, ha="left")
    return style.save(figure, results.folder / "gate.png")


def _rows(results: StudyResults) -> list[Row]:
    if rows := read(results.folder / FILE):
        return rows
    raise style.NothingToDraw(
        f"no gate was measured yet; run `python -m studies.run wiener --preset {results.preset}` first"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw the gate beside the Wiener gain.", draw, argv, "wiener")


if __name__ == "__main__":
    run_main(main)
