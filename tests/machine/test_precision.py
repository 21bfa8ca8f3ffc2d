"""Half precision is computed in where the processor can, and nowhere else in silence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from analysis import render, table
from analysis.results import StudyResults
from fvar.config import SamplesConfig, ScoresConfig, TokenizerConfig, VarConfig
from fvar.machine import precision
from fvar.run import execute
from fvar.sampling import prepare
from tests import fakes, tiny
from tests.training import tiny as training

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_kernels", lambda asked: asked == "fp32")


def test_this_processor_is_asked_for_its_kernels() -> None:
    assert precision.has_kernels("fp32")
    assert precision.has_kernels("bf16") == torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_a_processor_without_kernels_computes_in_float32_and_a_gpu_as_asked(no_kernels: None) -> None:
    for asked in ("bf16", "fp16"):
        assert precision.computed(asked, CPU) == "fp32"
        assert precision.computed(asked, GPU) == asked
    assert precision.computed("fp32", CPU) == "fp32"


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (TokenizerConfig(), "bf16"),
        (VarConfig(), "bf16"),
        (SamplesConfig(precision="fp16"), "fp16"),
        (ScoresConfig(), None),
    ],
)
def test_a_stages_precision_is_its_trainings_or_its_own(config: object, asked: str | None) -> None:
    assert precision.asked_by(config) == asked


def test_sampling_networks_stay_in_float32_without_kernels(no_kernels: None) -> None:
    var, vqvae = tiny.var(), tiny.vqvae()
    prepare(var, vqvae, "bf16", CPU)
    assert var.pos_1LC.dtype == vqvae.decoder.last_layer.dtype == torch.float32


def test_a_training_without_kernels_is_the_float32_one_and_says_so(tmp_path: Path, no_kernels: None) -> None:
    stages = {
        asked: training.var_stage(train=dataclasses.replace(training.TRAIN, precision=asked))
        for asked in ("bf16", "fp32")
    }
    runs = {asked: training.make_run(tmp_path / asked, stage) for asked, stage in stages.items()}
    for run in runs.values():
        execute(run.path)
    low, full = ([record["cross_entropy"] for record in run.metrics("train")] for run in runs.values())
    assert low == full
    notes = ["no bf16 matrix kernels; computing in float32" in (run.path / "log").read_text() for run in runs.values()]
    assert notes == [True, False]
    recorded = [run.attempts()[-1] for run in runs.values()]
    assert [(r["precision"], r["computed_in"]) for r in recorded] == [("bf16", "fp32"), ("fp32", "fp32")]


def test_a_table_names_what_was_computed_in_another_precision(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    before = render.markdown(results, table.rows(results))
    assert "Computed in" not in before
    for run in results.cells[0].chain.values():
        asked = precision.asked_by(run.config)
        record = {"precision": asked, "computed_in": "fp32" if asked else None}
        (run.path / "attempts.jsonl").write_text(json.dumps(record) + "\n")
    again = StudyResults.read(results.folder.parent.parent, results.study, results.preset)
    line = "Computed in fp32 instead of bf16, for which the processor had no kernels: samples, tokenizer, var."
    assert line in render.markdown(again, table.rows(again))
