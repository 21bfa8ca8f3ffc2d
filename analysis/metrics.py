"""What is measured of a cell: where each number is read, what it is called, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from analysis.results import CellResult

ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


@dataclass(frozen=True)
class Metric:
    """A number of a cell. `{n}` in its name stands for how many samples it was measured on."""

    key: str
    name: str
    digits: int
    better: Literal["lower", "higher", ""] = ""
    scale: float = 1.0  # by which it is multiplied where it is shown
    heldout: bool = False  # read from the network's last held-out evaluation, not from scores.json

    @property
    def heading(self) -> str:
        """Over a table's column."""
        return self.name + ARROWS[self.better]

    @property
    def axis(self) -> str:
        """Beside a figure's axis."""
        return f"{self.name} ({self.better} is better)" if self.better else self.name

    def of(self, cell: CellResult) -> tuple[float | None, str]:
        """The cell's value, or None and the reason."""
        if self.heldout:
            value, reason = cell.heldout(self.key), "no held-out evaluation was recorded"
        else:
            found = cell.scores.get(self.key, {})
            value, reason = found.get("value"), str(found.get("reason") or "not scored")
        if value is not None and not math.isfinite(value):
            value, reason = None, f"{cell.name} gave {value}"
        return value, "" if value is not None else reason


METRICS = (
    Metric("fid", "FID@{n}", 2, "lower"),
    Metric("kid", "KID@{n} ×10³", 2, "lower", 1e3),
    Metric("precision", "Precision", 3, "higher"),
    Metric("recall", "Recall", 3, "higher"),
    Metric("spectral_distance", "Spectral distance dB", 2, "lower"),
    Metric("top_octave", "Top octave / real (1)", 2),
    Metric("cross_entropy", "Held-out CE", 3, "lower", heldout=True),
    Metric("accuracy", "Held-out accuracy %", 2, "higher", 1e2, heldout=True),
    Metric("is", "IS@{n}", 1, "higher"),
)
