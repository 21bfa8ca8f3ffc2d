"""Tables and figures of a search: drawn from search.json alone, and showing what the trials came to."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from analysis import plot_search, search, style
from analysis.results import StudyResults
from analysis.search import SearchResults
from tests import fakes
from tests.analysis.test_figures import drawn, xs, ys

__all__ = ["drawn"]
SPACE = {
    "lambda_feat": {"low": 0.1, "high": 10.0, "log": True},
    "gate_bias": {"low": -6.0, "high": 0.0, "log": False},
    "blocks": {"options": [1, 2]},
}
SCORE = {"key": "score", "name": "KID@36 ×10³ (lower is better)", "scale": 1e3}


def value(params: dict[str, Any]) -> float:
    """What the trials score: lambda_feat decides, the less the better."""
    return 4 + math.log(params["lambda_feat"]) + 0.01 * float(abs(params["gate_bias"]))


def found(results: Path, objectives: tuple[dict[str, Any], ...] = (SCORE,), **changes: Any) -> StudyResults:
    """A search of twelve trials: the last two pruned and failed."""
    trials, cells = [], []
    for number in range(12):
        params = {"lambda_feat": 0.1 * 1.5**number, "gate_bias": -0.5 * (number % 5), "blocks": 1 + number % 2}
        state = {10: "pruned", 11: "failed"}.get(number, "done")
        values = [value(params), 1.0 + number][: len(objectives)] if state == "done" else []
        trials.append(
            {
                "number": number,
                "cell": f"trial{number:03d}",
                "state": state,
                "params": params,
                "values": values,
                "curve": [[10, 5.0], [20, 4.0 + number]],
                "reason": "by median at step 20, with 14" if state == "pruned" else "",
                "again_of": 3 if number == 11 else None,
                "settings": [f"var.distill.lambda_feat={params['lambda_feat']}"],
                "row": f'replace(PRESETS["smoke"], name="smoke-trial{number:03d}")',
            }
        )
        cells.append(fakes.cell("full", number, fakes.chain("full", number)) | {"name": f"trial{number:03d}"})
    made = fakes.write_cells(results, "search_distillation", cells, title="A search")
    body = {"objectives": list(objectives), "sampler": "tpe", "pruner": "median", "store": "x", "space": SPACE}
    (made.folder / search.FILE).write_text(json.dumps({**body, "trials": trials, **changes}))
    return made


def test_the_table_starts_with_the_best_as_a_command_and_as_a_preset(tmp_path: Path) -> None:
    results = found(tmp_path)
    text = search.write(results)[0].read_text()
    best = min(SearchResults.of(results).done, key=lambda trial: value(dict(trial.params)))
    assert f"Best: trial {best.number}, KID@36 ×10³ (lower is better) {1e3 * value(dict(best.params)):.4g}." in text
    assert f"    --set var.distill.lambda_feat={best.params['lambda_feat']}\n" in text
    assert f'replace(PRESETS["smoke"], name="smoke-trial{best.number:03d}")' in text
    assert "12 trials (10 done, 1 pruned, 1 failed), sampler tpe, pruner median." in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[2][0] == f"| {best.number}"
    assert "by median at step 20, with 14" in text
    assert "again, after trial 3" in text


def test_the_table_for_programs_has_every_trial_in_order(tmp_path: Path) -> None:
    results = found(tmp_path)
    with open(search.write(results)[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(12))
    assert [row["state"] for row in rows[9:]] == ["done", "pruned", "failed"]
    assert float(rows[0]["score"]) == pytest.approx(1e3 * (4 - math.log(10)))


def test_importances_say_which_axis_decides(tmp_path: Path) -> None:
    shares = SearchResults.of(found(tmp_path)).importances()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares, key=lambda name: shares[name]) == "lambda_feat"
    assert shares["lambda_feat"] > 0.7


def test_every_figure_is_drawn_as_picture_and_for_print(tmp_path: Path) -> None:
    results = found(tmp_path, (SCORE, {"key": "hours", "name": "hours", "scale": 1.0}))
    names = {path.name for path in plot_search.draw(results)}
    assert names == {f"search_{make.__name__}.{kind}" for make in plot_search.MAKERS for kind in ("png", "pdf")}


def test_the_history_s_line_is_the_best_so_far_and_a_pruned_curve_is_crossed(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    results = found(tmp_path)
    plot_search.FIGURES["search_history.png"](results)
    above, below = drawn[0].axes
    values = [trial.values[0] for trial in SearchResults.of(results).done]
    assert ys(above.lines[1]) == [min(values[: i + 1]) for i in range(len(values))]
    crossed = [line for line in below.lines if line.get_marker() == "x"]
    assert [ys(line) for line in crossed] == [[5.0, 14.0]]


def test_the_front_joins_trials_that_no_other_beats_in_both(tmp_path: Path, drawn: list[Figure]) -> None:
    results = found(tmp_path, (SCORE, {"key": "hours", "name": "hours", "scale": 1.0}))
    plot_search.FIGURES["search_pareto.png"](results)
    line = drawn[0].axes[0].lines[1]
    front = SearchResults.of(results).best()
    assert sorted(zip(ys(line), xs(line), strict=True)) == [trial.values for trial in front]
    assert all(later < earlier for earlier, later in zip(ys(line), ys(line)[1:], strict=False))


def test_a_study_that_is_not_a_search_has_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(style.NothingToDraw):
        search.write(fakes.ablation(tmp_path, seeds=1))
    results = found(tmp_path, trials=[])
    assert plot_search.draw(results) == []
    assert "0 trials" in search.write(results)[0].read_text()
