"""Convergence of a study as data for a chart: a line per variant, and its 95 % interval from three seeds on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis import plot_convergence, style
from analysis.results import StudyResults
from analysis.stats import Spread


@dataclass(frozen=True)
class Line:
    """A variant's curve: mean and ends of the interval by step, None where nothing was measured."""

    label: str
    colour: int  # place in the palette
    dash: tuple[int, ...]  # empty: solid
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    steps: list[int]
    lines: list[Line]
    banded: bool  # whether any line has an interval

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script draws from."""
        return {
            "title": self.title,
            "steps": self.steps,
            "banded": self.banded,
            "lines": [vars(line) for line in self.lines],
        }


def panels(results: StudyResults) -> list[Panel]:
    """A chart per quantity that some network was evaluated by."""
    found = []
    for split, key, scale, title in plot_convergence.offered(results):
        curves = {cells[0].label: plot_convergence.curve(cells, split, key) for cells in results.variants().values()}
        if any(curves.values()):
            found.append(_panel(title, scale, curves))
    return found


def _panel(title: str, scale: float, curves: Mapping[str, Mapping[int, Spread]]) -> Panel:
    steps = sorted({step for curve in curves.values() for step in curve})
    lines = []
    for index, (label, curve) in enumerate(curves.items()):
        if not curve:
            continue
        points = [curve.get(step) for step in steps]
        ends = [style.interval(point, scale) if point and point.half_width is not None else None for point in points]
        lines.append(
            Line(
                label,
                index % len(style.PALETTE),
                style.on_and_off(index),
                [_rounded(scale * point.mean) if point else None for point in points],
                [_rounded(end[0]) if end else None for end in ends],
                [_rounded(end[1]) if end else None for end in ends],
            )
        )
    return Panel(title, steps, lines, any(value is not None for line in lines for value in line.low))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
