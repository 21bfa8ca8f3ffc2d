"""What training took, beside each variant: the estimate's own numbers, and what shared stages count."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from analysis import render, table, training_cost
from analysis.results import StudyResults
from fvar.estimate import estimate
from tests import fakes


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    results = fakes.ablation(tmp_path_factory.mktemp("results"), seeds=2)
    for cell in results.cells:
        for run in cell.chain.values():
            run.update(seconds=1800.0)
    return StudyResults.read(results.folder.parent.parent, results.study, results.preset)


def test_a_teachers_flops_and_parameters_stand_beside_the_variant_that_has_one(ablation: StudyResults) -> None:
    frame = table.tidy(ablation).set_index("variant")
    for variant in ("baseline", "full"):
        stages = {stage.kind: stage for stage in fakes.chain(variant, 0).chain()}
        assert frame.loc[variant, "training_var_flops_mean"] == pytest.approx(estimate(stages["var"]).flops)
    assert len(set(frame["training_deployed_mean"])) == 1
    trained, deployed = (frame[f"training_{key}_mean"]["full"] for key in ("trained", "deployed"))
    assert trained > 2 * deployed


def test_both_tokenizers_of_a_variant_count_and_a_shared_one_counts_in_each(ablation: StudyResults) -> None:
    frame = table.tidy(ablation).set_index("variant")
    for variant, tokenizers in (("full", 2), ("no_dual", 1), ("no_teacher", 1)):
        stages = {s.name: s for s in fakes.chain(variant, 0).chain() if s.kind == "tokenizer"}
        assert len(stages) == tokenizers
        expected = sum(estimate(stage).flops for stage in stages.values())
        assert frame.loc[variant, "training_tokenizer_flops_mean"] == pytest.approx(expected)


def test_hours_are_those_of_tokenizers_token_stores_and_transformer(ablation: StudyResults) -> None:
    """Half an hour each: two tokenizers, two stores and the transformer of the full method."""
    frame = table.tidy(ablation).set_index("variant")
    assert frame.loc["full", "training_hours_mean"] == 2.5
    assert frame.loc["baseline", "training_hours_mean"] == 1.5


def test_the_table_has_them_with_three_digits_and_leaves_an_untrained_variant_blank(
    ablation: StudyResults, tmp_path: Path
) -> None:
    text = render.markdown(ablation, table.rows(ablation))
    head, _, rows = text.partition("## Training")
    assert "Training: FLOPs are the estimate" in head
    assert "| FVAR (full) |" in rows
    assert "| 2.5 |" in rows
    unfinished = fakes.ablation(tmp_path, seeds=1, unfinished=("full",))
    row = table.tidy(unfinished).set_index("variant").loc["full"]
    assert all(math.isnan(row[f"training_{cost.key}_mean"]) for cost in training_cost.COSTS)  # type: ignore[arg-type]
