"""The data order is a pure function of seed and step."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fvar.machine.seeds import seed_for
from fvar.training.data_order import global_batch, split_batch

sizes = st.integers(1, 60)


@settings(deadline=None)
@given(size=sizes, batch=st.integers(1, 40), epochs=st.integers(1, 3))
def test_every_item_comes_once_per_epoch(size: int, batch: int, epochs: int) -> None:
    steps = -(-size * epochs // batch)
    stream = torch.cat([global_batch(size, batch, 0, step) for step in range(steps)])[: size * epochs]
    for epoch in stream.view(epochs, size):
        assert sorted(epoch.tolist()) == list(range(size))


@settings(deadline=None)
@given(size=sizes, step=st.integers(0, 1000))
def test_batch_does_not_depend_on_the_steps_asked_for_before(size: int, step: int) -> None:
    first = global_batch(size, 7, 3, step)
    global_batch(size, 7, 3, step + 100)
    assert torch.equal(global_batch(size, 7, 3, step), first)


@settings(deadline=None)
@given(batch=st.integers(1, 40), ranks=st.integers(1, 4), accumulate=st.integers(1, 4))
def test_ranks_and_micro_batches_only_cut_the_batch(batch: int, ranks: int, accumulate: int) -> None:
    parts = [part for rank in range(ranks) for part in split_batch(batch, ranks, rank, accumulate)]
    assert [place for part in parts for place in part] == list(range(batch))
    if batch >= ranks * accumulate:
        assert min(map(len, parts)) >= 1


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    orders = [tuple(global_batch(50, 50, seed, step).tolist()) for seed in (0, 1) for step in (0, 1)]
    assert len(set(orders)) == 4


def test_seeds_of_neighbouring_steps_and_ranks_differ() -> None:
    seeds = Counter(seed_for(0, "step", step, rank) for step in range(200) for rank in range(8))
    assert len(seeds) == 1600
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no training item"):
        global_batch(0, 4, 0, 0)
