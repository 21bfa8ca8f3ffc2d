"""A table says which code computed its numbers, and never averages two revisions of a stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import render, table
from analysis.provenance import commits, of_one_revision
from analysis.results import StudyResults
from fvar.config import VarConfig
from tests import fakes

FIRST, SECOND = "a" * 40, "b" * 40


def note(results: StudyResults, commit: str, *variants: str) -> None:
    """Have these variants' stages computed by a commit."""
    for cell in results.cells:
        if not variants or cell.variant in variants:
            for run in cell.chain.values():
                (run.path / "attempts.jsonl").write_text(json.dumps({"attempt": 1, "commit": commit}) + "\n")


def test_a_table_names_the_commit_of_its_numbers(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    assert commits(results) == []
    note(results, FIRST)
    assert commits(results) == ["Computed by commit aaaaaaaaaa."]
    assert "Computed by commit aaaaaaaaaa." in render.markdown(results, table.rows(results))


def test_a_table_of_several_commits_warns_and_says_which_stages(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    note(results, FIRST)
    note(results, f"{SECOND}+", "full")
    (warning,) = commits(results)
    assert warning.startswith("WARNING: computed by 2 commits: aaaaaaaaaa (samples, scores, tokenizer, tokens, var); ")
    assert "bbbbbbbbbb+ (samples, scores, tokenizer, tokens, var)" in warning


def test_two_revisions_are_never_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fakes.chain("full", 0)
    fakes.finish(tmp_path, old, 0.1, 0)
    monkeypatch.setattr(VarConfig, "REVISION", VarConfig.REVISION + 1)
    new = [fakes.chain("full", seed) for seed in (1, 2)]
    for stage in new:
        fakes.finish(tmp_path, stage, 0.9, 1)
    cells = [fakes.cell("full", seed, stage) for seed, stage in enumerate([old, *new])]
    results = fakes.write_cells(tmp_path, "ablation_table2", cells)
    kept, left = of_one_revision(results.cells)
    assert [cell.seed for cell in kept] == [1, 2]
    assert left == "full/seed0 left out, computed by an older revision of a stage; run the study again"
    row = table.tidy(results).iloc[0]
    assert (row["fid_n"], row["seeds_done"], row["seeds"]) == (2, 2, 3)
    assert row["fid_mean"] == pytest.approx(sum(cell.score("fid") or 0 for cell in results.cells[1:]) / 2)
    assert "2 of 3 seeds, outdated" in render.markdown(results, table.rows(results))
