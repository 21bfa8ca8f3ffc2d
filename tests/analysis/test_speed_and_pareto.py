"""Figures about cost: what sampling takes, and what a score takes; numbers against those on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import plot_pareto, plot_speed
from analysis.metrics import BY_KEY
from analysis.results import StudyResults
from analysis.stats import Spread
from analysis.style import NothingToDraw
from fvar.config import RuntimeConfig, SpeedConfig, Stage, TransformerConfig
from fvar.rundir import RunDir
from tests import fakes


def timed(results: Path, seconds: dict[int, dict[str, list[float]]]) -> StudyResults:
    """Study `speed` whose batches of 1 and 8 took this long and four times as long, by depth and network."""
    cells = []
    for depth, networks in seconds.items():
        stage = Stage(SpeedConfig(transformer=TransformerConfig(depth=depth)))
        run = RunDir.create(results / "runs", stage, RuntimeConfig())
        rows = [
            {"mixer": mixer, "batch": batch, "seconds": [factor * s for s in taken], "parameters": 1, "reason": ""}
            for batch, factor in ((1, 1), (8, 4))
            for mixer, taken in networks.items()
        ]
        (run.path / "speed.json").write_text(json.dumps({"rows": rows, "steps": 4, "precision": "fp32"}))
        run.update(state="done")
        cells.append(fakes.cell(f"d{depth}", 0, stage, f"d{depth}", depth=depth))
    return fakes.write_cells(results, "speed", cells, title="Speed")


@pytest.fixture
def two(tmp_path: Path) -> StudyResults:
    return timed(
        tmp_path,
        {2: {"var": [0.2, 0.1, 0.3], "mvar": [0.4, 0.2, 0.6]}, 4: {"var": [0.5, 0.4, 0.6], "mvar": [0.5, 0.4, 0.6]}},
    )


def test_latency_is_the_median_and_the_rate_follows_from_it(two: StudyResults) -> None:
    found = {(t.depth, t.mixer, t.batch): t for t in plot_speed.timings(two)}
    assert found[2, "var", 1].quartiles == pytest.approx((0.15, 0.2, 0.25))
    assert found[2, "var", 8].rate == pytest.approx(8 / 0.8)
    text = plot_speed.write(two)[0].read_text()
    assert "| d2 | VAR = FVAR deployed | 8 | 0.8 [0.6, 1] | 10 |" in text
    assert "Medians over 3 rounds, quartiles in brackets, after 1 of warm-up" in text


def test_ratios_are_taken_round_by_round(two: StudyResults) -> None:
    assert plot_speed.ratios(two)["d2, batch 8"] == pytest.approx([2.0, 2.0, 2.0])
    assert plot_speed.ratios(two)["d4, batch 1"] == pytest.approx([1.0, 1.0, 1.0])


def test_both_figures_are_drawn(two: StudyResults, tmp_path: Path) -> None:
    assert plot_speed.draw(two)[0].stat().st_size > 10_000
    results = fakes.ablation(tmp_path / "more", seeds=3)
    with pytest.raises(NothingToDraw, match="whose hours are recorded"):
        plot_pareto.draw(results)
    for run in (tmp_path / "more" / "runs").iterdir():
        RunDir.open(run).update(seconds=60.0)
    assert plot_pareto.draw(StudyResults.read(tmp_path / "more", "ablation_table2", "smoke"))[0].stat().st_size > 10_000


def test_hours_are_those_of_all_stages_above_a_score(tmp_path: Path) -> None:
    fakes.ablation(tmp_path, seeds=3)
    for run in (tmp_path / "runs").iterdir():
        RunDir.open(run).update(seconds=360.0)
    found, unit = plot_pareto.points(StudyResults.read(tmp_path, "ablation_table2", "smoke"), BY_KEY["kid"])
    assert unit == "hours of a process, without GPUs"
    assert {point.label for point in found} == set(fakes.VARIANTS.values())
    # Five stages of six minutes; a teacher needs alias tokens as well, and a tokenizer for them unless one serves both.
    assert {round(point.hours.mean, 9) for point in found} == {0.5, 0.6, 0.7}
    assert found[0].score.n == 3


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    def point(label: str, hours: float, score: float) -> plot_pareto.Point:
        return plot_pareto.Point(label, Spread(score, None, 1), Spread(hours, None, 1))

    found = [point("dear", 4, 9), point("worse", 3, 12), point("cheap", 1, 12), point("middle", 2, 10)]
    assert [p.label for p in plot_pareto.front(found, "lower")] == ["cheap", "middle", "dear"]
    assert [p.label for p in plot_pareto.front(found, "higher")] == ["cheap"]


def test_one_variant_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1, unfinished=tuple(list(fakes.VARIANTS)[1:]))
    with pytest.raises(NothingToDraw, match="fewer than two"):
        plot_pareto.draw(results)
