"""Studies that add seeds until comparisons are decided, over toy stages: how they go on, end, and what they show."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from analysis import table
from analysis.cells import reference_of
from fvar.config import VarConfig
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.rundir import RunDir
from studies.engine import outputs
from studies.presets import preset
from studies.run import main
from studies.study import STUDIES, Context, study
from studies.until import adding_seeds, expectation, rule_for
from tests import fakes
from tests.studies.toy import stage as toy


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy stages; what has no teacher has a KID that is worse by 0.05, all else differs by noise of 0.0001."""
    monkeypatch.setattr("fvar.run.execute", toy.execute)
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)
    monkeypatch.setattr(outputs.Tracker, "start", lambda *_: None)
    monkeypatch.setattr(outputs, "report", lambda results: {"table.md": partial(table.write, results)})
    monkeypatch.setattr(fakes, "write_scores", scored)


def scored(run: RunDir, quality: float, rng: np.random.Generator) -> None:
    config = run.input("samples").input("var").config
    assert isinstance(config, VarConfig)
    kid = (0.15 if config.teacher is None else 0.10) + 0.0001 * rng.standard_normal()
    common = {"reason": "", "count": 36, "reference_count": 99, "extractor": "x"}
    atomic.write_json(run.path / "scores.json", {"kid": common | {"value": float(kid)}})


def recorded(results: Path) -> dict[str, int]:
    body = json.loads((results / "ablation_table2" / "smoke" / "cells.json").read_text())
    return dict(Counter(cell["variant"] for cell in body["cells"]))


def run(results: Path, *arguments: str) -> int:
    return main(["ablation_table2", "--until", "separated", "--results", str(results), *arguments])


@pytest.mark.usefixtures("toys")
def test_a_study_ends_by_itself_once_each_comparison_is_separated_or_equivalent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--margin", "5") == 0
    shown = capsys.readouterr().out
    text = (tmp_path / "ablation_table2" / "smoke" / "table.md").read_text()
    for label, verdict in (
        ("VAR (baseline)", "separated"),
        ("w/o high-frequency teacher", "separated"),
        ("w/ Gaussian blur", "equivalent"),
    ):
        assert f"{label} minus FVAR (full): KID " in shown
        (line,) = [line for line in text.partition("## Verdicts")[2].splitlines() if line.startswith(f"| {label} |")]
        assert line.endswith(f"| {verdict} |")
    counts = recorded(tmp_path)
    assert max(counts.values()) < 20
    assert counts["full"] == max(counts.values())
    assert min(counts.values()) == 3


@pytest.mark.usefixtures("toys")
def test_only_undecided_comparisons_take_more_seeds_and_the_maximum_ends_them(tmp_path: Path) -> None:
    assert run(tmp_path, "--max-seeds", "5") == 0
    counts = recorded(tmp_path)
    assert counts["gaussian"] == counts["full"] == 5  # equal, and no margin was given
    assert counts["baseline"] < 5


@pytest.mark.usefixtures("toys")
def test_repeating_the_command_changes_nothing_and_another_rule_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--margin", "5", "--max-seeds", "8")
    assert run(tmp_path, *arguments) == 0
    before = (tmp_path / "ablation_table2" / "smoke" / "cells.json").read_bytes()
    assert run(tmp_path, *arguments) == 0
    assert (tmp_path / "ablation_table2" / "smoke" / "cells.json").read_bytes() == before
    with pytest.raises(UserError, match=r"looked at by another rule \(metric kid, .*max_seeds 8, margin 5.0\)[^\n]*$"):
        run(tmp_path, "--margin", "5", "--max-seeds", "20")


@pytest.mark.usefixtures("toys")
def test_a_first_look_whose_runs_are_all_there_already_is_followed_by_the_next(tmp_path: Path) -> None:
    """Run directories of another study, or of another results folder, and no cells.json of this one yet."""
    assert (
        main(["ablation_table2", "--seeds", "3", "--only", "full", "--only", "gaussian", "--results", str(tmp_path)])
        == 0
    )
    (tmp_path / "ablation_table2" / "smoke" / "cells.json").unlink()
    assert run(tmp_path, "--only", "full", "--only", "gaussian", "--max-seeds", "4") == 0
    assert recorded(tmp_path) == {"full": 4, "gaussian": 4}


@pytest.mark.usefixtures("toys")
def test_only_chooses_the_comparisons_before_the_first_look(tmp_path: Path) -> None:
    chosen = ("--only", "full", "--only", "no_*", "--margin", "5")
    assert run(tmp_path, *chosen) == 0
    assert set(recorded(tmp_path)) == {"full", "no_refocusing", "no_teacher", "no_dual"}
    assert run(tmp_path, *chosen) == 0
    with pytest.raises(UserError, match=r"^[^\n]*looked at by another rule [^\n]* for full, no_refocusing, [^\n]*$"):
        run(tmp_path, "--margin", "5")


@pytest.mark.parametrize(
    ("only", "told"),
    [
        (["full"], "ablation_table2 has one variant here, so there is nothing to compare"),
        (["gaussian", "baseline"], "has no variant 'full' here to compare the others with"),
        (["full", "nonsense"], "variant 'nonsense'"),
    ],
)
def test_a_choice_that_leaves_nothing_to_compare_is_refused_in_one_line(
    tmp_path: Path, only: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        run(tmp_path, *(word for name in only for word in ("--only", name)))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("toys")
def test_a_failed_run_ends_its_comparison_as_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = Context(study("ablation_table2"), preset("smoke"), 3, tmp_path)
    broken = next(cell for cell in ctx.study.cells(ctx) if cell.name == "gaussian/seed1").stage.name
    monkeypatch.setenv("TOY_FAIL", broken)
    assert run(tmp_path, "--margin", "5") == 1
    text = (tmp_path / "ablation_table2" / "smoke" / "table.md").read_text()
    assert "| w/ Gaussian blur | 0 |  |  | not made |" in text.partition("## Verdicts")[2]
    assert recorded(tmp_path)["gaussian"] == 3


@pytest.mark.usefixtures("toys")
def test_a_run_without_the_number_that_decides_ends_its_own_comparison_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It used to end the whole study, undecided, without a word."""
    ctx = Context(study("ablation_table2"), preset("smoke"), 3, tmp_path)
    blank = next(cell for cell in ctx.study.cells(ctx) if cell.name == "no_dual/seed1").stage.name

    def but_one(run: RunDir, quality: float, rng: np.random.Generator) -> None:
        scored(run, quality, rng)
        if run.name == blank:
            score = {"value": None, "reason": "no network", "count": 36, "reference_count": 99, "extractor": "x"}
            atomic.write_json(run.path / "scores.json", {"kid": score})

    monkeypatch.setattr(fakes, "write_scores", but_one)
    assert run(tmp_path, "--max-seeds", "5") == 0
    counts = recorded(tmp_path)
    assert counts["gaussian"] == counts["full"] == 5  # went on to the end
    assert counts["no_dual"] == 3
    text = (tmp_path / "ablation_table2" / "smoke" / "table.md").read_text().partition("## Verdicts")[2]
    assert "| w/o dual tokenizers | 0 |  |  | not made |" in text
    assert "not made, as KID of no_dual/seed1 is blank: no network" in capsys.readouterr().out


@pytest.mark.usefixtures("toys")
def test_without_its_rule_a_study_that_adds_seeds_is_not_continued(tmp_path: Path) -> None:
    """The record of the looks would be lost, and what they found would pass for a study of fixed size."""
    assert run(tmp_path, "--margin", "5", "--max-seeds", "8") == 0
    before = (tmp_path / "ablation_table2" / "smoke" / "cells.json").read_bytes()
    with pytest.raises(UserError, match=r"continue it with --until separated --max-seeds 8 --margin 5, or [^\n]*$"):
        main(["ablation_table2", "--seeds", "3", "--results", str(tmp_path)])
    assert (tmp_path / "ablation_table2" / "smoke" / "cells.json").read_bytes() == before


@pytest.mark.parametrize("name", [name for name in STUDIES if name in ("resolution", "table1", "inpainting")])
def test_a_study_of_several_references_decides_each_variant_against_its_own(name: str, tmp_path: Path) -> None:
    ctx = Context(study(name), preset("smoke"), 1, tmp_path, dry=True)
    rule = rule_for(ctx, "separated", 20, None)
    cells = list(study(name).cells(ctx))
    theirs = {cell.variant: reference_of(rule.reference, cell.params) for cell in cells}
    assert set(theirs.values()) <= theirs.keys()
    assert len(set(theirs.values())) > 1
    assert f"{len(theirs) - len(set(theirs.values()))} comparison" in expectation(ctx, study(name), rule)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("margin", ["0", "-1", "nan"])
def test_a_margin_within_which_nothing_lies_is_refused_in_one_line(tmp_path: Path, margin: str) -> None:
    with pytest.raises(UserError, match=r"^the margin must be a positive number[^\n]*$"):
        run(tmp_path, "--margin", margin)


@pytest.mark.usefixtures("toys")
def test_a_budget_that_the_next_look_would_exceed_ends_the_study_with_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.until._cost", lambda ctx, cells: float(len(cells)))
    rule = rule_for(Context(study("ablation_table2"), preset("smoke"), 1, tmp_path), "separated", 20, None)
    limited = adding_seeds(study("ablation_table2"), rule, max_gpu_hours=22.0)
    monkeypatch.setattr("studies.run.until.adding_seeds", lambda *_: limited)
    assert run(tmp_path) == 0
    assert sum(recorded(tmp_path).values()) <= 22


def test_dry_run_says_what_it_is_expected_to_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--preset", "paper", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "5 comparisons in FID against full, looked at after 3 seeds and after each one more, 20 at most" in shown
    assert "expected GPU hours in all (by measured speeds where there are any, else an A100 at 40%" in shown
    assert "1 sd of the paired difference: " in shown
    assert run(tmp_path, "--preset", "smoke", "--dry-run") == 0
    assert re.search(r"expected (hours|minutes) of a processor in all \(.*GFLOP/s of a core", capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_seeds_train_a_tokenizer_per_seed_and_leave_seed_0_as_it_was(tmp_path: Path) -> None:
    plain = study("ablation_table2")
    once, by_seed = preset("smoke"), replace(preset("smoke"), tokenizers_by_seed=True)
    shared, repeated = (
        {cell.name: cell.stage for cell in plain.cells(Context(plain, row, 2, tmp_path))} for row in (once, by_seed)
    )
    for name, stage in repeated.items():
        if name.endswith("seed0"):
            assert stage.signature == shared[name].signature
            continue
        ours, theirs = (
            {part.name for part in one.chain() if part.kind == "tokenizer"} for one in (stage, shared[name])
        )
        assert len(ours) == len(theirs)
        assert not ours & theirs
