"""What is measured of a cell: where each number is read, what it is called, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.results import CellResult, StudyResults
from fvar.errors import unknown
from fvar.plain import from_dict

ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


@dataclass(frozen=True)
class Metric:
    """A number of a cell. `{n}` in its name stands for how many samples it was measured on."""

    key: str
    name: str
    digits: int
    better: Literal["lower", "higher", ""] = ""
    scale: float = 1.0  # by which it is multiplied where it is shown
    source: Literal["scores", "heldout", "sampling", "relative"] = "scores"  # heldout: the last evaluation in training

    @property
    def short(self) -> str:
        """In a sentence."""
        return self.name.partition("@")[0]

    @property
    def heading(self) -> str:
        """Over a table's column."""
        return self.name + ARROWS[self.better]

    @property
    def axis(self) -> str:
        """Beside a figure's axis."""
        return f"{self.name} ({self.better} is better)" if self.better else self.name

    def of(self, cell: CellResult, peers: Sequence[CellResult] = ()) -> tuple[float | None, str]:
        """The cell's value, or None and the reason. What is relative to another cell finds that among `peers`."""
        if self.source == "heldout":
            value, reason = cell.heldout(self.key), "no held-out evaluation was recorded"
            if self is TEACHER and cell.has_teacher is False:
                reason = f"{cell.label} has no teacher"
        elif self.source == "sampling":
            value, reason = cell.sampling(self.key), "the samples were made before their speed was recorded"
        elif self.source == "relative":
            value, reason = _relative_time(cell, peers)
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
    Metric("cross_entropy", "Held-out CE", 3, "lower", source="heldout"),
    Metric("accuracy", "Held-out accuracy %", 2, "higher", 1e2, source="heldout"),
    Metric("is", "IS@{n}", 1, "higher"),
)
SFID = Metric("sfid", "sFID@{n}", 2, "lower")
BY_KEY = {metric.key: metric for metric in METRICS}
SAMPLED = ("fid", "kid")  # whose scores carry a sampling spread, and whose differences are printed of samples
FID_FROM = 10_000  # samples below which FID is biased by their number, and KID decides
TIMED = "var-d16"  # the variant whose sampling time is 1
# Of studies that vary the teacher: those with a parameter "teacher".
TEACHER = Metric("teacher/cross_entropy", "Teacher's held-out CE", 3, "lower", source="heldout")
MASKED = (  # of studies that generate a part of given images: those with a parameter "mask"
    Metric("masked_psnr", "PSNR dB in the mask", 2, "higher"),
    Metric("masked_lpips", "LPIPS", 4, "lower"),
    Metric("seam", "Step at the seam / real (1)", 2),
)
SIZES = (  # of studies whose variants differ in size: those with a parameter "depth"
    Metric("parameters", "Parameters M", 2, scale=1e-6, source="sampling"),
    Metric("steps", "Steps", 0, source="sampling"),
    Metric("relative_time", "Time (VAR-d16: 1)", 2, source="relative"),
)


def metrics_of(results: StudyResults) -> tuple[Metric, ...]:
    """The measured columns of a study: its own, or those of samples, sFID where there are published statistics."""
    if results.columns:
        return tuple(from_dict(Metric, column, "a column") for column in results.columns)
    params = {name for cell in results.cells for name in cell.params}
    shown = list(METRICS)
    if "teacher" in params:  # beside the student's
        shown.insert(shown.index(BY_KEY["cross_entropy"]) + 1, TEACHER)
    if any((config := cell.scores_config) and config.published for cell in results.cells):
        shown.append(SFID)
    if "mask" in params:
        shown += MASKED
    if "depth" in params:
        shown += SIZES
    return tuple(shown)


def compared(results: StudyResults) -> tuple[Metric, ...]:
    """Those by which variants are compared: not what only describes them."""
    return tuple(metric for metric in metrics_of(results) if metric not in (TEACHER, *SIZES))


def printed(results: StudyResults) -> tuple[Metric, ...]:
    """Those whose differences are printed, and which figures show; the others' differences are in table.csv."""
    return metrics_of(results) if results.columns else tuple(BY_KEY[key] for key in SAMPLED)


def decider(results: StudyResults) -> Metric:
    """The metric by which a study's variants are told apart: its first column, or what its samples are enough for."""
    if results.columns:
        return metrics_of(results)[0]
    counts = [score.get("count") or 0 for cell in results.cells for score in cell.scores.values()]
    return deciding(max(counts, default=0))


def named(results: StudyResults, key: str) -> Metric:
    """A metric of a study by its key. Raises `UserError` for another."""
    known = {metric.key: metric for metric in metrics_of(results)} if results.columns else BY_KEY
    if key not in known:
        raise unknown("metric", key, known)
    return known[key]


def deciding(samples: int) -> Metric:
    """The metric by which variants are told apart: FID, or KID where there are too few samples for it."""
    return BY_KEY["fid" if samples >= FID_FROM else "kid"]


def _relative_time(cell: CellResult, peers: Sequence[CellResult]) -> tuple[float | None, str]:
    """Seconds per sample over those of the variant `TIMED` at the same seed, or None and the reason."""
    own = cell.sampling("seconds_per_image")
    timed = next((peer for peer in peers if (peer.variant, peer.seed) == (TIMED, cell.seed)), None)
    theirs = timed.sampling("seconds_per_image") if timed else None
    if own is None or timed is None or theirs is None:
        return None, f"the sampling of {cell.label if own is None else TIMED} was not timed in this study"
    if cell.sampled_on != timed.sampled_on:
        return None, f"{cell.label} was sampled on {cell.sampled_on}, {TIMED} on {timed.sampled_on}"
    return own / theirs, ""
