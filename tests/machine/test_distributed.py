"""Several ranks are the same training as one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from fvar.errors import UserError
from fvar.machine import distributed
from fvar.training.loop import train
from tests.training.processes import records, run_ranks, train_toy_rank
from tests.training.toy import ToyTask, config, run_dir


def plain() -> ToyTask:
    """Without random numbers, as `train_toy_rank` trains it."""
    return ToyTask(dropout=0.0, noise=0.0)


def assert_close(path: Path, other: Path) -> None:
    ours, theirs = records(path), records(other)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert {key: pytest.approx(value, abs=1e-5) for key, value in a.items() if key != "split"} == {
            key: value for key, value in b.items() if key != "split"
        }


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = run_dir(tmp_path_factory.mktemp("one"), config())
    train(plain(), run, config())
    return run.path


def test_two_gloo_ranks_give_the_losses_of_one(tmp_path: Path, one_rank: Path) -> None:
    run = run_dir(tmp_path, config())
    assert run_ranks(2, train_toy_rank, run.path, config()) == [0, 0]
    assert_close(run.path, one_rank)


def test_a_dead_rank_ends_the_run_and_one_rank_can_continue_it(
    tmp_path: Path, one_rank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_dir(tmp_path, config())
    survivor, dead = run_ranks(2, train_toy_rank, run.path, config(), 34)
    assert dead == 9
    assert survivor not in (0, None)  # it ended, and by itself: nobody had to kill it
    train(plain(), run, config())
    assert "continued from checkpoint 30" in capsys.readouterr().out
    assert_close(run.path, one_rank)


def take_turns(path: Path) -> None:
    with distributed.process_group(torch.device("cpu")), distributed.first_rank_first():
        if distributed.rank() == 0:
            time.sleep(0.3)
            path.touch()
        assert path.exists()


def test_the_first_rank_is_done_before_the_others_begin(tmp_path: Path) -> None:
    assert run_ranks(3, take_turns, tmp_path / "left by the first") == [0, 0, 0]


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_do_not_change_the_training(tmp_path: Path, one_rank: Path, accumulate: int) -> None:
    run = run_dir(tmp_path, config(), accumulate=accumulate)
    train(plain(), run, config())
    assert_close(run.path, one_rank)


def test_batch_too_small_to_cut_is_refused(tmp_path: Path) -> None:
    run = run_dir(tmp_path, config(batch_size=4), accumulate=8)
    with pytest.raises(UserError, match="cannot be cut into 1 ranks x 8 micro-batches"):
        train(ToyTask(), run, config(batch_size=4))


def test_unknown_device_is_named() -> None:
    with pytest.raises(UserError, match="'gpu0' is not a device"):
        distributed.pick_device("gpu0")
