"""Running a stage from its directory: states, logs, refusals, and who may write."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fvar import run as runner
from fvar.config import DataConfig, RuntimeConfig, SamplesConfig, Stage, TokenizerConfig, TokensConfig, VarConfig
from fvar.errors import DataChanged, DiskTrouble, Interrupted, StageFailed, UserError
from fvar.rundir import RunDir, Status

Body = Callable[[RunDir], None]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, Stage(SamplesConfig()), RuntimeConfig(device="cpu"))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], None]:
    """Lets a test say what the stage does."""

    def use(body: Body) -> None:
        module = ModuleType("fvar.stages.samples")
        module.run = body  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fvar.stages.samples", module)

    return use


def test_finished_stage_is_done_and_not_repeated(run: RunDir, stage: Callable[[Body], None]) -> None:
    calls = []

    def body(run: RunDir) -> None:
        calls.append(run.path)
        print("made it")

    stage(body)
    status = runner.execute(run.path)
    runner.execute(run.path)
    assert (status.state, status.attempts, calls) == ("done", 1, [run.path])
    assert "made it" in (run.path / "log").read_text()
    assert status.seconds > 0


def test_attempt_is_recorded_with_its_versions(run: RunDir, stage: Callable[[Body], None]) -> None:
    stage(lambda run: None)
    runner.execute(run.path)
    (attempt,) = map(json.loads, (run.path / "attempts.jsonl").read_text().splitlines())
    assert attempt["attempt"] == 1
    assert attempt["versions"]["torch"]
    assert {"commit", "host", "device", "command", "python"} <= attempt.keys()


def test_failure_keeps_its_last_line_and_its_traceback(run: RunDir, stage: Callable[[Body], None]) -> None:
    def explode(run: RunDir) -> None:
        raise ZeroDivisionError("over nothing")

    stage(explode)
    with pytest.raises(StageFailed, match=r"failed: ZeroDivisionError: over nothing; see .*log"):
        runner.execute(run.path)
    assert (run.status.state, run.status.error) == ("failed", "ZeroDivisionError: over nothing")
    assert "in explode" in (run.path / "log").read_text()


def test_users_mistake_found_by_a_stage_is_a_line_in_the_log_and_no_traceback(
    run: RunDir, stage: Callable[[Body], None]
) -> None:
    def refuse(run: RunDir) -> None:
        raise UserError("data: 4 of 300 files cannot be read; restore them")

    stage(refuse)
    with pytest.raises(UserError, match=r"^data: 4 of 300"):
        runner.execute(run.path)
    assert run.status.error == "data: 4 of 300 files cannot be read; restore them"
    log = (run.path / "log").read_text()
    assert log.endswith("error: data: 4 of 300 files cannot be read; restore them\n")
    assert "Traceback" not in log


def test_failed_stage_may_be_tried_again_and_time_adds_up(run: RunDir, stage: Callable[[Body], None]) -> None:
    def explode(run: RunDir) -> None:
        raise ValueError

    stage(explode)
    with pytest.raises(StageFailed):
        runner.execute(run.path)
    first = run.status.seconds
    stage(lambda run: None)
    status = runner.execute(run.path)
    assert (status.state, status.attempts, status.error) == ("done", 2, "")
    assert status.seconds > first


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "the disk has an input/output error"),
        (errno.ESTALE, "the file server has lost track of a file"),
        (errno.ENOTCONN, "Transport endpoint is not connected"),
    ],
)
def test_trouble_with_the_disk_is_named_and_is_no_verdict(
    run: RunDir, stage: Callable[[Body], None], number: int, words: str
) -> None:
    def write(run: RunDir) -> None:
        raise OSError(number, os.strerror(number), str(run.path / "model.safetensors"))

    stage(write)
    with pytest.raises(DiskTrouble, match=words):
        runner.execute(run.path)
    assert (run.status.state, run.status.disk_trouble) == ("interrupted", True)
    assert run.status.error.startswith(words)
    assert "model.safetensors" in run.status.error
    stage(lambda run: None)
    status = runner.execute(run.path)
    assert (status.state, status.error, status.disk_trouble) == ("done", "", False)


def test_a_file_size_limit_is_a_verdict(run: RunDir, stage: Callable[[Body], None]) -> None:
    def write(run: RunDir) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), "model.safetensors")

    stage(write)
    with pytest.raises(StageFailed, match="ulimit -f"):
        runner.execute(run.path)
    assert (run.status.state, run.status.disk_trouble) == ("failed", False)


def test_a_result_whose_end_cannot_be_written_keeps_its_checkpoints(
    run: RunDir, stage: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RunDir.update

    def update(self: RunDir, **changes: Any) -> Status:
        if changes.get("state") == "done":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(self.path / "status.json"))
        return real(self, **changes)

    stage(lambda run: (run.path / "checkpoints").mkdir())
    monkeypatch.setattr(RunDir, "update", update)
    with pytest.raises(DiskTrouble, match="the disk quota is used up"):
        runner.execute(run.path)
    assert (run.path / "checkpoints").exists()
    assert run.status.disk_trouble


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_no_result_is_kept_of_data_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "data" / "cat" / "0.png"
    image.parent.mkdir(parents=True)
    image.write_text("a cat")
    data = DataConfig(dataset="folder", root=str(tmp_path / "data")).found()
    run = RunDir.create(tmp_path / "runs", Stage(TokenizerConfig(data=data)), RuntimeConfig(device="cpu"))
    trained = []

    def body(run: RunDir) -> None:
        trained.append(run.name)
        image.write_text("another cat")

    module = ModuleType("fvar.stages.tokenizer")
    module.run = body  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fvar.stages.tokenizer", module)
    if when == "before":
        image.write_text("a dog")
    with pytest.raises(DataChanged, match="changed since this was planned"):
        runner.execute(run.path)
    assert run.status.state == "failed"
    assert trained == ([] if when == "before" else [run.name])


def test_little_space_is_said_before_the_stage_starts(
    run: RunDir, stage: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(lambda run: pytest.fail("started"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 << 20))
    with pytest.raises(DiskTrouble, match="only 5 MiB are free"):
        runner.execute(run.path)
    assert (run.status.state, run.status.disk_trouble, run.locked) == ("waiting", True, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signal_interrupts_and_reaches_the_handler_in_place_before(
    run: RunDir, stage: Callable[[Body], None], number: signal.Signals
) -> None:
    """As submitit's handler, which requeues the job once the stage has settled its status."""
    seen: list[tuple[int, str]] = []
    before = signal.signal(number, lambda received, frame: seen.append((received, run.status.state)))
    try:
        stage(lambda run: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted, match=number.name):
            runner.execute(run.path)
    finally:
        signal.signal(number, before)
    assert seen == [(number, "interrupted")]
    assert run.status.state == "interrupted"


@pytest.mark.parametrize("config", [TokenizerConfig(weights="sha256:0123"), VarConfig(weights="sha256:0123")])
def test_imported_weights_are_never_trained(tmp_path: Path, config: TokenizerConfig | VarConfig) -> None:
    run = RunDir.create(tmp_path, Stage(config), RuntimeConfig())
    with pytest.raises(UserError, match=r"imported weights \(sha256:0123.*fvar.compat import") as refusal:
        runner.execute(run.path)
    assert "\n" not in str(refusal.value)
    assert run.status.state == "waiting"


def test_inputs_must_be_done(tmp_path: Path) -> None:
    tokens = RunDir.create(tmp_path, Stage(TokensConfig(), {"tokenizer": Stage(TokenizerConfig())}), RuntimeConfig())
    with pytest.raises(
        UserError, match=r"needs tokenizer-\w+ as its input 'tokenizer', which is waiting; first: python"
    ):
        runner.execute(tokens.path)


def test_directory_at_work_is_refused(run: RunDir, stage: Callable[[Body], None]) -> None:
    stage(lambda run: pytest.fail("ran twice at once"))
    with run.lock(), pytest.raises(UserError, match="is being written by process"):
        runner.execute(RunDir.open(run.path).path)


def test_heartbeat_refreshes_the_status_of_a_silent_stage(
    run: RunDir, stage: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0.01)
    seen = []

    def silent(run: RunDir) -> None:
        started = run.status.updated
        wait = threading.Event()
        while run.status.updated == started:
            wait.wait(0.005)
        seen.append(run.status.state)

    stage(silent)
    runner.execute(run.path)
    assert seen == ["running"]
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    first, *_ = (run.path / "system.jsonl").read_text().splitlines()
    assert json.loads(first)["time"] > 0


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fvar.run", *arguments], capture_output=True, text=True)


def test_command_refuses_an_edited_directory_in_one_line(run: RunDir) -> None:
    body = json.loads((run.path / "config.json").read_text())
    body["config"]["guidance"] = 4.0
    (run.path / "config.json").write_text(json.dumps(body))
    done = command(str(run.path))
    assert done.returncode == 2
    assert "config.guidance: 1.5 -> 4.0" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert run.status.state == "waiting"


def test_command_explains_itself() -> None:
    assert "RUN_DIR" in command("--help").stdout.upper()
    assert command().returncode == 2
