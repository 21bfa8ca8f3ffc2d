"""What is read late is what would have been read at once, and a step that is left out leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fvar.errors import StageFailed
from fvar.training import loop, optim
from fvar.training.averaging import AveragedWeights
from fvar.training.loop import train
from tests.training.processes import fingerprint, records
from tests.training.toy import ToyTask, config, run_dir

POISONED = range(31, 33)  # neither logged nor a checkpoint: both are read later


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as on a GPU."""
    monkeypatch.setattr(loop, "reads_at_once", lambda device: False)


def poisoned(root: Path) -> tuple[str, list[object], list[object]]:
    """A training with two steps that are not finite: its weights, its metrics, its account of them."""
    task, run = ToyTask(poison=POISONED), run_dir(root, config(ema=0.9), log_every=7)
    train(task, run, config(ema=0.9))
    account = json.loads((run.path / "bad_batches.json").read_text())
    assert [entry["step"] for entry in account] == list(POISONED)
    return fingerprint(task), json.loads(json.dumps(records(run.path))), account


def test_reading_late_changes_neither_weights_nor_metrics_nor_the_account(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    at_once = poisoned(tmp_path / "at once")
    request.getfixturevalue("late")
    assert str(poisoned(tmp_path / "late")) == str(at_once)


@pytest.mark.usefixtures("late")
def test_a_budget_that_is_spent_ends_the_training_at_the_next_line(tmp_path: Path) -> None:
    run = run_dir(tmp_path, config(), log_every=7, checkpoint_steps=0, bad_steps=1)
    with pytest.raises(StageFailed, match="2 steps were not finite"):
        train(ToyTask(poison=POISONED), run, config())
    assert records(run.path)[-1]["step"] == 28


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_step_that_is_left_out_changes_no_weight_no_moment_and_no_average(optimiser: str) -> None:
    def trained(bad: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))
        made = optim.make(list(net.named_parameters()), config(optimiser=optimiser, weight_decay=0.1))
        averaged = AveragedWeights(dict(net.named_parameters()), 0.9)
        for step in range(4):
            wanted = torch.tensor(step != 2)
            if bad or wanted:
                for parameter in net.parameters():
                    drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
                    parameter.grad = drawn if wanted else torch.full_like(parameter, torch.nan)
                optim.step_where(made, wanted)
                averaged.update(wanted)
        state = optim.pack(made, list(net.named_parameters()))
        return [*net.parameters(), *averaged.averages.values(), *(state[key] for key in sorted(state))]

    for ours, theirs in zip(trained(bad=True), trained(bad=False), strict=True):
        assert torch.equal(ours, theirs)
