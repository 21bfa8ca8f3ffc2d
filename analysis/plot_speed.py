"""How fast the deployment networks sample, from the stages of study `speed`: a table, and curves by depth and batch.

    python analysis/plot_speed.py [STUDY] [--preset smoke] [--results results]

Numbers are medians over the rounds of all seeds, with the quartiles as their spread.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import style
from analysis.render import pipe_row
from analysis.results import StudyResults
from fvar.config import SpeedConfig
from fvar.errors import run_main
from fvar.machine import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NETWORKS = {"var": "VAR = FVAR deployed", "mvar": "M-VAR"}
COLOURS = {"var": style.PALETTE[1], "mvar": style.PALETTE[2]}


@dataclass(frozen=True)
class Timing:
    """One network at one depth and batch: seconds per batch, a number per round."""

    variant: str
    label: str
    depth: int
    mixer: str
    batch: int
    seconds: tuple[float, ...]  # empty where it could not be measured
    reason: str = ""

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Of the seconds per batch; the middle one is the median."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0], self.seconds[0]
        low, middle, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, middle, high

    @property
    def rate(self) -> float:
        """Images per second, by the median."""
        return self.batch / self.quartiles[1]


def timings(results: StudyResults) -> list[Timing]:
    """Everything that was timed, seeds together, in the study's order. Raises `NothingToDraw` where nothing was."""
    rounds: dict[tuple[str, str, int, str, int], list[float]] = {}
    reasons: dict[tuple[str, str, int, str, int], str] = {}
    for cell in results.cells:
        if cell.state[0] != "done" or "speed" not in cell.chain:
            continue
        for row in json.loads((cell.chain["speed"].path / "speed.json").read_text())["rows"]:
            key = (cell.variant, cell.label, cell.params["depth"], row["mixer"], row["batch"])
            rounds.setdefault(key, []).extend(row["seconds"])
            reasons[key] = reasons.get(key) or row["reason"]
    if not rounds:
        raise style.NothingToDraw(
            f"no speed was measured yet; run `python -m studies.run speed --preset {results.preset}`"
        )
    return [Timing(*key, tuple(seconds), reasons[key]) for key, seconds in rounds.items()]


def ratios(results: StudyResults) -> Mapping[str, list[float]]:
    """M-VAR's time over VAR's by "d16, batch 8": round by round, in which both took turns."""
    found = {(timing.variant, timing.batch, timing.mixer): timing.seconds for timing in timings(results)}
    return {
        f"{variant}, batch {batch}": [theirs / ours for theirs, ours in zip(seconds, own, strict=True)]
        for (variant, batch, mixer), seconds in found.items()
        if mixer == "mvar" and seconds and len(own := found.get((variant, batch, "var"), ())) == len(seconds)
    }


def machines(results: StudyResults) -> list[str]:
    """What timed the stages: device, threads, precision; one line for each that differs."""
    told: dict[str, None] = {}
    for cell in results.cells:
        run = cell.chain.get("speed")
        if run is None or not run.done:
            continue
        attempts = run.attempts()
        ran = "an unknown device"
        if attempts:
            threads = attempts[-1]["threads"]
            ran = f"{attempts[-1]['device']}, {threads} thread{'s' * (threads > 1)}"
        precision = json.loads((run.path / "speed.json").read_text())["precision"]
        told[f"{ran}, {precision}"] = None
    return list(told)


def write(results: StudyResults) -> list[Path]:
    """Write table.md and table.csv. Raises `NothingToDraw` where no cell is done yet."""
    found = timings(results)
    texts = {"table.md": markdown(results, found), "table.csv": _csv(found)}
    for name, text in texts.items():
        atomic.write_text(results.folder / name, text)
    return [results.folder / name for name in texts]


def markdown(results: StudyResults, found: Sequence[Timing]) -> str:
    """Medians with quartiles, and what they were measured with."""
    configs = [cell.chain["speed"].config_as(SpeedConfig) for cell in results.cells if "speed" in cell.chain]
    counts = sorted({len(timing.seconds) for timing in found if timing.seconds})
    lines = [
        f"# {results.title}",
        "",
        f"- Measured at preset `{results.preset}` on: {'; '.join(machines(results))}.",
        f"- Medians over {' or '.join(map(str, counts))} rounds, quartiles in brackets, after {configs[0].warmup} of "
        "warm-up; within a round the networks took turns.",
        "- From classes to images in memory, decoder and guidance included; untrained weights, which take as long. "
        "FVAR deploys VAR's network: one row for both.",
        *(f"- {timing.label}, {NETWORKS[timing.mixer]}: {timing.reason}." for timing in found if timing.reason),
        "",
        pipe_row(["Depth", "Network", "Batch", "Latency s", "Images/s"]),
        pipe_row(["---", "---", "---:", "---:", "---:"]),
    ]
    for timing in found:
        row = [timing.label, NETWORKS[timing.mixer], str(timing.batch)]
        if timing.seconds:
            low, middle, high = timing.quartiles
            row += [f"{middle:.3g} [{low:.3g}, {high:.3g}]", f"{timing.rate:.3g}"]
        lines.append(pipe_row([*row, *[""] * (5 - len(row))]))
    return "\n".join(lines) + "\n"


def _csv(found: Sequence[Timing]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["variant", "depth", "network", "batch", "rounds", "low", "median", "high", "images_per_second"])
    for timing in found:
        numbers = (*timing.quartiles, timing.rate) if timing.seconds else ("", "", "", "")
        writer.writerow([timing.variant, timing.depth, timing.mixer, timing.batch, len(timing.seconds), *numbers])
    return buffer.getvalue()


def draw(results: StudyResults) -> list[Path]:
    """Write speed.png into the study's folder. Raises `NothingToDraw` where no cell is done yet."""
    found = [timing for timing in timings(results) if timing.seconds]
    figure = style.new_figure(style.PAGE, 4.2)
    by_batch, by_depth = figure.subplots(1, 2)
    depths = list(dict.fromkeys(timing.depth for timing in found))
    for mixer, label in NETWORKS.items():
        own = [timing for timing in found if timing.mixer == mixer]
        for depth, dash in zip(depths, style.DASHES[1:], strict=False):
            points = [timing for timing in own if timing.depth == depth]
            if points:
                name = f"{label}, {points[0].label}"
                by_batch.plot(
                    [p.batch for p in points],
                    [p.rate for p in points],
                    dash,
                    marker="o",
                    label=name,
                    color=COLOURS[mixer],
                )
        _latency(by_depth, [timing for timing in own if timing.batch == min(t.batch for t in own)], label, mixer)
    by_batch.set_xscale("log", base=2)
    batches = sorted({timing.batch for timing in found})
    by_batch.set_xticks(batches, [str(batch) for batch in batches])
    by_batch.minorticks_off()
    by_batch.set_xlabel("images at once")
    by_batch.set_title("images per second")
    by_batch.set_ylim(bottom=0)
    figure.legend(*by_batch.get_legend_handles_labels(), loc="outside lower center", ncols=len(NETWORKS))
    by_depth.set_xticks(depths, [str(depth) for depth in depths])
    by_depth.set_xlabel("depth")
    by_depth.set_title(f"latency of {min(batches)} image{'s' * (min(batches) > 1)} (s), median and quartiles")
    by_depth.set_ylim(bottom=0)
    by_depth.legend()
    figure.suptitle(f"{style.heading(results)}\n{'; '.join(machines(results))}", x=0.01, ha="left")
    return style.save(figure, results.folder / "speed.png")


def _latency(ax: Axes, points: Sequence[Timing], label: str, mixer: str) -> None:
    if not points:
        return
    quartiles = [point.quartiles for point in points]
    middles = [middle for _, middle, _ in quartiles]
    spread = [[middle - low for low, middle, _ in quartiles], [high - middle for _, middle, high in quartiles]]
    xs = [point.depth for point in points]
    ax.errorbar(xs, middles, spread, marker="o", capsize=3, color=COLOURS[mixer], label=label)


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw how fast the networks sample.", draw, argv, "speed")


if __name__ == "__main__":
    run_main(main)
