"""Whoever changes what a stage computes without raising its revision sees this fail with the kind's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvar.config import STAGE_CONFIGS, VarConfig
from fvar.run import execute
from fvar.tasks.distill import distillation_loss
from tests.canary.compare import differences, recorded, verdict
from tests.canary.stages import Canary, canaries, measured, prepared


def test_every_kind_has_a_canary() -> None:
    assert {canary.stage.kind for canary in canaries()} == set(STAGE_CONFIGS)


@pytest.mark.parametrize("canary", canaries(), ids=lambda canary: canary.name)
def test_the_same_configuration_computes_what_it_did(tmp_path: Path, canary: Canary) -> None:
    run = prepared(tmp_path, canary)
    execute(run.path)
    assert not (problem := verdict(canary, measured(run))), problem


def var_canary() -> Canary:
    return next(canary for canary in canaries() if canary.name == "var")


def test_a_changed_loss_is_told_with_the_kind_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(*arguments: object) -> object:
        loss, parts = distillation_loss(*arguments)  # type: ignore[arg-type]
        return loss / 2, parts

    monkeypatch.setattr("fvar.tasks.var.distillation_loss", halved)
    run = prepared(tmp_path, var_canary())
    execute(run.path)
    told = verdict(var_canary(), measured(run))
    assert told.startswith("the var stage computes something else for the same configuration")
    assert "raise VarConfig.REVISION in fvar/config.py" in told


def test_a_raised_revision_asks_for_a_new_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VarConfig, "REVISION", VarConfig.REVISION + 1)
    assert "record it anew by `python -m tests.canary var`" in verdict(var_canary(), recorded()["var"]["values"])


def test_a_few_tokens_on_a_border_are_forgiven_a_different_code_is_not() -> None:
    before = {"scale_0": [float(code) for code in range(300)]}
    assert not differences("tokens", before, {"scale_0": [7.0, *before["scale_0"][1:]]})
    assert differences("tokens", before, {"scale_0": [code + 1 for code in before["scale_0"]]})
