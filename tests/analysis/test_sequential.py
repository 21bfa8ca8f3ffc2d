"""Adding seeds until a comparison is decided: simulated studies show its errors, its power and what it saves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from analysis.boundaries import EXPONENT, boundaries
from analysis.sequential import Outcome, Rule, expected_seeds, follow, judge
from analysis.stats import holm, t_test_p
from fvar.errors import UserError

STUDIES, COMPARISONS = 2000, 5


def differences(
    effects: float | list[float], seeds: int, comparisons: int = COMPARISONS, studies: int = STUDIES, generator: int = 0
) -> NDArray[np.float64]:
    """(S, M, K) paired differences with an sd of 1, of variants that are all compared with one reference."""
    noise = np.random.default_rng(generator).standard_normal((studies, comparisons + 1, seeds)) / math.sqrt(2)
    drawn: NDArray[np.float64] = (
        noise[:, 1:] - noise[:, :1] + np.broadcast_to(np.asarray(effects), (comparisons,))[:, None]
    )
    return drawn


def fixed_power(drawn: NDArray[np.float64], seeds: int) -> float:
    """Share of differences that a paired t test with Holm finds when every variant has just as many seeds."""
    mean, sd = drawn[..., :seeds].mean(-1), drawn[..., :seeds].std(-1, ddof=1)
    ps = np.sort(2 * stdtr(seeds - 1, -np.abs(mean) / sd * math.sqrt(seeds)), 1)
    return float(np.cumprod(ps <= 0.05 / np.arange(ps.shape[1], 0, -1), 1).mean())


def seeds_of_equal_power(drawn: NDArray[np.float64], power: float) -> float:
    """The number of seeds, between whole ones, at which the fixed design has this power."""
    counts = range(3, drawn.shape[-1] + 1)
    return float(np.interp(power, [fixed_power(drawn, n) for n in counts], list(counts)))


def runs(outcome: Outcome) -> float:
    """Mean runs a study: every variant until it is decided, the reference until all are."""
    return float((outcome.n.sum(1) + outcome.n.max(1)).mean())


# ---------------------------------------------------------------------------------------------------------- boundaries


@pytest.mark.parametrize(("alpha", "most"), [(0.05, 20), (0.01, 12)])
def test_the_boundary_is_crossed_as_often_as_was_spent_at_every_look(alpha: float, most: int) -> None:
    drawn = np.random.default_rng(1).standard_normal((200_000, most))
    counts = np.arange(3, most + 1)
    sums, squares = drawn.cumsum(1)[:, 2:], (drawn**2).cumsum(1)[:, 2:]
    t = np.abs(sums) / np.sqrt(counts * (squares - sums**2 / counts) / (counts - 1))
    crossed = np.maximum.accumulate(t > np.array(boundaries(alpha, most)), axis=1).mean(0)
    spent = alpha * (counts / most) ** EXPONENT
    assert np.all(np.abs(crossed - spent) < 4 * np.sqrt(spent / len(drawn)))


def test_the_first_boundary_is_students_and_the_only_look_of_a_fixed_design_is_the_t_test() -> None:
    assert boundaries(0.05, 3) == pytest.approx([stdtrit(2, 0.975)])
    assert boundaries(0.05, 20)[0] == pytest.approx(stdtrit(2, 1 - 0.05 * (3 / 20) ** 2 / 2))


@settings(deadline=None, max_examples=4)
@given(st.integers(4, 30), st.integers(1, 8))
def test_more_alpha_lowers_every_boundary_as_holms_procedure_needs(most: int, share: int) -> None:
    less, more = boundaries(0.05 / (share + 1), most), boundaries(0.05 / share, most)
    assert all(low < high for low, high in zip(more, less, strict=True))


# -------------------------------------------------------------------------------------------------------------- errors


def test_two_thousand_studies_without_a_difference_give_at_most_five_percent_false_separated() -> None:
    outcome = follow(differences(0.0, 20), Rule(20))
    assert 0.02 < outcome.separated.any(1).mean() <= 0.05  # measured 0.0405
    assert not outcome.equivalent.any()


def test_independent_comparisons_and_a_margin_keep_the_rate_too() -> None:
    noise = np.random.default_rng(3).standard_normal((10_000, COMPARISONS, 20))
    outcome = follow(noise, Rule(20, margin=1.0))
    assert outcome.separated.any(1).mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 10_000)


def test_one_true_difference_does_not_raise_the_rate_for_the_others() -> None:
    outcome = follow(differences([3.0, 3.0, 0.0, 0.0, 0.0], 20), Rule(20))
    assert outcome.separated[:, :2].mean() > 0.99
    assert outcome.separated[:, 2:].any(1).mean() <= 0.05


def test_differences_as_large_as_the_margin_are_seldom_called_equivalent() -> None:
    outcome = follow(differences(0.8, 20), Rule(20, margin=0.8))
    assert outcome.equivalent.any(1).mean() <= 0.05


def test_looking_again_and_again_with_a_plain_t_test_is_wrong_several_times_as_often() -> None:
    """What the rule is for."""
    drawn = differences(0.0, 20, comparisons=1)
    looks = [fixed_power_each(drawn, seeds) for seeds in range(3, 21)]
    assert np.any(looks, axis=0).mean() > 0.15


def fixed_power_each(drawn: NDArray[np.float64], seeds: int) -> NDArray[np.bool_]:
    mean, sd = drawn[:, 0, :seeds].mean(-1), drawn[:, 0, :seeds].std(-1, ddof=1)
    found: NDArray[np.bool_] = 2 * stdtr(seeds - 1, -np.abs(mean) / sd * math.sqrt(seeds)) < 0.05
    return found


def test_skewed_and_heavy_tailed_seeds_keep_the_rate_near_five_percent() -> None:
    """Differences need not be quite normal: 2,000 studies of log-normal and of t(5) noise."""
    rng = np.random.default_rng(4)
    for noise in (rng.lognormal(0, 0.5, (STUDIES, 6, 20)), rng.standard_t(5, (STUDIES, 6, 20))):
        outcome = follow(noise[:, 1:] - noise[:, :1], Rule(20))
        assert outcome.separated.any(1).mean() <= 0.06


# --------------------------------------------------------------------------------------------------- power and savings


def test_one_comparison_of_one_sd_takes_thirty_percent_fewer_seeds_than_a_fixed_design_of_equal_power() -> None:
    outcome = follow(differences(1.0, 20, comparisons=1), Rule(20))
    power, seeds = outcome.separated.mean(), outcome.n.mean()
    fixed = seeds_of_equal_power(differences(1.0, 45, comparisons=1, studies=4000, generator=1), power)
    print(f"power {power:.3f}, {seeds:.1f} seeds instead of {fixed:.1f}: {1 - seeds / fixed:.0%} fewer runs")
    assert power > 0.95
    assert seeds < 0.7 * fixed


@pytest.mark.parametrize(("most", "saved"), [(20, 0.18), (24, 0.28)])
def test_five_comparisons_of_one_sd_save_less_at_twenty_seeds_and_thirty_percent_at_twenty_four(
    most: int, saved: float
) -> None:
    """The reference runs until the last comparison is decided, and power near 1 is what fixed designs pay for."""
    outcome = follow(differences(1.0, most), Rule(most))
    power = float(outcome.separated.mean())
    fixed = 6 * seeds_of_equal_power(differences(1.0, 45, studies=4000, generator=1), power)
    print(
        f"K {most}: power {power:.3f}, {runs(outcome):.1f} runs instead of {fixed:.1f}: {1 - runs(outcome) / fixed:.0%}"
    )
    assert power > 0.94
    assert runs(outcome) < (1 - saved) * fixed


def test_the_correction_for_their_number_is_what_five_comparisons_lose_and_cannot_do_without() -> None:
    """Each comparison by itself at 5 %: over 30 % saved at 20 seeds, and a false "separated" in a fifth of studies."""
    drawn, null = differences(1.0, 20), differences(0.0, 20)
    alone = [follow(drawn[:, [index]], Rule(20)) for index in range(COMPARISONS)]
    n = np.concatenate([outcome.n for outcome in alone], 1)
    power = float(np.mean([outcome.separated.mean() for outcome in alone]))
    fixed = 6 * seeds_of_equal_power(differences(1.0, 45, studies=4000, generator=1), power)
    assert (n.sum(1) + n.max(1)).mean() < 0.7 * fixed
    wrong = [follow(null[:, [index]], Rule(20)).separated for index in range(COMPARISONS)]
    assert np.concatenate(wrong, 1).any(1).mean() > 0.15


def test_different_differences_save_half_as_a_fixed_design_pays_for_the_smallest() -> None:
    effects = [1.0, 1.5, 2.0, 3.0, 4.0]
    outcome = follow(differences(effects, 20), Rule(20))
    power = float(outcome.separated.mean())
    fixed = 6 * seeds_of_equal_power(differences(effects, 45, studies=4000, generator=1), power)
    print(f"mixed: power {power:.3f}, {runs(outcome):.1f} runs instead of {fixed:.1f}: {1 - runs(outcome) / fixed:.0%}")
    assert runs(outcome) < 0.55 * fixed


def test_no_difference_is_shown_to_be_smaller_than_the_margin() -> None:
    outcome = follow(differences(0.0, 20), Rule(20, margin=1.0))
    print(f"equivalent {outcome.equivalent.mean():.3f} after {outcome.n.mean():.1f} seeds")
    assert outcome.equivalent.mean() > 0.8


def test_expected_seeds_falls_with_the_difference() -> None:
    found = [expected_seeds(5, Rule(20), effect) for effect in (0.0, 1.0, 2.0, 4.0)]
    assert found[0] > 19
    assert found == sorted(found, reverse=True)
    assert found[-1] < 6


# ------------------------------------------------------------------------------------------------------------ one study


def test_a_comparison_ends_at_the_look_that_decides_it_and_later_seeds_do_not_change_it() -> None:
    clear = [5.0, 5.1, 4.9, 5.05]  # t of 4 seeds over 100
    verdicts = judge({"clear": [*clear, -50.0, 80.0], "none": [0.3, -0.2, 0.1, -0.1]}, Rule(20))
    assert (verdicts["clear"].verdict, verdicts["clear"].n) == ("separated", 3)
    low, mean = verdicts["clear"].low, verdicts["clear"].mean
    assert low is not None
    assert mean == pytest.approx(5.0)
    assert low > 0
    assert (verdicts["none"].verdict, verdicts["none"].n) == ("undecided", 4)


def test_a_small_difference_ends_as_equivalent_within_a_margin_and_stays_undecided_without() -> None:
    small = [0.1, -0.05, 0.02, -0.08, 0.05, 0.0, -0.02, 0.03]
    assert judge({"a": small}, Rule(20, margin=2.0))["a"].verdict == "equivalent"
    assert judge({"a": small}, Rule(20))["a"].verdict == "undecided"


def test_a_failed_comparison_is_not_made_and_keeps_its_share_of_alpha() -> None:
    borderline = [1.0, 1.4, 0.8, 1.2, 0.9, 1.1]
    alone = judge({"a": borderline}, Rule(20))["a"]
    beside = judge({"a": borderline, "b": None}, Rule(20))
    assert beside["b"].verdict == "not made"
    assert beside["a"].n >= alone.n
    assert judge({"a": [1.0, 2.0]}, Rule(20))["a"].n == 0


def test_with_one_look_the_rule_is_the_t_test_with_holm() -> None:
    """Three seeds at most: the verdicts must be those of Holm's adjusted p of the paired t test."""
    drawn = differences([0.0, 3.0, 6.0, 12.0, 40.0], 3, studies=300)
    outcome = follow(drawn, Rule(3))
    for study in range(len(drawn)):
        ps = [t_test_p(values.mean(), values.std(ddof=1), 3) for values in drawn[study]]
        expected = [p is not None and p <= 0.05 for p in holm(ps)]
        assert list(outcome.separated[study]) == expected


def test_a_rule_that_can_decide_nothing_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^--max-seeds must be at least 3, [^\n]*got 2$"):
        Rule(2)
    with pytest.raises(UserError, match="margin must be a positive number, got 0"):
        Rule(20, margin=0.0)
