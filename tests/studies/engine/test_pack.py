"""Several stages in one job, each a process of its own: order, failures, signals, the driver's word, GPU hours."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fvar.config import RuntimeConfig, Stage, TokenizerConfig, TrainConfig
from fvar.job import JobRecord
from fvar.rundir import RunDir
from fvar.usage import gpu_hours, spans
from studies.engine.backends import pack
from studies.engine.backends.pack import Pack, members

ROOT = Path(__file__).parents[3]
WAVE = "fvar-tokenizer-0123456789ab"
QUICK = {"steps": 2, "seconds": 0.0}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are toys, and nothing is waited for longer than a test wants to."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests/slurm/toy'}:{ROOT}")
    monkeypatch.setattr(pack, "GLANCE_SECONDS", 0.02)
    monkeypatch.setattr(pack, "WORD_SECONDS", 0.1)
    monkeypatch.setattr(pack, "PASS_ON_SECONDS", 0.1)


def packed(root: Path, count: int, orders: Mapping[int, Any] | None = None, **others: Any) -> list[RunDir]:
    """Run directories that a driver has handed to one job, and what their toys do, by place."""
    stages = [Stage(TokenizerConfig(train=TrainConfig(seed=seed))) for seed in range(count)]
    runs = [RunDir.create(root / "runs", stage, RuntimeConfig()) for stage in stages]
    named = {runs[place].name: order for place, order in (orders or {}).items()}
    (root / "toy.json").write_text(json.dumps({"*": QUICK, **named, **others}))
    for run in runs:
        JobRecord("slurm", "7", WAVE, pack=count).write(run)
    return runs


def worked(runs: list[RunDir], **settings: Any) -> int:
    return Pack([run.path for run in runs], WAVE, **settings).work()


def executions(run: RunDir) -> int:
    path = run.path / "executions"
    return len(path.read_text().split()) if path.exists() else 0


def states(runs: list[RunDir]) -> list[str]:
    return [run.status.state for run in runs]


def test_a_job_takes_the_lines_of_its_number(tmp_path: Path) -> None:
    (tmp_path / "runs").write_bytes(b"".join(b"/r\xe9sults/%d\n" % number for number in range(7)))
    found = [[os.fsencode(path) for path in members(tmp_path / "runs", member, 3)] for member in range(3)]
    assert found[1] == [b"/r\xe9sults/3", b"/r\xe9sults/4", b"/r\xe9sults/5"]
    assert found[2] == [b"/r\xe9sults/6"]


def test_the_command_line_runs_each_stage_once_and_again_none(tmp_path: Path) -> None:
    runs = packed(tmp_path, 3)
    (tmp_path / "list").write_text("".join(f"{run.path}\n" for run in runs))
    command = [
        sys.executable, "-m", "studies.engine.backends.pack", str(tmp_path / "list"), "--member", "0",
        "--packing", "3", "--wave", WAVE,
    ]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert states(runs) == ["done"] * 3
        assert [executions(run) for run in runs] == [1, 1, 1]


def test_a_stage_that_fails_is_settled_and_the_others_go_on(tmp_path: Path) -> None:
    runs = packed(tmp_path, 3, {1: {**QUICK, "then": "raise"}})
    assert worked(runs) == 0
    assert states(runs) == ["done", "failed", "done"]
    assert worked(runs) == 0
    assert [executions(run) for run in runs] == [1, 1, 1]  # a requeued job does not try again what has failed


def test_a_stage_that_is_killed_takes_no_other_with_it(tmp_path: Path) -> None:
    runs = packed(tmp_path, 3, {0: {**QUICK, "then": "die"}})
    assert worked(runs) == 1
    assert states(runs) == ["running", "done", "done"]
    assert not runs[0].locked


@pytest.mark.parametrize("side_by_side", [1, 2, 3])
def test_gpu_hours_are_those_of_the_job_whoever_used_them(tmp_path: Path, side_by_side: int) -> None:
    runs = packed(tmp_path, 4, {place: {"steps": 2, "seconds": 0.1 * (place + 1)} for place in range(4)})
    assert worked(runs, side_by_side=side_by_side, held=2) == 0
    found = [span for run in runs for span in spans(run.path)]
    whole = max(span.end for span in found) - min(span.start for span in found)
    assert gpu_hours([run.path for run in runs]) * 3600 == pytest.approx(2 * whole, rel=0.15)
    middle = (max(span.start for span in spans(runs[0].path)) + spans(runs[0].path)[0].end) / 2
    assert sum(span.gpus for span in found if span.start <= middle < span.end) == pytest.approx(2)
    beside = max(sum(span.start <= moment < span.end for span in found) for moment in (s.start for s in found))
    assert beside == side_by_side


def test_stages_side_by_side_get_a_gpu_each_and_their_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    four = Pack([], WAVE, side_by_side=4, gpus=("GPU-a", "GPU-b"), cores=9)
    assert [four._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["GPU-a", "GPU-b"] * 2
    assert four._environment(0)["OMP_NUM_THREADS"] == "2"
    one = Pack([], WAVE, side_by_side=4, gpus=("3",), cores=2)
    assert "CUDA_VISIBLE_DEVICES" not in one._environment(0)
    assert one._environment(0)["OMP_NUM_THREADS"] == "1"


def later(act: Any, when: Any) -> Iterator[None]:
    """Do something in another thread as soon as `when()` holds."""

    def wait() -> None:
        deadline = time.monotonic() + 30
        while not when() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_stops_all_after_a_checkpoint_and_the_same_job_goes_on(tmp_path: Path, number: int) -> None:
    runs = packed(tmp_path, 3, {1: {"steps": 20, "seconds": 0.1, "then": "listen"}})
    for _ in later(lambda: os.kill(os.getpid(), number), lambda: runs[1].status.step >= 2):
        assert worked(runs) == 75
    assert states(runs) == ["done", "interrupted", "waiting"]
    (tmp_path / "toy.json").write_text(json.dumps({"*": {"steps": 20, "seconds": 0.0}}))
    assert worked(runs) == 0
    assert states(runs) == ["done"] * 3
    assert (runs[1].path / "steps").read_text().split() == [str(step + 1) for step in range(20)]


def test_a_signal_is_heard_whatever_the_stage_was_doing(tmp_path: Path) -> None:
    runs = packed(tmp_path, 1, {0: {"steps": 100_000, "seconds": 0.0, "then": "listen"}})  # at work on its status
    for _ in later(lambda: os.kill(os.getpid(), signal.SIGTERM), lambda: runs[0].status.step >= 5):
        assert worked(runs) == 75
    assert states(runs) == ["interrupted"]


def test_a_stage_that_has_ended_may_take_its_time_to_leave(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = packed(tmp_path, 2, {0: {**QUICK, "then": "linger"}})
    assert worked(runs) == 0
    assert "ended with status" not in capfd.readouterr().out
    assert states(runs) == ["done", "done"]


def test_a_stage_that_the_driver_ends_is_stopped_alone(tmp_path: Path) -> None:
    slow = {"steps": 100, "seconds": 0.1, "then": "listen"}
    runs = packed(tmp_path, 3, {0: slow})

    def end() -> None:
        JobRecord("slurm", "7", WAVE, pack=3, ended="it hung").write(runs[0])

    for _ in later(end, lambda: runs[0].status.step >= 1):
        assert worked(runs) == 0  # nothing is left for this job
    assert states(runs) == ["interrupted", "done", "done"]


def test_a_stage_that_ignores_the_driver_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "STOP_SECONDS", 0.2)
    runs = packed(tmp_path, 2, {0: {"steps": 100, "seconds": 0.1, "then": "ignore signals"}})
    record = JobRecord("slurm", "7", WAVE, pack=2)
    for _ in later(
        lambda: dataclasses.replace(record, ended="it hung").write(runs[0]), lambda: runs[0].status.step >= 1
    ):
        assert worked(runs) == 0
    assert states(runs) == ["running", "done"]
    assert not runs[0].locked


def test_what_the_driver_gave_to_another_job_is_not_begun(tmp_path: Path) -> None:
    runs = packed(tmp_path, 3)
    JobRecord("slurm", "8", "fvar-tokenizer-another00000").write(runs[1])
    assert worked(runs) == 0
    assert [executions(run) for run in runs] == [1, 0, 1]
    (runs[1].path / "job.json").write_bytes(b"\x00\xff")  # whose it is nobody knows; its lock decides
    assert worked(runs) == 0
    assert [executions(run) for run in runs] == [1, 1, 1]
