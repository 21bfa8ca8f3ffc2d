"""When to stop adding seeds: paired differences looked at after 3, 4, 5, ... seeds without inflating the errors.

A comparison ends *separated* once its interval leaves out 0, or *equivalent* once its interval lies within the margin.
The interval after k seeds is a repeated confidence interval (Jennison and Turnbull 1989),

    mean +- c_k sd / sqrt(k),

whose c_k are such that all of them together cover the true difference with probability 1 - alpha: alpha spending, exact
for t statistics of few seeds (`analysis.boundaries`). That a comparison can end as equivalent only lowers the rate of
false "separated".

Several comparisons share alpha by Holm's procedure, which holds at every look (Maurer and Bretz 2013): with m of them
each has alpha / m, and what a separated one leaves goes to the others; likewise, and separately, for "equivalent".
Each of the two kinds of claim is false anywhere in a study with probability alpha at most, however the comparisons
depend on each other, where differences are normal and K was set before the first look.

What the spending's exponent 2 was chosen by: 4,000 simulated studies with true differences of 1 sd of the paired
difference, K = 20; "fixed" is the number of seeds at which a fixed paired t test with Holm has the same power:

    exponent      1 comparison: power, mean seeds, fixed, saved     5 comparisons: power, mean seeds, fixed, saved runs
    1.5           0.976  11.3  18.1   38 %                          0.938  13.4  16.7   18 %
    2             0.976  11.6  18.2   36 %                          0.953  13.4  17.7   22 %
    3             0.978  12.2  18.5   34 %                          0.963  13.8  18.4   23 %
    O'Brien-Fl.   0.980  12.1  18.8   36 %                          0.968  14.2  18.8   23 %

With K = 24 five comparisons have power 0.987 and save 32 % of the runs; differences of 1, 1.5, 2, 3 and 4 sd save 52 %
at K = 20, as a fixed design pays for the smallest. `tests/analysis/test_sequential.py` repeats it.

Five differences of 1 sd at K = 20 save 20 %, not the 30 % that were aimed at, and no admissible change brings them:

    change                                                       saved runs       false "separated"
    none (exponent 2)                                            20 %             4.5 %
    another exponent, 1.5 to 4; one for each share of alpha      16 to 22 %       4.5 %
    first look after 5, or 8 seeds                               20 to 22 %       4.4 %
    step-up (Hochberg 1988) in place of Holm                     25 to 27 %       4.5 %
    closed test, 1/4 or 1/2 of alpha for the sum of differences  20, 26 %         3.9, 2.8 %
    the same with 3/4                                            30 %             2.3 %
    no correction for the number of comparisons                  36 to 39 %       19 %

Holm's correction is the difference: early on a comparison meets alpha / 5, while a fixed design, which rejects all at
once, tests the last at alpha. Decided variants are dropped already; the reference, a sixth of the runs, stays to the
end. Step-up is proven for one look at positively dependent statistics, not for repeated looks, and saves 22 to 23 %
against a fixed design that uses it as well. The closed test (Marcus, Peritz and Gabriel 1976; for repeated looks Tang
and Geller 1999) is valid: a comparison is separated once every set of comparisons it belongs to is, each set by
Bonferroni over its members or by a t test of their summed differences. With 3/4 of alpha for the sum it has the 30 %
where all differences are equal, and pays for it everywhere else: of differences that alternate in sign it saves 1 %
instead of 22 %, and where three of five are real it finds 77 % of them instead of 91 %. A study does not know
beforehand which it is, so Holm stays. Whoever wants the 30 % sets K = 24: the mean number of seeds hardly rises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from analysis.boundaries import boundaries
from analysis.stats import ALPHA, FEWEST, require_margin
from fvar.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


Verdict = Literal["undecided", "separated", "equivalent", "not made"]


@dataclass(frozen=True)
class Rule:
    """How long to look: at most `max_seeds` seeds; differences below `margin` count as none (None: nothing does).

    Raises `UserError` for a rule by which nothing could be decided.
    """

    max_seeds: int = 20
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.max_seeds < FEWEST:
            raise UserError(f"--max-seeds must be at least {FEWEST}, the fewest with an interval, got {self.max_seeds}")
        if self.margin is not None:
            require_margin(self.margin)


@dataclass(frozen=True)
class Ruling:
    """One comparison as far as it was followed: `n` seeds, the repeated interval there, and the verdict.

    All numbers are None, and `n` 0, where the comparison was not made or has too few seeds.
    """

    verdict: Verdict
    n: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None


def judge(comparisons: Mapping[str, Sequence[float] | None], rule: Rule) -> dict[str, Ruling]:
    """Follow a study's comparisons look by look, from their paired differences in the order of the seeds.

    Parameters
    ----------
    comparisons
        By name; None for a comparison that cannot be made as a run of it has failed. It still has its share of alpha.
    """
    import numpy as np

    width = max([rule.max_seeds, *(len(values) for values in comparisons.values() if values is not None)])
    padded = np.full((1, len(comparisons), width), np.nan)
    for index, values in enumerate(comparisons.values()):
        padded[0, index, : len(values or ())] = values or ()
    outcome = follow(padded[..., : rule.max_seeds], rule)
    return {
        name: Ruling("not made") if values is None else outcome.ruling(index)
        for index, (name, values) in enumerate(comparisons.items())
    }


@dataclass(frozen=True)
class Outcome:
    """Where each comparison of each study ended; arrays (S, M) of S studies with M comparisons."""

    separated: NDArray[np.bool_]
    equivalent: NDArray[np.bool_]
    n: NDArray[np.int64]  # seeds of the last look
    mean: Array  # there; NaN before the first look
    half: Array  # half-width of the repeated interval there

    def ruling(self, index: int) -> Ruling:
        """The first study's comparison of this index."""
        mean, half = float(self.mean[0, index]), float(self.half[0, index])
        if math.isnan(mean):
            return Ruling("undecided")
        separated, equivalent = self.separated[0, index], self.equivalent[0, index]
        verdict: Verdict = "separated" if separated else "equivalent" if equivalent else "undecided"
        return Ruling(verdict, int(self.n[0, index]), mean, mean - half, mean + half)


def follow(differences: Array, rule: Rule) -> Outcome:
    """The rule, for many studies at once.

    Parameters
    ----------
    differences
        (S, M, K) paired differences of S studies, M comparisons and K = `rule.max_seeds` seeds; NaN from the first seed
        that was not run.
    """
    import numpy as np

    studies, count, _ = differences.shape
    critical = np.array([boundaries(ALPHA / share, rule.max_seeds) for share in range(1, count + 1)])  # (M, looks)
    separated = np.zeros((studies, count), bool)
    equivalent, n = separated.copy(), np.zeros((studies, count), np.int64)
    final_mean, final_half = np.full((2, studies, count), np.nan)
    for look in range(critical.shape[1]):
        seeds = look + FEWEST
        seen = differences[..., :seeds]
        mean = seen.mean(-1)
        error = seen.std(-1, ddof=1) / math.sqrt(seeds)
        going = ~(separated | equivalent) & ~np.isnan(mean)
        if not going.any():
            break
        for _ in range(count):  # what one comparison leaves may separate the next
            factor = critical[count - 1 - separated.sum(1).clip(max=count - 1), look][:, None]
            half = factor * error
            new = going & ~separated & (np.abs(mean) > half)
            final_half[new] = half[new]
            if not new.any():
                break
            separated |= new
        factor = critical[count - 1 - equivalent.sum(1).clip(max=count - 1), look][:, None]
        if rule.margin is not None:
            new = going & ~separated & (np.abs(mean) + factor * error < rule.margin)
            equivalent |= new
            final_half[new] = (factor * error)[new]
        still = going & ~separated & ~equivalent
        final_half[still] = half[still]
        final_mean[going], n[going] = mean[going], seeds
    return Outcome(separated, equivalent, n, final_mean, final_half)


def expected_seeds(comparisons: int, rule: Rule, effect: float, studies: int = 500) -> float:
    """Mean seeds a comparison takes where every true difference is `effect` sd of the paired difference; simulated."""
    import numpy as np

    noise = np.random.default_rng(0).standard_normal((studies, comparisons + 1, rule.max_seeds)) / math.sqrt(2)
    return float(follow(noise[:, 1:] - noise[:, :1] + effect, rule).n.mean())  # all share the reference's runs
