"""A stage that gains no step for many times as long as usual hangs, whatever its heartbeat says."""

from __future__ import annotations

from fvar.rundir import Status
from studies.engine.watch import UNKNOWN, Watch


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def watched(least: float = 10.0) -> tuple[Watch, Clock]:
    """A stage that gained a step every two seconds, until step 5."""
    clock = Clock()
    watch = Watch(times=20, least=least, clock=clock)
    for step in range(6):
        assert watch.look("var", Status(step=step, steps=100)) == ""
        clock.now += 2
    clock.now -= 2
    return watch, clock


def test_a_stage_is_slow_after_so_many_usual_steps_and_hangs_after_twice_as_many() -> None:
    watch, clock = watched()
    found = []
    for _ in range(90):
        clock.now += 1
        found.append(watch.look("var", Status(step=5, steps=100, updated=clock.now)))
    assert found.index("slow") == 40  # 20 steps of 2 s
    assert found.index("hangs") == 80


def test_less_than_the_least_patience_is_never_too_long() -> None:
    watch, clock = watched(least=1000)
    clock.now += 999
    assert watch.look("var", Status(step=5, steps=100)) == ""
    clock.now += 2
    assert watch.look("var", Status(step=5, steps=100)) == "slow"


def test_before_the_first_step_there_is_more_patience() -> None:
    clock = Clock()
    watch = Watch(times=20, least=10, clock=clock)
    watch.look("var", Status(step=0, steps=100))
    clock.now = 10 * UNKNOWN
    assert watch.look("var", Status(step=0, steps=100)) == ""
    clock.now += 1
    assert watch.look("var", Status(step=0, steps=100)) == "slow"


def test_a_stage_without_steps_or_past_its_last_is_left_alone() -> None:
    clock = Clock()
    watch = Watch(times=20, least=10, clock=clock)
    for status in (Status(), Status(step=100, steps=100)):
        watch.look("scores", status)
        clock.now += 1e6
        assert watch.look("scores", status) == ""


def test_a_stage_begun_again_is_watched_anew() -> None:
    watch, clock = watched()
    clock.now += 1000
    assert watch.look("var", Status(step=2, steps=100)) == ""
    assert watch.silent("var") == 0


def test_never_is_never() -> None:
    clock = Clock()
    watch = Watch(times=0, least=10, clock=clock)
    watch.look("var", Status(step=0, steps=100))
    clock.now += 1e6
    assert watch.look("var", Status(step=0, steps=100)) == ""
