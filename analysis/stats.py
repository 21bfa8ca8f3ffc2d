"""Mean and spread over seeds, in one place, so that every table and figure means the same thing by "±"."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1 in the denominator) of `n` seeds; `sd` is None for a single seed."""

    mean: float
    sd: float | None
    n: int

    def text(self, digits: int, scale: float = 1.0) -> str:
        """`mean ± sd`, both times `scale` and rounded to `digits` decimals; the mean alone for one seed."""
        mean = f"{self.mean * scale:.{digits}f}"
        return mean if self.sd is None else f"{mean} ± {self.sd * scale:.{digits}f}"


def spread(values: Iterable[float | None]) -> Spread | None:
    """Summarise what was measured: None stands for "not measured" and is left out; None comes back if nothing is left.

    Raises `ValueError` for a non-finite value: it is a failure to report, never a number to average.
    """
    measured = [value for value in values if value is not None]
    if not all(map(math.isfinite, measured)):
        raise ValueError(f"cannot average non-finite values: {measured}")
    if not measured:
        return None
    sd = statistics.stdev(measured) if len(measured) > 1 else None
    return Spread(statistics.fmean(measured), sd, len(measured))
