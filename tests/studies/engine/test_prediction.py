"""Time limits by what stages of a kind took before."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvar.config import RuntimeConfig, SamplesConfig, Stage
from fvar.rundir import RunDir
from studies.engine.prediction import Speed, speed, timed, work
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
    assert speed(tmp_path, "samples") == Speed()
    assert timed(Resources(time="auto"), [run], None) == (Resources(time="auto"), "")
    assert Resources(time="auto").minutes == 24 * 60


def test_auto_asks_for_half_more_than_the_longest_stage_of_a_wave_will_take(tmp_path: Path) -> None:
    samples(tmp_path, 1000, seconds=600)
    samples(tmp_path, 2000, seconds=1200)
    runs = [samples(tmp_path, count) for count in (3000, 6000)]
    assert speed(tmp_path, "samples").job == pytest.approx(work(runs[0]) / 1800)
    resources, remark = timed(Resources(time="auto"), runs, speed(tmp_path, "samples").job)
    assert (resources.minutes, remark) == (90, "")  # 6,000 images take an hour


@pytest.mark.parametrize(
    ("time", "told"), [("0:30:00", "stopped and started again"), ("2-0", "begin earlier"), ("2:00:00", "")]
)
def test_a_time_limit_that_does_not_suit_is_remarked_on(tmp_path: Path, time: str, told: str) -> None:
    samples(tmp_path, 1000, seconds=600)
    resources, remark = timed(Resources(time=time), [samples(tmp_path, 6000)], speed(tmp_path, "samples").job)
    assert resources.time == time
    assert told in remark
    assert bool(told) == bool(remark)
    if remark:
        assert "will take about 60 minutes" in remark


def test_a_job_of_several_stages_takes_its_turns(tmp_path: Path) -> None:
    samples(tmp_path, 1000, seconds=600)
    runs = [samples(tmp_path, count) for count in (3000, 4000, 5000, 6000)]
    measured = speed(tmp_path, "samples").job
    for packing, side_by_side, turns in ((1, 1, 1), (4, 1, 4), (4, 2, 2), (3, 2, 2), (100, 100, 1)):
        asked = Resources(time="auto", packing=packing, side_by_side=side_by_side)
        assert timed(asked, runs, measured)[0].minutes == 90 * turns
    _, remark = timed(Resources(time="2:00:00", packing=4), runs, measured)
    assert remark.startswith("jobs of 4 samples stages will take about 240 minutes")
