"""Intervals and tests over seeds, against numbers worked out by hand, scipy, and what must hold for all inputs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from analysis import stats
from fvar.errors import UserError

values = st.lists(st.floats(-1e3, 1e3).filter(lambda v: v == 0 or abs(v) > 1e-3), min_size=3, max_size=9)
probabilities = st.lists(st.none() | st.floats(0, 1), max_size=8)


def test_interval_of_three_seeds_is_the_one_worked_out_by_hand() -> None:
    summary = stats.spread([10.0, 12.0, 14.0])  # sd 2; t(0.975, 2) = 4.3027, from any printed table
    assert summary is not None
    assert summary.half_width == pytest.approx(4.3027 * 2 / math.sqrt(3), rel=1e-4)
    assert summary.text(2) == "12.00 ± 4.97"


def test_fewer_than_three_seeds_have_a_mean_but_no_interval() -> None:
    two = stats.spread([1.0, 2.0])
    assert two is not None
    assert two.half_width is None
    assert two.text(1) == "1.5"
    assert stats.compare([1.0, 2.0]) == stats.Difference(1.5, None, None, None, None, 2)


@given(values)
def test_paired_difference_is_scipys_paired_t_test(differences: list[float]) -> None:
    first = np.array(differences) + 7.0
    second = np.full(len(differences), 7.0)
    found = stats.compare(differences)
    if np.std(differences) < 1e-9:
        assert found.p == (1.0 if found.mean == 0 else pytest.approx(0.0, abs=1e-6))
        return
    theirs = scipy.stats.ttest_rel(first, second)
    low, high = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-5, abs=1e-9)


@given(values)
def test_interval_leaves_out_zero_exactly_where_p_is_below_five_percent(differences: list[float]) -> None:
    found = stats.compare(differences)
    assert found.low is not None
    assert found.high is not None
    assert found.p is not None
    if abs(found.p - 0.05) > 1e-6 and found.low != found.high:
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


@given(st.lists(st.integers(-100, 100), min_size=6, max_size=8))
def test_sign_flip_p_counts_all_sign_flips_as_scipy_does(differences: list[int]) -> None:
    flips = itertools.product((1, -1), repeat=len(differences))
    sizes = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips]
    assert stats.sign_flip_p(differences) == np.mean([size >= abs(sum(differences)) for size in sizes])
    theirs = scipy.stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=math.inf, vectorized=False
    )
    assert stats.sign_flip_p(differences) == pytest.approx(theirs.pvalue)


def test_six_seeds_of_one_sign_give_two_of_sixty_four() -> None:
    assert stats.sign_flip_p([1, 2, 3, 4, 5, 6]) == 2 / 64
    assert stats.compare([1, 2, 3, 4, 5, 6]).exact == 2 / 64
    assert stats.compare([1, 2, 3, 4, 5]).exact is None  # 2 / 32 says nothing at 5 %


def test_holm_is_the_one_worked_out_by_hand() -> None:
    # sorted: 0.01 x 4 = 0.04; 0.013 x 3 = 0.039, raised to 0.04; 0.03 x 2 = 0.06; 0.2 x 1
    assert stats.holm([0.2, 0.01, 0.03, 0.013]) == pytest.approx([0.2, 0.04, 0.06, 0.04])


@given(probabilities)
def test_holm_keeps_order_lies_between_p_and_bonferroni_and_counts_what_was_not_made(ps: list[float | None]) -> None:
    adjusted = stats.holm(ps)
    assert [p is None for p in adjusted] == [p is None for p in ps]
    made = [(p, q) for p, q in zip(ps, adjusted, strict=True) if p is not None and q is not None]
    assert all(p <= q <= min(1.0, len(ps) * p) + 1e-12 for p, q in made)
    assert [q for _, q in sorted(made)] == sorted(q for _, q in made)
    if made:  # the smallest pays for every comparison of the family
        assert min(made)[1] == pytest.approx(min(1.0, len(ps) * min(made)[0]))


@given(values, st.floats(0.1, 100))
def test_equivalence_is_shown_exactly_where_the_ninety_percent_interval_lies_within_the_margin(
    differences: list[float], margin: float
) -> None:
    p, summary = stats.equivalence_p(differences, margin), stats.spread(differences)
    assert p is not None
    assert summary is not None
    assert summary.sd is not None
    half = stats.t_quantile(0.90, summary.n - 1) * summary.sd / math.sqrt(summary.n)
    within = margin - (abs(summary.mean) + half)
    if abs(within) > 1e-6:
        assert (p < 0.05) == (within > 0)
    if summary.sd > 1e-3:
        upper = scipy.stats.ttest_1samp(differences, margin, alternative="less").pvalue
        lower = scipy.stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
        assert p == pytest.approx(max(upper, lower), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_that_is_not_positive_is_refused_in_one_line(margin: float) -> None:
    with pytest.raises(UserError, match=r"^the margin must be a positive number, got [^\n]*$"):
        stats.equivalence_p([1.0, 2.0, 3.0], margin)


def test_seeds_are_paired_by_number_and_refused_where_they_differ() -> None:
    assert stats.pairs({1: 5.0, 0: 3.0}, {0: 1.0, 1: 2.0}, ("a", "b")) == [2.0, 3.0]
    with pytest.raises(UserError, match=r"^full has seeds 0, 1 but gaussian has seeds 0, 2; run both with [^\n]*$"):
        stats.pairs({0: 1.0, 1: 2.0}, {0: 1.0, 2: 2.0}, ("full", "gaussian"))


def test_equal_differences_have_no_width_and_no_doubt() -> None:
    assert stats.compare([0.0, 0.0, 0.0]).p == 1.0
    assert stats.compare([2.0, 2.0, 2.0]) == stats.Difference(2.0, 2.0, 2.0, 0.0, None, 3)


@pytest.mark.parametrize("n", [6, 7, 9, 15])
def test_the_interval_of_a_median_covers_it_in_ninety_five_per_cent_whatever_the_distribution(n: int) -> None:
    drawn = np.random.default_rng(0).lognormal(0, 1, (4000, n))  # its median is 1
    spans = [stats.median_interval(list(values)) for values in drawn]
    covered = np.mean([span is not None and span[0] <= 1 <= span[1] for span in spans])
    assert covered >= 0.95 - 2 * 0.0035
    assert stats.median_interval([1.0] * 5) is None
