"""A copier is told from a generator that learnt the distribution, and from one that missed it."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fvar.metrics.features import Extractor
from fvar.metrics.memorisation import compare, nearest_of, share_nearer

EXTRACTOR = Extractor("made up", nn.Identity(), 8)


def normals(count: int, seed: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


TRAIN, HELDOUT = normals(400, 0), normals(150, 1)


def copied(samples: Tensor) -> tuple[float, float]:
    found = compare(samples, TRAIN, HELDOUT, EXTRACTOR).scores["copied"]
    assert found.value is not None
    return found.value, found.details["z"]


def test_a_fair_generator_is_as_far_from_the_training_images_as_held_out_ones() -> None:
    share, z = copied(normals(300, 2))
    assert abs(share - 0.5) < 0.1
    assert abs(z) < 3


def test_a_copier_is_nearer_than_nearly_all_of_them() -> None:
    share, z = copied(TRAIN[:300] + 0.05 * normals(300, 3))
    assert share > 0.99
    assert z > 10


def test_one_copy_in_four_is_noticed() -> None:
    share, z = copied(torch.cat([normals(225, 4), TRAIN[:75]]))
    assert share > 0.55
    assert z > 3


def test_a_generator_that_misses_the_distribution_copies_nothing() -> None:
    assert copied(normals(300, 5) + 5)[0] < 0.01


def test_the_nearest_training_image_is_named() -> None:
    chosen = torch.tensor([3, 399, 0])
    found = compare(TRAIN[chosen] + 1e-3, TRAIN, HELDOUT, EXTRACTOR)
    assert torch.equal(found.nearest, chosen)
    torch.testing.assert_close(found.distance, torch.full((3,), 1e-3 * 8**0.5), rtol=0.02, atol=0)


def test_nearest_is_that_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.cdist(HELDOUT, TRAIN).min(1)
    monkeypatch.setattr("fvar.metrics.memorisation.BLOCK", 7)
    distance, nearest = nearest_of(HELDOUT, TRAIN)
    assert torch.equal(nearest, whole.indices)
    torch.testing.assert_close(distance, whole.values)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_the_share_counts_pairs_and_ties_by_half(mine: list[int], others: list[int]) -> None:
    pairs = [1.0 if a < b else 0.5 if a == b else 0.0 for a, b in itertools.product(mine, others)]
    share, _ = share_nearer(torch.tensor(mine, dtype=torch.float), torch.tensor(others, dtype=torch.float))
    assert share == pytest.approx(sum(pairs) / len(pairs))


def test_without_held_out_images_the_share_is_blank_with_the_reason() -> None:
    found = compare(normals(9, 6), TRAIN, TRAIN[:0], EXTRACTOR).scores
    assert found["copied"].value is None
    assert "held out" in found["copied"].reason
    assert found["fid_heldout"].value is None
