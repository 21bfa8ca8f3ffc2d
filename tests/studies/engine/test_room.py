"""How many jobs are offered to a cluster that has refused some."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from studies.engine.backends.room import FIRST_PAUSE, LONGEST_PAUSE, Room
from studies.engine.backends.throttle import shares


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_refusal_the_clusters_own_number_is_the_limit() -> None:
    assert Room(10_000).free(100) == 9_900
    assert Room(10_000).free(20_000) == 0


def test_after_a_limit_as_many_are_offered_as_have_ended() -> None:
    clock = Clock()
    room = Room(10_000, clock)
    room.full("AssocMaxSubmitJobLimit", most=10)
    assert [room.free(live) for live in (10, 9, 0)] == [0, 1, 10]
    room.taken(live=10)
    clock.now += FIRST_PAUSE
    assert room.free(10) == 1  # has it been raised?
    room.taken(live=11)
    assert room.free(11) == 9_989


def test_a_pause_doubles_up_to_a_limit_and_ends_with_success() -> None:
    clock = Clock()
    room = Room(100, clock)
    pauses = []
    for _ in range(9):
        room.refused("the partition is down")
        assert room.free(0) == 0
        pauses.append(room.pause)
        clock.now += room.pause
        assert room.free(0) == 100
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    room.taken(1)
    assert room.reason == ""
    room.refused("again")
    assert room.pause == FIRST_PAUSE


@given(st.lists(st.integers(1, 50), max_size=8), st.integers(1, 64))
def test_what_may_run_at_once_stays_within_the_limit(left: list[int], parallel: int) -> None:
    given = shares({str(index): members for index, members in enumerate(left)}, parallel)
    assert all(1 <= given[str(index)] <= members for index, members in enumerate(left))
    assert sum(given.values()) <= max(parallel, len(left))
    if sum(left) >= parallel >= len(left):
        assert sum(given.values()) >= parallel


def test_a_kind_has_its_own_limit_over_all_its_arrays() -> None:
    left = {"1": 5, "2": 5, "3": 5}
    kinds = {"1": "scores", "2": "var", "3": "scores"}
    assert shares(left, 10, kinds, {"scores": 3, "var": 10}) == {"1": 2, "2": 5, "3": 1}
    assert shares(left, 3, kinds, {"scores": 2, "var": 10}) == {"1": 1, "2": 1, "3": 1}


@given(
    st.lists(st.tuples(st.integers(1, 50), st.sampled_from("ab")), max_size=8), st.integers(1, 64), st.integers(1, 9)
)
def test_no_kind_gets_more_than_its_limit(arrays: list[tuple[int, str]], parallel: int, own: int) -> None:
    left = {str(index): members for index, (members, _) in enumerate(arrays)}
    kinds = {str(index): kind for index, (_, kind) in enumerate(arrays)}
    given = shares(left, parallel, kinds, {"a": own, "b": parallel})
    of_a = [array for array in left if kinds[array] == "a"]
    assert sum(given[array] for array in of_a) <= max(own, len(of_a))
    assert sum(given.values()) <= max(parallel, len(left))
