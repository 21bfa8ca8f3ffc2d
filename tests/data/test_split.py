"""The held-out split as a function of names, labels, share and seed."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fvar.data.split import balanced_subset, heldout_mask

NAMES = st.lists(st.text("abcdef0123", min_size=1, max_size=6), unique=True, min_size=1, max_size=80)


def heldout(names: list[str], share: float = 0.2, seed: int = 0) -> set[str]:
    labels = [len(name) % 3 for name in names]
    return {name for name, held in zip(names, heldout_mask(names, labels, share, seed), strict=True) if held}


@given(NAMES, st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order_of_the_files(names: list[str], seed: int, random: Random) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)
    assert heldout(names, seed=seed) == heldout(shuffled, seed=seed)


@given(NAMES, st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9]))
def test_adding_a_file_moves_at_most_one_other(names: list[str], share: float) -> None:
    before = heldout(names, share)
    after = heldout([*names, "new"], share) - {"new"}
    assert len(before ^ after) <= 1


@given(NAMES, st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_every_class_keeps_a_training_image_and_gives_one_if_it_can(names: list[str], share: float) -> None:
    held = heldout(names, share)
    sizes = Counter(len(name) % 3 for name in names)
    given_away = Counter(len(name) % 3 for name in held)
    for label, size in sizes.items():
        assert given_away[label] < size
        assert (given_away[label] > 0) == (share > 0 and size > 1)


@given(NAMES, st.integers(1, 100))
def test_a_balanced_subset_gives_each_class_its_turn(names: list[str], count: int) -> None:
    labels = [len(name) % 3 for name in names]
    chosen = balanced_subset(names, labels, count, seed=0)
    assert len(set(chosen)) == len(chosen) == min(count, len(names))
    sizes, taken = Counter(labels), Counter(labels[i] for i in chosen)
    most = max(taken.values())
    assert all(taken[label] >= most - 1 or taken[label] == sizes[label] for label in sizes)
    assert set(balanced_subset(names, labels, max(1, count - 1), seed=0)) <= set(chosen)
