"""Several ranks are the same training as one."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from fvar.errors import UserError
from fvar.training import distributed
from fvar.training.loop import train
from tests.training.processes import records, start, train_rank
from tests.training.toy import ToyTask, config, run_dir

PLAIN = {"dropout": 0.0, "noise": 0.0}


def run_two_ranks(path: Path, die_at: int = -1) -> list[int | None]:
    """Train with two gloo processes; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(train_rank, rank, 2, port, path, config(), die_at) for rank in range(2)]
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


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
    train(ToyTask(**PLAIN), run, config())
    return run.path


def test_two_gloo_ranks_give_the_losses_of_one(tmp_path: Path, one_rank: Path) -> None:
    run = run_dir(tmp_path, config())
    assert run_two_ranks(run.path) == [0, 0]
    assert_close(run.path, one_rank)


def test_a_dead_rank_ends_the_run_and_one_rank_can_continue_it(
    tmp_path: Path, one_rank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_dir(tmp_path, config())
    started = time.monotonic()
    assert 0 not in run_two_ranks(run.path, die_at=34)
    assert time.monotonic() - started < 45
    train(ToyTask(**PLAIN), run, config())
    assert "continued from checkpoint 30" in capsys.readouterr().out
    assert_close(run.path, one_rank)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_do_not_change_the_training(tmp_path: Path, one_rank: Path, accumulate: int) -> None:
    run = run_dir(tmp_path, config(), accumulate=accumulate)
    train(ToyTask(**PLAIN), run, config())
    assert_close(run.path, one_rank)


def test_batch_too_small_to_cut_is_refused(tmp_path: Path) -> None:
    run = run_dir(tmp_path, config(batch_size=4), accumulate=8)
    with pytest.raises(UserError, match="cannot be cut into 1 ranks x 8 micro-batches"):
        train(ToyTask(), run, config(batch_size=4))


def test_unknown_device_is_named() -> None:
    with pytest.raises(UserError, match="'gpu0' is no device"):
        distributed.pick_device("gpu0")
