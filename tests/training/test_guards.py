"""Alarms and budgets."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch

from fvar.errors import StageFailed
from fvar.training.guards import NonFiniteGuard, SpikeAlarm


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_steps_that_were_left_out_are_kept_with_their_items_until_the_budget_ends(
    tmp_path: Path, loss: float, norm: float, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = NonFiniteGuard(tmp_path, budget=1, writes=True)
    guard.note(3, "train", loss, [0.5, norm], torch.tensor([5, 7]))
    (entry,) = json.loads((tmp_path / "bad_batches.json").read_text())
    assert entry["items"] == [5, 7]
    assert f"loss {loss}, gradient norm {norm}: not finite" in capsys.readouterr().out
    with pytest.raises(StageFailed, match=r"bad_batches\.json"):
        guard.note(4, "train", loss, [norm], torch.tensor([1]))


def test_spike_is_announced_and_noise_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    alarm = SpikeAlarm(sigmas=8.0)
    noise = random.Random(0)
    assert not any(alarm.check(step, 5 - 0.01 * step + noise.gauss(0, 0.1)) for step in range(200))
    assert alarm.check(200, 7.0)
    assert "step 200: loss 7 spikes above" in capsys.readouterr().out
