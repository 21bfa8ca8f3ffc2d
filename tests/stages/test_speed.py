"""The stage that times sampling: networks take turns, warm-up is left out, and what does not fit is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fvar.config import RuntimeConfig, SpeedConfig, Stage
from fvar.errors import UserError
from fvar.rundir import RunDir
from fvar.stages import speed
from tests.canary.stages import canaries

CONFIG = next(canary.stage.config for canary in canaries() if canary.name == "speed")
assert isinstance(CONFIG, SpeedConfig)


def made(root: Path, config: SpeedConfig = CONFIG) -> RunDir:
    return RunDir.create(root, Stage(config), RuntimeConfig(device="cpu"))


def rows(run: RunDir) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run.path / "speed.json").read_text())["rows"]
    return found


def test_every_network_and_batch_is_timed_as_often_as_asked_after_a_warm_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int, int]] = []

    def timed(config: SpeedConfig, var: Any, vqvae: Any, labels: torch.Tensor, number: int) -> float:
        mixer = "mvar" if any("mamba" in name for name, _ in var.named_parameters()) else "var"
        calls.append((mixer, len(labels), number))
        return 100.0 if number == 0 else float(number)

    monkeypatch.setattr(speed, "_timed", timed)
    run = made(tmp_path)
    speed.run(run)
    assert [(row["mixer"], row["batch"], row["seconds"]) for row in rows(run)] == [
        ("var", 1, [1.0, 2.0]),
        ("mvar", 1, [1.0, 2.0]),
        ("var", 2, [1.0, 2.0]),
        ("mvar", 2, [1.0, 2.0]),
    ]
    assert calls[:4] == [("var", 1, 0), ("mvar", 1, 0), ("var", 1, 1), ("mvar", 1, 1)]  # in turns


def test_a_batch_beyond_the_memory_is_told_and_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(config: SpeedConfig, var: Any, vqvae: Any, labels: torch.Tensor, number: int) -> float:
        if len(labels) == 2:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(speed, "_timed", timed)
    run = made(tmp_path)
    speed.run(run)
    told = {(row["batch"], row["reason"]) for row in rows(run)}
    assert told == {(1, ""), (2, "a batch of 2 does not fit into the memory")}


def test_a_setting_that_times_nothing_is_refused() -> None:
    for wrong in ({"mixers": ()}, {"batches": ()}, {"batches": (0,)}, {"warmup": -1}):
        with pytest.raises(UserError, match=r"^speed needs [^\n]+$"):
            replace(CONFIG, **wrong)
