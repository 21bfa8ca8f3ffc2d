"""Means, intervals and comparisons over seeds, in one place: every table and figure means the same thing by "±" and p.

Seeds are paired: the same seed is the same data order and the same sampling noise in every variant, so two variants
are compared by their differences seed by seed. Intervals and p assume that these differences are normal; from
`EXACT_FROM` seeds on the exact sign-flip p, which assumes symmetry only, stands beside them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fvar.errors import UserError

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # largest p of a difference that is called separated
FEWEST = 3  # seeds below which nothing is said about a spread
EXACT_FROM = 6  # seeds from which a sign-flip p can be below 0.05: its smallest value is 2 / 2^n
MOST_EXACT = 20  # seeds up to which all 2^n sign flips are counted


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1 in the denominator) of `n` seeds; `sd` is None for a single seed."""

    mean: float
    sd: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of the mean, t(n - 1) sd / sqrt(n) (Student 1908); None below `FEWEST` seeds."""
        if self.sd is None or self.n < FEWEST:
            return None
        return t_quantile(LEVEL, self.n - 1) * self.sd / math.sqrt(self.n)

    def text(self, digits: int, scale: float = 1.0) -> str:
        """`mean ± half_width`, both times `scale` and rounded to `digits` decimals; the mean alone without interval."""
        mean, half = f"{self.mean * scale:.{digits}f}", self.half_width
        return mean if half is None else f"{mean} ± {half * scale:.{digits}f}"


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


def t_quantile(level: float, degrees: int) -> float:
    """The t beyond which, on both sides together, Student's distribution leaves 1 - `level`."""
    from scipy.special import stdtrit  # here and below: scipy takes a third of a second to import

    return float(stdtrit(degrees, (1 + level) / 2))


@dataclass(frozen=True)
class Difference:
    """A paired difference over `n` seeds: its mean, 95 % interval and p against "no difference".

    `low`, `high` and `p` are None below `FEWEST` seeds, `exact` (the sign-flip p) below `EXACT_FROM`.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    exact: float | None
    n: int


def pairs(first: Mapping[int, float], second: Mapping[int, float], names: tuple[str, str]) -> list[float]:
    """`first` minus `second`, seed by seed, in the order of the seeds.

    Raises `UserError` where the seeds differ: a comparison on some of them would pass for the whole.
    """
    if first.keys() != second.keys():
        seeds = [", ".join(map(str, sorted(side))) or "none" for side in (first, second)]
        raise UserError(
            f"{names[0]} has seeds {seeds[0]} but {names[1]} has seeds {seeds[1]}; "
            "run both with the same --seeds, as only equal seeds are paired"
        )
    return [first[seed] - second[seed] for seed in sorted(first)]


def compare(differences: Sequence[float]) -> Difference:
    """Mean, interval and p of paired differences by the paired t test.

    Differences that are all alike have an interval of no width, and p = 0, or 1 where they are all zero.
    """
    summary = spread(differences)
    if summary is None:
        raise ValueError("no differences to compare")
    half = summary.half_width
    if half is None:
        return Difference(summary.mean, None, None, None, None, summary.n)
    exact = sign_flip_p(differences) if EXACT_FROM <= summary.n <= MOST_EXACT else None
    p = t_test_p(summary.mean, summary.sd or 0.0, summary.n)
    return Difference(summary.mean, summary.mean - half, summary.mean + half, p, exact, summary.n)


def t_test_p(mean: float, sd: float, n: int) -> float:
    """Two-sided p of the t test of "the mean is 0"."""
    from scipy.special import stdtr

    if sd == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(n - 1, -abs(mean) / sd * math.sqrt(n)))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Exact two-sided p of the sign-flip permutation test (Fisher 1935).

    The share of all 2^n ways to swap the two variants, seed by seed, whose mean difference is at least as large.
    """
    import numpy as np

    sums = np.zeros(1)
    for value in differences[1:]:  # the first sign may stay: turning all signs changes no size
        sums = np.concatenate([sums + value, sums - value])
    observed = abs(sum(differences))
    tolerance = 1e-9 * sum(map(abs, differences))  # sums of the same numbers in another order
    return float(np.mean(np.abs(sums + differences[0]) >= observed - tolerance))


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Order statistics that enclose the median with a probability of 95 % at least; None for fewer than 6 values.

    The number of values below the median is binomial (Thompson 1936). Nothing is assumed of the distribution, which for
    times has a long tail.
    """
    n, ordered = len(values), sorted(values)
    below = 0.0
    for rank in range(n // 2):
        below += math.comb(n, rank) / 2**n
        if 2 * below > 1 - LEVEL:
            return (ordered[rank - 1], ordered[n - rank]) if rank else None
    return None


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p (Holm 1979): the family of claims "adjusted p <= 0.05" holds a false one with 5 % at most.

    None, a comparison that was not made, stays None and still counts, so that no p falls because a run has failed.
    """
    adjusted: list[float | None] = [None] * len(ps)
    made = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    largest = 0.0
    for rank, (p, index) in enumerate(made):
        largest = max(largest, min(1.0, (len(ps) - rank) * p))
        adjusted[index] = largest
    return adjusted


def equivalence_p(differences: Sequence[float], margin: float) -> float | None:
    """p of "the difference is at least as large as `margin`" by two one-sided t tests (Schuirmann 1987).

    Small p shows that the variants differ by less than the margin. None below `FEWEST` seeds. Raises `UserError` for a
    margin that is not positive.
    """
    from scipy.special import stdtr

    require_margin(margin)
    summary = spread(differences)
    if summary is None or summary.sd is None or summary.n < FEWEST:
        return None
    room = margin - abs(summary.mean)  # to the nearer of the two margins, whose test has the larger p
    if summary.sd == 0:
        return 0.0 if room > 0 else 1.0
    return float(stdtr(summary.n - 1, -room / summary.sd * math.sqrt(summary.n)))


def require_margin(margin: float) -> None:
    """Raises `UserError` for a margin within which nothing can lie."""
    if not (margin > 0 and math.isfinite(margin)):
        raise UserError(f"the margin must be a positive number, got {margin:g}; differences below it count as none")
