"""FID, KID, precision and recall of features whose answer is known."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from fvar.errors import UserError
from fvar.metrics.compare import PRC_BLOCK, Score, precision_recall, score
from fvar.metrics.features import Extractor
from fvar.metrics.frechet import Statistics, fid, fid_infinity, fid_spread, statistics_of
from tests.metrics.scored import number

NETWORK = Extractor("toy", torch.nn.Identity(), 8, None, "no head")


def normal(count: int, width: int = 8, seed: int = 0, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale + mean


def theirs(first: Tensor, second: Tensor) -> float:
    statistics = [fid_features_to_statistics(features) for features in (first, second)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])


def test_fid_of_gaussians_is_their_frechet_distance() -> None:
    """N(0, 1) against N(m, s^2) in D dimensions: D m^2 + D (s - 1)^2."""
    found = fid(normal(200_000), normal(200_000, seed=1, mean=0.5, scale=2.0))
    assert found == pytest.approx(8 * 0.25 + 8 * 1.0, rel=0.01)


@pytest.mark.parametrize(("n", "m"), [(40, 300), (300, 40), (40, 50), (300, 301)])
def test_fid_is_torch_fidelitys_also_with_fewer_images_than_features(n: int, m: int) -> None:
    first, second = normal(n, 64), normal(m, 64, seed=1, mean=0.3)
    assert fid(first, second) == pytest.approx(theirs(first, second), rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 9))
def test_fid_is_symmetric_not_negative_and_zero_of_a_set_with_itself(n: int, m: int, seed: int) -> None:
    first, second = normal(n, 16, seed), normal(m, 16, seed + 10)
    assert fid(first, second) == pytest.approx(fid(second, first), abs=1e-6)
    assert fid(first, second) > -1e-6
    assert fid(first, first) == pytest.approx(0, abs=1e-6)
    assert fid(first, first.flip(0)) == pytest.approx(0, abs=1e-6)


def test_statistics_give_the_fid_of_the_features_they_come_from() -> None:
    generated, real = normal(300), normal(400, seed=1, mean=0.2)
    scores = score(generated, statistics_of(real), NETWORK)
    assert scores["fid"].value == pytest.approx(fid(generated, real), rel=1e-9)
    for metric in ("kid", "precision", "recall"):
        assert scores[metric].value is None
        assert "statistics only" in scores[metric].reason


def test_the_bootstrap_spread_is_that_of_repeated_draws() -> None:
    real = Statistics(np.zeros(8), np.eye(8))
    repeated = np.std([fid(normal(200, seed=s, mean=0.3), real) for s in range(60)])
    spreads = [fid_spread(normal(200, seed=s, mean=0.3), real, seed=s) for s in range(10)]
    assert 0.7 * repeated < np.mean(spreads) < 1.4 * repeated
    assert fid_spread(normal(30, 64), normal(40, 64, seed=1)) > 0  # also of singular covariances


def test_fid_infinity_removes_the_bias_of_few_samples() -> None:
    real = Statistics(np.zeros(8), np.eye(8))
    plain = np.array([fid(normal(300, seed=s), real) for s in range(30)])
    limit = np.array([fid_infinity(normal(300, seed=s), real, seed=s) for s in range(30)])
    assert plain.mean() > 5 * plain.std() / math.sqrt(30)  # the truth is 0
    assert abs(limit.mean()) < 3 * limit.std() / math.sqrt(30)
    scores = score(normal(17), real, NETWORK, ("fid",))
    assert scores["fid_infinity"].value is None
    assert "18 generated images" in scores["fid_infinity"].reason
    assert score(normal(18), real, NETWORK, ("fid",))["fid_infinity"].value is not None


def test_kid_is_unbiased_and_states_its_subsets() -> None:
    same = [score(normal(60, seed=s), normal(80, seed=s + 50), NETWORK, ("kid",))["kid"] for s in range(20)]
    values = [number(entry) for entry in same]
    spread = np.std(values) / math.sqrt(20)
    assert abs(np.mean(values)) < 3 * spread
    assert same[0].details["subset_size"] == 30
    assert number(score(normal(60, mean=1), normal(80), NETWORK, ("kid",))["kid"]) > 10 * same[0].details["spread"]


def test_precision_and_recall_are_zero_of_disjoint_and_one_of_equal_sets() -> None:
    equal = score(normal(50), normal(50), NETWORK, ("prc",))
    assert (equal["precision"].value, equal["recall"].value) == (1, 1)
    apart = score(normal(50), normal(50, mean=100), NETWORK, ("prc",))
    assert (apart["precision"].value, apart["recall"].value) == (0, 0)


def test_a_collapsed_generator_is_precise_but_recalls_little_and_swapping_swaps_them() -> None:
    collapsed, wide = normal(200, scale=0.1), normal(200, seed=1, scale=3)
    scores, swapped = score(collapsed, wide, NETWORK, ("prc",)), score(wide, collapsed, NETWORK, ("prc",))
    assert number(scores["precision"]) > 0.8
    assert number(scores["recall"]) < 0.1
    assert swapped["precision"].value == scores["recall"].value
    assert swapped["recall"].value == scores["precision"].value


def test_blockwise_precision_and_recall_are_those_of_whole_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = normal(300), normal(260, seed=1, mean=0.4)
    whole = precision_recall(generated, real)
    monkeypatch.setattr("fvar.metrics.compare.WHOLE_MATRIX", 10)
    monkeypatch.setattr("fvar.metrics.compare.PRC_BLOCK", 64)
    assert PRC_BLOCK > 1000
    assert precision_recall(generated, real) == pytest.approx(whole, abs=1e-6)


def test_too_few_images_give_reasons_instead_of_numbers() -> None:
    scores = score(normal(1), normal(3), NETWORK)
    assert all(entry.value is None and entry.reason for entry in scores.values())
    few = score(normal(6), normal(8), NETWORK)
    assert few["fid"].value is not None
    assert "singular" in few["fid"].details["note"]
    assert "KID" in few["fid"].details["note"]
    assert score(normal(100), normal(100), NETWORK)["fid"].details["note"] == ""


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["generated", "real"])
def test_features_that_are_not_finite_blank_every_score_and_say_how_many_images_have_them(
    value: float, side: str
) -> None:
    features = {"generated": normal(60), "real": normal(70)}
    features[side][3, 0] = value
    scores = score(features["generated"], features["real"], NETWORK)
    assert scores.keys() == score(normal(60), normal(70), NETWORK).keys()
    assert {entry.value for entry in scores.values()} == {None}
    assert all(f"1 of {len(features[side])} {side} images" in entry.reason for entry in scores.values())


def test_equal_images_on_either_side_give_finite_scores() -> None:
    """As a collapsed generator makes, or a data set of one colour."""
    scores = score(torch.ones(40, 8), torch.ones(40, 8), NETWORK)
    values = {key: entry.value for key, entry in scores.items() if entry.value is not None}
    assert values["fid"] == pytest.approx(0, abs=1e-6)
    assert all(map(math.isfinite, values.values()))


def test_a_value_that_is_not_finite_is_written_as_a_blank_with_that_reason() -> None:
    body = Score("FID@9", math.nan, details={"spread": math.inf, "octaves": {"low": math.nan, "high": 1.0}}).as_dict()
    assert (body["value"], body["reason"]) == (None, "it came out as nan")
    assert (body["spread"], body["octaves"]) == (None, {"low": None, "high": 1.0})
    json.dumps(body, allow_nan=False)


def test_labels_name_the_number_of_samples_and_entries_are_json() -> None:
    scores = score(normal(60), normal(70), NETWORK)
    assert scores["fid"].label == "FID@60"
    body = json.loads(json.dumps({key: entry.as_dict() for key, entry in scores.items()}, allow_nan=False))
    assert body["kid"]["count"] == 60
    assert body["kid"]["reference_count"] == 70
    assert body["kid"]["extractor"] == "toy"


def test_from_ten_thousand_images_on_fid_may_stand_alone() -> None:
    real = statistics_of(normal(50, 2))
    network = Extractor("toy", torch.nn.Identity(), 2, None, "no head")
    assert "kid" in score(normal(9_999, 2), real, network, ("fid",))
    assert "kid" not in score(normal(10_000, 2), real, network, ("fid",))


def test_unknown_metrics_are_named() -> None:
    with pytest.raises(UserError, match="fid, is, kid, prc"):
        score(normal(9), normal(9), NETWORK, ("fidd",))


def test_statistics_hold_double_precision() -> None:
    statistics = statistics_of(normal(20))
    assert isinstance(statistics, Statistics)
    assert statistics.mu.dtype == statistics.sigma.dtype == np.float64
