"""Intermediate values of running trials: read once, whatever a resume does to the file."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from fvar.config import RuntimeConfig
from fvar.rundir import RunDir
from studies.engine.search.curves import Curve
from tests import fakes


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (stage,) = [part for part in fakes.chain("full", 0).chain() if part.kind == "var"]
    return RunDir.create(tmp_path, stage, RuntimeConfig())


def test_only_what_was_added_is_read_and_only_what_judges(run: RunDir) -> None:
    curve = Curve(run.path, "cross_entropy")
    assert curve.new() == {}
    run.log_metrics(10, {"cross_entropy": 5.0}, split="heldout")
    run.log_metrics(10, {"cross_entropy": 1.0, "teacher/cross_entropy": 2.0})
    assert curve.new() == {10: 5.0}
    run.log_metrics(20, {"cross_entropy": 4.0}, split="heldout")
    assert curve.new() == {20: 4.0}
    with mock.patch("studies.tracking.history.news", side_effect=AssertionError):  # a look costs one stat
        assert curve.new() == {}


def test_the_sampled_kid_is_found_whatever_its_number_of_samples(run: RunDir) -> None:
    """As `fvar.tasks.sample_curve` logs it."""
    run.log_metrics(50, {"fid_225": 200.0, "kid_225": 0.3}, split="sampled")
    assert Curve(run.path, "kid").new() == {50: 0.3}


def test_a_file_that_a_resume_wrote_anew_is_read_again(run: RunDir) -> None:
    curve = Curve(run.path, "cross_entropy")
    for step in (10, 20, 30):
        run.log_metrics(step, {"cross_entropy": float(step)}, split="heldout")
    assert set(curve.new()) == {10, 20, 30}
    run.forget_metrics_after(20)
    run.log_metrics(30, {"cross_entropy": 29.0}, split="heldout")
    run.log_metrics(40, {"cross_entropy": 40.0}, split="heldout")
    assert curve.new() == {10: 10.0, 20: 20.0, 30: 29.0, 40: 40.0}


def test_a_line_that_is_still_being_written_waits_for_its_end(run: RunDir) -> None:
    curve = Curve(run.path, "cross_entropy")
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "split": "heldout", "time": 1.0, "cross_')
        file.flush()
        assert curve.new() == {}
        file.write('entropy": 5.0}\n')
    assert curve.new() == {10: 5.0}
