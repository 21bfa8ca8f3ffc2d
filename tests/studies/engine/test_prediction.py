"""Time limits by what stages of a kind took before."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvar.config import RuntimeConfig, SamplesConfig, Stage
from fvar.rundir import RunDir
from studies.engine.prediction import speed, timed
from studies.engine.profile import Resources
from tests.studies.engine.test_scheduler import cell


def samples(root: Path, count: int, seconds: float = 0.0) -> RunDir:
    """A stage of samples; one that took `seconds`, where given."""
    var = next(stage for stage in cell(0).chain() if stage.kind == "var")
    run = RunDir.create(root, Stage(SamplesConfig(count=count), {"var": var}), RuntimeConfig())
    if seconds:
        run.update(state="done", seconds=seconds)
    return run


def test_nothing_is_predicted_before_anything_was_measured(tmp_path: Path) -> None:
    run = samples(tmp_path, 1000)
    assert speed(tmp_path, "samples") is None
    assert timed(Resources(time="auto"), [run], None) == (Resources(time="auto"), "")
    assert Resources(time="auto").minutes == 24 * 60


def test_auto_asks_for_half_more_than_the_longest_stage_of_a_wave_will_take(tmp_path: Path) -> None:
    samples(tmp_path, 1000, seconds=600)
    samples(tmp_path, 2000, seconds=1200)
    runs = [samples(tmp_path, count) for count in (3000, 6000)]
    assert speed(tmp_path, "samples") == pytest.approx(1000 / 600)
    resources, remark = timed(Resources(time="auto"), runs, speed(tmp_path, "samples"))
    assert (resources.minutes, remark) == (90, "")  # 6,000 images take an hour


@pytest.mark.parametrize(
    ("time", "told"), [("0:30:00", "stopped and started again"), ("2-0", "begin earlier"), ("2:00:00", "")]
)
def test_a_time_limit_that_does_not_suit_is_remarked_on(tmp_path: Path, time: str, told: str) -> None:
    samples(tmp_path, 1000, seconds=600)
    resources, remark = timed(Resources(time=time), [samples(tmp_path, 6000)], speed(tmp_path, "samples"))
    assert resources.time == time
    assert told in remark
    assert bool(told) == bool(remark)
    if remark:
        assert "will take about 60 minutes" in remark
