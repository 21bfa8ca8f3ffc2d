"""Killed at any moment and continued, a training ends exactly where it would have ended."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fvar.errors import Interrupted, StageFailed
from fvar.rundir import RunDir
from fvar.training import checkpoint
from fvar.training.checkpoint import Checkpoints
from fvar.training.data_order import global_batch
from fvar.training.loop import train
from tests.training import processes
from tests.training.processes import records, start, train_toy
from tests.training.toy import ToyTask, config, run_dir

OFTEN = 5  # steps between checkpoints
PAUSE = 0.01  # seconds after every step of an attempt that is to be killed: 0.6 s in all, of which many for checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    run = run_dir(tmp_path_factory.mktemp("whole"), config(), checkpoint_steps=OFTEN)
    start(train_toy, run.path, config()).join()
    return run.path


def kill_and_continue(root: Path, kills: int, *, writing: bool) -> Path:
    """Kill a run at random moments, or at random checkpoints that are just being written; then let it end."""
    run = run_dir(root, config(), checkpoint_steps=OFTEN)
    while kills:
        (run.path / "log").unlink(missing_ok=True)
        process = start(train_toy, run.path, config(), pause=PAUSE)
        wait_until((run.path / "log").exists, process)
        time.sleep(random.uniform(0, 60 * PAUSE))
        if writing:
            wait_until(lambda: any(run.path.glob("checkpoints/.writing-*")), process)
        process.kill()
        process.join()
        kills -= process.exitcode == -signal.SIGKILL  # it may have ended before
    start(train_toy, run.path, config()).join()
    return run.path


def wait_until(true: Callable[[], bool], process: BaseProcess) -> None:
    """Wait for something the process does, or for its end."""
    while not true() and process.is_alive():
        time.sleep(0.0005)


def assert_same_end(path: Path, whole: Path) -> None:
    assert records(path) == records(whole)
    assert (path / "weights").read_text() == (whole / "weights").read_text()


@pytest.mark.parametrize("writing", [False, True], ids=["any moment", "checkpoint writing"])
def test_run_killed_at_a_random_moment_continues_to_the_identical_end(
    whole: Path, tmp_path: Path, writing: bool
) -> None:
    assert_same_end(kill_and_continue(tmp_path, kills=1, writing=writing), whole)


def test_run_killed_again_and_again_still_ends_identically(whole: Path, tmp_path: Path) -> None:
    assert_same_end(kill_and_continue(tmp_path, kills=3, writing=False), whole)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_twenty_random_kills_all_continue_to_the_identical_end(whole: Path, tmp_path: Path, moment: int) -> None:
    """Every other one while a checkpoint is being written."""
    assert_same_end(kill_and_continue(tmp_path, kills=1, writing=moment % 2 == 1), whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_signal_writes_a_checkpoint_of_the_step_it_came_in(tmp_path: Path, number: int) -> None:
    class Signalled(ToyTask):
        def after_step(self, step: int, batches: Sequence[Tensor]) -> None:
            if step == 13:
                os.kill(os.getpid(), number)

    run = run_dir(tmp_path, config(), checkpoint_steps=0)
    with pytest.raises(Interrupted, match=f"{signal.Signals(number).name}, checkpoint 14 written"):
        train(Signalled(), run, config())
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step-00000014"]

    whole = run_dir(tmp_path / "whole", config())
    train(ToyTask(), whole, config())
    train(ToyTask(), run, config())
    assert records(run.path) == records(whole.path)


def test_averaged_weights_and_half_logged_windows_survive_a_stop(tmp_path: Path) -> None:
    """Stopping between two records loses neither the average of the window nor that of the weights."""
    averaging = config(ema=0.9, precision="bf16")
    whole = run_dir(tmp_path / "whole", averaging, log_every=7)
    task = ToyTask()
    train(task, whole, averaging)

    class Signalled(ToyTask):
        def after_step(self, step: int, batches: Sequence[Tensor]) -> None:
            if step == 30:
                os.kill(os.getpid(), signal.SIGTERM)

    run = run_dir(tmp_path / "cut", averaging, log_every=7)
    with pytest.raises(Interrupted):
        train(Signalled(), run, averaging)
    continued = ToyTask()
    train(continued, run, averaging)
    assert records(run.path) == records(whole.path)
    assert processes.fingerprint(continued) == processes.fingerprint(task)


class BestInTheMiddle(ToyTask):
    """Its held-out loss is lowest after 20 steps, whatever it learns."""

    stop_at = -1

    def after_step(self, step: int, batches: Sequence[Tensor]) -> None:
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def evaluate(self, step: int) -> dict[str, float]:
        return super().evaluate(step) | {"error": abs(step - 20) / 100}


@pytest.mark.parametrize("stop_at", [-1, 8, 19, 33, 57])
def test_the_best_checkpoint_stays_and_is_deployed_where_asked_for(tmp_path: Path, stop_at: int) -> None:
    """Whether the run was stopped or not, before the best evaluation, with it or after it."""
    best = config(deploy="best", eval_every=10, ema=0.5)
    run = run_dir(tmp_path, best, checkpoint_steps=7, keep_checkpoints=1)
    task = BestInTheMiddle()
    task.stop_at = stop_at
    if stop_at >= 0:
        with pytest.raises(Interrupted):
            train(task, run, best)
        task = BestInTheMiddle()
    train(task, run, best)
    checkpoints = Checkpoints(run.path / "checkpoints", keep=1)
    assert checkpoints.steps == [20, 60]
    averages = checkpoints.read(20).tensors["averaged"]
    for name, weight in task.net.state_dict().items():
        assert torch.equal(weight, averages[f"generator.{name}"])


def test_a_damaged_best_checkpoint_is_not_replaced_by_the_last(tmp_path: Path) -> None:
    best = config(deploy="best", eval_every=10)
    task = BestInTheMiddle()
    task.stop_at = 40
    run = run_dir(tmp_path, best)
    with pytest.raises(Interrupted):
        train(task, run, best)
    (run.path / "checkpoints" / "step-00000020" / "state.json").unlink()
    with pytest.raises(StageFailed, match=r"of step 20, is damaged \(state.json is missing\); delete .*checkpoints"):
        train(BestInTheMiddle(), run, best)


def test_time_alone_triggers_checkpoints(tmp_path: Path) -> None:
    run = run_dir(tmp_path, config(steps=5), checkpoint_steps=0, checkpoint_seconds=1e-6, keep_checkpoints=9)
    train(ToyTask(), run, config(steps=5))
    assert len(list((run.path / "checkpoints").glob("step-*"))) == 5


def test_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Signalled(ToyTask):
        def after_step(self, step: int, batches: Sequence[Tensor]) -> None:
            if step == 30:
                os.kill(os.getpid(), signal.SIGTERM)

    run = run_dir(tmp_path, config())
    with pytest.raises(Interrupted):
        train(Signalled(), run, config())
    weights = run.path / "checkpoints" / "step-00000031" / "module-net.safetensors"
    body = bytearray(weights.read_bytes())
    body[-3] ^= 1
    weights.write_bytes(body)
    train(ToyTask(), run, config())
    warning = "checkpoint 31 is damaged (module-net.safetensors fails its checksum); continued from 30"
    assert RunDir.open(run.path).status.note == warning
    assert f"warning: {warning}" in capsys.readouterr().out

    whole = run_dir(tmp_path / "whole", config())
    train(ToyTask(), whole, config())
    assert records(run.path) == records(whole.path)


def test_nan_is_skipped_within_the_budget(tmp_path: Path) -> None:
    run = run_dir(tmp_path, config())
    task = ToyTask(poison=range(20, 23))
    train(task, run, config())
    assert all(p.isfinite().all() for p in task.net.parameters())
    assert [str(record["loss"]) for record in run.metrics("train") if record["step"] == 21] == ["nan"]
    assert run.status.loss is not None
    assert run.status.loss < 1


def test_nan_beyond_the_budget_stops_and_names_the_batch(tmp_path: Path) -> None:
    run = run_dir(tmp_path, config(), bad_steps=2)
    with pytest.raises(StageFailed, match=r"3 steps were not finite \(runtime.bad_steps allows 2\)"):
        train(ToyTask(poison=range(20, 60)), run, config())
    bad = json.loads((run.path / "bad_batches.json").read_text())
    assert [entry["step"] for entry in bad] == [20, 21, 22]
    assert bad[0]["items"] == global_batch(37, 16, 0, 20).tolist()


def test_budget_is_not_renewed_by_a_resume(tmp_path: Path) -> None:
    class Signalled(ToyTask):
        def after_step(self, step: int, batches: Sequence[Tensor]) -> None:
            if step == 22:
                os.kill(os.getpid(), signal.SIGTERM)

    run = run_dir(tmp_path, config(), bad_steps=3)
    with pytest.raises(Interrupted):
        train(Signalled(poison=range(20, 23)), run, config())
    with pytest.raises(StageFailed):
        train(ToyTask(poison=range(30, 31)), run, config())


def test_full_disk_ends_the_training_and_spares_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_dir(tmp_path, config())
    written: list[Path] = []

    def save(content: dict[str, Tensor], path: Path) -> None:
        written.append(path)
        if len(written) > 12:  # five files a checkpoint: in the middle of the third
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(content, path)

    monkeypatch.setattr(checkpoint, "save_file", save)
    with pytest.raises(OSError, match="No space left on device"):
        train(ToyTask(), run, config())
    assert [path.name for path in sorted((run.path / "checkpoints").iterdir())] == ["step-00000010", "step-00000020"]

    monkeypatch.undo()
    train(ToyTask(), run, config())
    undisturbed = run_dir(tmp_path / "whole", config())
    train(ToyTask(), undisturbed, config())
    assert records(run.path) == records(undisturbed.path)
