"""Differences between variants in a study's table: when they are made, what they say, and when nothing is said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from analysis import render, table
from analysis.cells import reference_of
from analysis.contrasts import Until, contrasts, leader, rulings
from analysis.metrics import BY_KEY
from analysis.notes import notes
from analysis.results import StudyResults
from analysis.stats import holm
from fvar.config import RuntimeConfig, Stage, TokenizerConfig, TokensConfig
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.rundir import RunDir
from tests import fakes


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return fakes.ablation(tmp_path_factory.mktemp("results"), seeds=3)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return fakes.ablation(tmp_path_factory.mktemp("results"), seeds=6)


def scored(results: Path, values: dict[str, list[float]], **body: Any) -> StudyResults:
    """A study whose FID of these variants and seeds is as given, and nothing else is."""
    cells = []
    for variant, fids in values.items():
        for seed, fid in enumerate(fids):
            stage = fakes.chain(variant, seed)
            cells.append(fakes.cell(variant, seed, stage))
            fakes.finish(results, stage, 0.5, seed)
            score = {"value": fid, "reason": "", "count": 36, "reference_count": 99, "extractor": "x"}
            atomic.write_json(results / "runs" / stage.name / "scores.json", {"fid": score})
    found = fakes.write_cells(results, "ablation_table2", cells)
    path = found.folder / "cells.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | body))
    return StudyResults.read(results, "ablation_table2", "smoke")


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_every_difference_is_the_paired_t_test_of_the_scores_on_disk_with_holm_over_the_rows(
    three: StudyResults,
) -> None:
    variants = {variant: [cell.score("fid") for cell in cells] for variant, cells in three.variants().items()}
    for reference in ("full", "baseline"):
        found = [one for one in contrasts(three) if one.reference == reference and one.metric.key == "fid"]
        assert [one.variant for one in found] == [name for name in fakes.VARIANTS if name != reference]
        ps = []
        for one in found:
            theirs = scipy.stats.ttest_rel(variants[one.variant], variants[reference])
            low, high = theirs.confidence_interval(0.95)
            assert one.difference is not None
            assert (one.difference.low, one.difference.high) == pytest.approx((low, high))
            assert one.difference.p == pytest.approx(theirs.pvalue)
            ps.append(float(theirs.pvalue))
        assert [one.holm for one in found] == pytest.approx(holm(ps))


def test_csv_and_markdown_show_difference_interval_p_and_holms_p(three: StudyResults) -> None:
    frame = table.tidy(three)
    row = frame.set_index("variant").loc["no_dual"]
    mean, low, high, p, adjusted = (row[f"fid_minus_full_{part}"] for part in ("mean", "low", "high", "p", "holm"))
    grid = section(render.markdown(three, table.rows(three)), "Differences to FVAR (full)")
    line = f"| w/o dual tokenizers | 3 | {mean:.2f} | [{low:.2f}, {high:.2f}] | {p:.2g} | {adjusted:.2g} |"
    assert line in grid
    assert "FVAR (full) |" not in grid
    assert "sign flips" not in grid
    assert "FID@36 difference" in grid
    latex = render.latex(three, table.rows(three))
    assert f"w/o dual tokenizers & 3 & {mean:.2f} & {{}}[{low:.2f}, {high:.2f}]".replace("-", "$-$") in latex
    assert "\\textbf{Differences to FVAR (full)}" in latex


def test_from_six_seeds_on_the_exact_sign_flip_p_stands_beside(six: StudyResults) -> None:
    frame = table.tidy(six).set_index("variant")
    assert frame.loc["no_dual", "fid_minus_full_exact"] == 2 / 64
    text = render.markdown(six, table.rows(six))
    assert "p, sign flips" in section(text, "Differences to FVAR (full)")
    assert "From 6 seeds on p of all sign flips" in text


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_compare_nothing_and_the_table_says_so(tmp_path: Path, seeds: int) -> None:
    results = fakes.ablation(tmp_path, seeds=seeds)
    text = render.markdown(results, table.rows(results))
    assert f"{seeds} seed{'s' * (seeds > 1)}: no comparison can be made" in text
    assert "Differences" not in text
    assert "±" not in text
    assert "**" not in text


def test_a_failed_cell_leaves_its_comparisons_not_made_and_lowers_no_others_p(tmp_path: Path) -> None:
    whole = fakes.ablation(tmp_path / "whole", seeds=3)
    results = fakes.ablation(tmp_path / "broken", seeds=3)
    RunDir.open(results.variants()["gaussian"][1].chain["scores"].path).update(state="failed", error="OSError: disk")
    found = {one.variant: one for one in contrasts(results) if (one.reference, one.metric.key) == ("full", "fid")}
    before = {one.variant: one for one in contrasts(whole) if (one.reference, one.metric.key) == ("full", "fid")}
    assert found["gaussian"].difference is None
    assert found["gaussian"].reason == "gaussian/seed1 is failed"
    for variant in found.keys() - {"gaussian"}:
        assert found[variant].difference == before[variant].difference
        ours, theirs = found[variant].holm, before[variant].holm
        assert ours is not None
        assert theirs is not None
        assert ours >= theirs * 0.999 or found[variant].difference == before["gaussian"].difference
    text = render.markdown(results, table.rows(results))
    assert re.search(r"\| w/ Gaussian blur \|  \| not made \|", section(text, "Differences to FVAR (full)"))
    assert "Comparisons not made: w/ Gaussian blur, as gaussian/seed1 is failed." in text


def test_a_reference_in_braces_is_each_variants_own(tmp_path: Path) -> None:
    """As in a study of several sizes, where a difference between sizes would say nothing."""
    sizes = {"var-d2": "d2", "fvar-d2": "d2", "var-d4": "d4", "fvar-d4": "d4"}
    cells: list[dict[str, object]] = []
    for variant, size in sizes.items():
        for seed in range(3):
            stage = fakes.chain(variant, seed, rho_max=float(len(cells)))
            fakes.finish(tmp_path, stage, 0.9 if variant.startswith("f") else 0.1, seed)
            cells.append(fakes.cell(variant, seed, stage, variant.upper(), size=size))
    path = fakes.write_cells(tmp_path, "table1", cells).folder / "cells.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"references": ["var-{size}"]}))
    results = StudyResults.read(tmp_path, "table1", "smoke")
    assert results.comparisons() == {"var-d2": ["fvar-d2"], "var-d4": ["fvar-d4"]}
    assert {(one.variant, one.reference) for one in contrasts(results)} == {
        ("fvar-d2", "var-d2"),
        ("fvar-d4", "var-d4"),
    }
    text = render.markdown(results, table.rows(results))
    assert "| FVAR-D2 | 3 |" in section(text, "Differences to VAR-D2")
    assert "FVAR-D4" not in section(text, "Differences to VAR-D2")


@pytest.mark.parametrize("pattern", ["full", "var-{depth}", "var-{", "{0}", "{size.x}"])
def test_a_reference_that_is_no_pattern_of_the_parameters_is_taken_as_a_name(pattern: str) -> None:
    assert reference_of(pattern, {"size": "d2"}) == pattern


def test_the_teachers_loss_stands_beside_the_students_where_the_teacher_is_varied(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=3)
    assert "Teacher's held-out CE" not in render.markdown(results, table.rows(results))
    path = results.folder / "cells.json"
    body = json.loads(path.read_text())
    for cell in body["cells"]:
        cell["params"] = {"teacher": cell["variant"]}
    path.write_text(json.dumps(body))
    for cell in results.cells:
        if cell.has_teacher:
            cell.chain["var"].log_metrics(200, {"cross_entropy": 4.5, "teacher/cross_entropy": 4.25}, split="heldout")
    varied = StudyResults.read(tmp_path, "ablation_table2", "smoke")
    text = render.markdown(varied, table.rows(varied))
    (head,) = [line for line in text.splitlines() if line.startswith("| Variant | Seeds |")]
    columns = [name.strip() for name in head.split("|")]
    assert columns.index("Teacher's held-out CE ↓") == columns.index("Held-out CE ↓") + 1
    (row,) = [line for line in text.splitlines() if line.startswith("| FVAR (full) | 3 seeds |")]
    assert "| 4.500 ± 0.000 | 4.250 ± 0.000 |" in row  # side by side, though no other network shares its tokenizer
    assert "Teacher's held-out CE is blank: VAR (baseline) has no teacher." in text


def test_a_failed_reference_leaves_all_its_comparisons_not_made(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=3)
    RunDir.open(results.variants()["full"][0].chain["scores"].path).update(state="failed", error="OSError: disk")
    found = contrasts(results)
    assert all(one.difference is None for one in found if one.reference == "full")
    assert any(one.difference for one in found if one.reference == "baseline" and one.variant != "full")


def test_seeds_that_differ_between_variants_are_refused_in_one_line(tmp_path: Path) -> None:
    results = scored(tmp_path, {"full": [10.0, 11.0, 12.0], "gaussian": [20.0, 22.0]})
    with pytest.raises(UserError, match=r"^gaussian has seeds 0, 1 but full has seeds 0, 1, 2; [^\n]*$"):
        table.tidy(results)


def test_what_is_best_is_bold_only_if_it_is_separated_from_every_other(tmp_path: Path) -> None:
    clear = scored(tmp_path / "1", {"full": [10.0, 10.2, 10.1], "gaussian": [20.0, 20.3, 20.2]})
    assert leader(clear, BY_KEY["fid"]) == "full"
    assert "**10.10 ± 0.25**" in render.markdown(clear, table.rows(clear))
    noisy = scored(tmp_path / "2", {"full": [10.0, 12.0, 8.0], "gaussian": [11.0, 12.5, 11.0]})
    assert leader(noisy, BY_KEY["fid"]) is None
    assert "**" not in render.markdown(noisy, table.rows(noisy))
    assert "\\textbf{1" not in render.latex(noisy, table.rows(noisy))


def test_of_two_runs_of_one_method_neither_is_ever_called_better_more_often_than_five_percent(tmp_path: Path) -> None:
    """The A/A check on the arithmetic: 400 pairs of three seeds without a difference."""
    from analysis.stats import compare

    drawn = np.random.default_rng(0).standard_normal((400, 2, 6))
    wrong = [compare(list(first - second)).p for first, second in drawn]
    assert 0.02 < np.mean([p is not None and p <= 0.05 for p in wrong]) <= 0.075


def test_cross_entropy_stands_only_beside_variants_that_share_a_tokenizer(tmp_path: Path) -> None:
    shared = {variant: fakes.chain("full", seed) for variant, seed in (("full", 0), ("no_teacher", 9))}
    alone = fakes.chain("gaussian", 0)
    for stage in (*shared.values(), alone):
        fakes.finish(tmp_path, stage, 0.5, 1)
    cells = [fakes.cell(variant, 0, stage) for variant, stage in shared.items()] + [fakes.cell("gaussian", 0, alone)]
    results = fakes.write_cells(tmp_path, "ablation_table2", cells)
    frame = table.tidy(results).set_index("variant")
    assert list(frame.loc[["full", "no_teacher", "gaussian"], "tokenizer"]) == ["A", "A", "B"]
    assert frame.loc["full", "cross_entropy_n"] == 1
    assert frame.loc["gaussian", "cross_entropy_n"] == 0
    assert frame.loc["gaussian", "cross_entropy_reason"] == "no other network shares its tokenizer"
    assert contrast_reason(results, "gaussian", "cross_entropy") == "they do not share a tokenizer"
    assert contrast_reason(results, "gaussian", "fid") == ""


def contrast_reason(results: StudyResults, variant: str, metric: str) -> str:
    return next(one.reason for one in contrasts(results) if (one.variant, one.metric.key) == (variant, metric))


def test_each_variants_tokenizer_stands_beside_it_from_its_own_metrics(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    run = results.variants()["full"][0].chain["tokens.tokenizer"]
    run.log_metrics(fakes.STEPS, {"psnr": 21.234, "perplexity": 301.6}, split="heldout")
    run.log_metrics(fakes.STEPS, {"rfid_9/scale1": 99.0, "rfid_9/scale3": 12.345}, split="reconstruction")
    grid = section(render.markdown(results, table.rows(results)), "Tokenizers")
    assert "| FVAR (full) | B | 12.35 | 21.23 | 273 | 302 |" in grid  # (1 + 4 + 16) tokens of 13 bits
    assert "| VAR (baseline) | A |  |" in grid


def test_notes_say_that_no_interval_covers_tokenizers_which_all_seeds_share(
    three: StudyResults, tmp_path: Path
) -> None:
    sentence = "No interval covers the tokenizers"
    assert sentence in "\n".join(notes(three, table.rows(three)))
    cells = []
    for seed in range(3):
        stage = with_own_tokenizer("full", seed)
        fakes.finish(tmp_path, stage, 0.5, seed)
        cells.append(fakes.cell("full", seed, stage))
    own = fakes.write_cells(tmp_path, "ablation_table2", cells)
    assert len(own.tokenizers("full")) == 3
    assert sentence not in "\n".join(notes(own, table.rows(own)))


def with_own_tokenizer(variant: str, seed: int) -> Stage:
    scores = fakes.chain(variant, seed)
    samples = scores.inputs["samples"]
    var = samples.inputs["var"]
    tokenizer = var.inputs["tokens"].inputs["tokenizer"]
    config = tokenizer.config
    assert isinstance(config, TokenizerConfig)
    own = Stage(replace(config, train=replace(config.train, seed=seed)))
    tokens = Stage(TokensConfig(data=fakes.DATA), {"tokenizer": own})
    var = Stage(var.config, {"tokens": tokens})
    return Stage(scores.config, {"samples": Stage(samples.config, {"var": var})})


def test_fid_and_kid_carry_their_sampling_spread(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    for cell in results.cells:
        path = cell.chain["scores"].path / "scores.json"
        scores = json.loads(path.read_text())
        scores["fid"]["spread"], scores["kid"]["spread"] = 3.14159, 0.00234
        path.write_text(json.dumps(scores))
    frame = table.tidy(results)
    assert set(frame["fid_sampling"]) == {3.14159}
    text = render.markdown(results, table.rows(results))
    assert re.search(r"\| VAR \(baseline\) \| 1 seed \| \d+\.\d\d \(σ 3\.14\) \| \d+\.\d\d \(σ 2\.34\) \|", text)
    assert "σ is the sampling spread" in text


def test_every_grid_has_as_many_columns_as_declared(three: StudyResults) -> None:
    text = render.latex(three, table.rows(three))
    tabulars = text.split("\\begin{tabular}")[1:]
    assert len(tabulars) == 6  # what was measured in two parts, tokenizers, training, two references
    for body in tabulars:
        declared = re.match(r"\{([lr]+)\}", body)
        assert declared
        rows = body.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(declared.group(1))}


# ------------------------------------------------------------------------------------------- studies that add seeds

RULE = {"metric": "fid", "reference": "full", "max_seeds": 20, "margin": None}


def test_a_study_that_adds_seeds_shows_verdicts_instead_of_p(tmp_path: Path) -> None:
    values = {
        "full": [10.0, 10.2, 10.1, 9.9, 10.0],
        "gaussian": [20.0, 20.3, 20.2],  # decided after three seeds
        "no_dual": [10.4, 10.0, 10.3, 10.0, 9.8],
    }
    results = scored(tmp_path, values, until=RULE)
    found = rulings(results)
    assert [(one.verdict, one.n) for one in found.values()] == [("separated", 3), ("undecided", 5)]
    text = render.markdown(results, table.rows(results))
    assert re.search(r"\| w/ Gaussian blur \| 3 \| 10\.07 \| \[\d+\.\d\d, \d+\.\d\d\] \| separated \|", text)
    assert "Holm's p |" not in text
    assert "**" not in text
    assert "Seeds were added, up to 20, until each difference in FID was separated from 0." in text


def test_a_margin_is_in_the_unit_of_the_column(tmp_path: Path) -> None:
    until = Until(BY_KEY["kid"], "full", 20, margin=2.0)
    assert until.rule.margin == pytest.approx(0.002)
    small = {"full": [10.0, 10.1, 10.2, 9.9], "gaussian": [10.01, 10.11, 10.19, 9.9]}
    results = scored(tmp_path, small, until=RULE | {"margin": 2.0})
    assert rulings(results)["gaussian"].verdict == "equivalent"
    with pytest.raises(UserError, match="margin must be a positive number, got -2"):
        _ = Until(BY_KEY["fid"], "full", 20, margin=-2.0).rule


def test_an_unfinished_seed_is_waited_for_and_a_failed_one_ends_the_comparison(tmp_path: Path) -> None:
    results = scored(tmp_path, {"full": [10.0, 10.2, 10.1], "gaussian": [20.0, 20.3, 20.2]}, until=RULE)
    last = RunDir.open(results.variants()["gaussian"][2].chain["scores"].path)
    last.update(state="running")
    assert rulings(results)["gaussian"].verdict == "undecided"
    last.update(state="failed", error="OSError")
    assert rulings(results)["gaussian"].verdict == "not made"
    RunDir.create(tmp_path / "runs", fakes.chain("no_dual", 0), RuntimeConfig())


def test_a_study_without_a_rule_has_no_verdicts(three: StudyResults) -> None:
    assert rulings(three) == {}
