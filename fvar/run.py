"""Run one stage from its directory: by hand, in a job, under torchrun or in a debugger.

    python -m fvar.run results/runs/var-0123456789abcdef
    torchrun --nproc-per-node 8 -m fvar.run results/runs/var-0123456789abcdef

Killed at any moment, the same command continues it. Exit status: 0 done, 1 failed (see RUN_DIR/log) or stopped by
trouble with the disk, 2 the command or the directory is wrong, 75 stopped by a signal after a checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fvar import plugins
from fvar.config import data_of
from fvar.errors import DiskTrouble, Interrupted, RankLost, StageFailed, UserError, run_main
from fvar.machine import troubles, vitals
from fvar.rundir import RunDir, State, Status

if TYPE_CHECKING:
    import torch

HEARTBEAT_SECONDS = 10.0  # between two refreshes of a running stage's status, at most
PARALLEL_KINDS = ("tokenizer", "tokens", "var", "samples")  # by all ranks together; the rest by rank 0
MIN_FREE_BYTES = 64 << 20  # below this no stage starts


def execute(path: Path, *, echo: bool = False) -> Status:
    """Run the stage in `path` unless it is done; returns its final status.

    With `echo` what goes to the log is also printed. Raises `UserError` for a wrong, edited or busy directory or a
    missing input, `StageFailed` when the stage ends in an error, `DiskTrouble` where that is one which passes,
    `Interrupted` when a signal stopped it.
    """
    run = RunDir.open(path)
    if run.done:
        return run.status
    _require_trainable(run)
    _require_same_code(run)
    _require_inputs(run)
    _require_space(run)
    from fvar.machine import signals

    with signals.raising():
        # Importing torch takes seconds: everything above answers without it.
        import torch

        from fvar.machine import distributed

        if run.runtime.threads:
            torch.set_num_threads(run.runtime.threads)
        device = distributed.pick_device(run.runtime.device)
        with distributed.process_group(device):
            first = distributed.rank() == 0
            with _owning(run) if first else contextlib.nullcontext():
                # Another process may have finished it since we looked; all ranks must see the same answer.
                if distributed.from_first(not run.done):
                    if first:
                        _supervised(run, device, echo)
                    elif run.kind in PARALLEL_KINDS:
                        with distributed.telling_of_trouble():
                            _stage(run)
    return run.status


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fvar.run", description="Run one stage from its run directory, or continue it."
    )
    parser.add_argument("run_dir", type=Path, help="e.g. results/runs/var-0123456789abcdef")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="that the stage's kind is of")
    arguments = parser.parse_args()
    plugins.load(arguments.plugin)
    execute(arguments.run_dir, echo=True)
    return 0


# -------------------------------------------------------------------------------------------------------------- checks


def _require_trainable(run: RunDir) -> None:
    weights = getattr(run.config, "weights", "")
    if weights:
        raise UserError(
            f"{run.name} stands for imported weights ({weights[:15]}...), which no training makes; write them with: "
            "python -m fvar.compat import"
        )


def _require_same_code(run: RunDir) -> None:
    if run.revision != run.config.REVISION:
        raise UserError(
            f"{run.name} was begun by revision {run.revision} of the {run.kind} stage, and this code is revision "
            f"{run.config.REVISION}: two codes must not share a result; repeat the study's command for a new one"
        )


def _require_inputs(run: RunDir) -> None:
    for role in run.input_names:
        upstream = run.input(role)
        if not upstream.done:
            raise UserError(
                f"{run.name} needs {upstream.name} as its input {role!r}, which is {upstream.status.state}; "
                f"first: python -m fvar.run {shlex.quote(str(upstream.path))}"
            )


def _require_space(run: RunDir) -> None:
    free = shutil.disk_usage(run.path).free
    if free < MIN_FREE_BYTES:
        message = f"only {free >> 20} MiB are free where {run.path} lies, at least {MIN_FREE_BYTES >> 20} are needed"
        with contextlib.suppress(OSError), run.lock():
            run.update(error=message, disk_trouble=True)
        raise DiskTrouble(f"{message}; free some space and run it again")


@contextlib.contextmanager
def _owning(run: RunDir) -> Iterator[None]:
    """Hold the run's lock; a disk that cannot be written is the user's to know, not a traceback."""
    try:
        with run.lock():
            try:
                yield
            except OSError as error:
                if trouble := troubles.passing(error, run.path):
                    with contextlib.suppress(OSError):
                        run.update(error=trouble, disk_trouble=True)
                raise
    except OSError as error:
        if troubles.passing(error):
            raise DiskTrouble(f"{_explain(error, run)}; once that has passed, run it again") from error
        raise


def _explain(error: BaseException, run: RunDir) -> str:
    """One line about why a stage ended."""
    if isinstance(error, UserError):
        return str(error)
    if trouble := troubles.passing(error, run.path):
        return trouble
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return f"the file size limit is reached ({error.filename}); raise it (ulimit -f) and run it again"
    return traceback.format_exception_only(error)[-1].strip()


# ----------------------------------------------------------------------------------------------------------- one stage


def _stage(run: RunDir) -> None:
    from fvar.machine import distributed

    with distributed.blaming_lost_ranks():
        plugins.compute(run)


def _supervised(run: RunDir, device: torch.device, echo: bool) -> None:
    """Run the stage with its log and heartbeat, and decide the state it ends in."""
    from fvar.machine import precision

    asked = precision.asked_by(run.config)
    computed = precision.computed(asked, device) if asked else None
    before = run.status
    started = time.time()

    def settle(state: State, **more: Any) -> None:
        run.update(state=state, pid=0, eta=None, seconds=before.seconds + time.time() - started, **more)

    attempt = before.attempts + 1
    changes = {"started": started, "attempts": attempt, "host": socket.gethostname(), "pid": os.getpid()}
    run.update(state="running", error="", disk_trouble=False, note="", **changes)
    _record_attempt(run, attempt, started, {"precision": asked, "computed_in": computed})
    with _log_to(run.path / "log", echo):
        print(f"--- {run.name}, attempt {attempt}, {time.strftime('%Y-%m-%d %H:%M:%S')}, {changes['host']}", flush=True)
        if asked and asked != computed:
            print(precision.shortfall(asked), flush=True)
        try:
            with _heartbeat(run), _same_data(run):
                _stage(run)
        except (Interrupted, KeyboardInterrupt) as stopped:
            with contextlib.suppress(OSError):
                print(f"stopped {stopped}", flush=True)
                settle("interrupted")
            raise
        except BaseException as error:
            message = _explain(error, run)
            trouble = bool(troubles.passing(error))
            with contextlib.suppress(OSError):
                if isinstance(error, UserError):  # the data or the settings are wrong, not the code
                    print(f"error: {message}", flush=True)
                else:
                    traceback.print_exc()
            with contextlib.suppress(OSError):  # a full disk must not hide the error that is being reported
                # Whoever started the ranks decides how often a stage that keeps losing one is started again.
                lost = trouble or isinstance(error, RankLost)
                settle("interrupted" if lost else "failed", error=message, disk_trouble=trouble)
            if isinstance(error, UserError) and not isinstance(error, StageFailed):
                raise
            if trouble:
                raise DiskTrouble(f"{run.name} stopped: {message}; once that has passed, run it again") from error
            raise StageFailed(f"{run.name} failed: {message}; see {run.path / 'log'}") from error
    settle("done")  # where this cannot be written, the checkpoints are still needed
    shutil.rmtree(
        run.path / "checkpoints", ignore_errors=True
    )  # the output is written; nothing will continue from them


@contextlib.contextmanager
def _same_data(run: RunDir) -> Iterator[None]:
    """Refuse a result whose data changed before it began or while it was computed."""

    def check() -> None:
        for data in set(data_of(run.config)):
            data.require_unchanged()

    check()
    yield
    check()


def _record_attempt(run: RunDir, attempt: int, started: float, arithmetic: Mapping[str, str | None]) -> None:
    """Append what this attempt runs on to `attempts.jsonl`: never part of the run's identity."""
    import torch

    names = ("fvar", "torch", "torchvision", "numpy", "safetensors")
    record = {
        "attempt": attempt,
        "started": started,
        "command": sys.argv,
        "commit": commit_of_this_code(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "ranks": int(os.environ.get("WORLD_SIZE", "1")),
        **arithmetic,
        **plugins.provenance(run.kind),
    }
    with open(run.path / "attempts.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def git_commit(source: Path) -> str:
    """The commit of the source tree, with "+" if files differ from it; "" for a source that is not a repository's own.

    An installation or a copy may lie within another repository, whose commit says nothing of it.
    """

    def ask(*words: str) -> str:
        command = ["git", "-C", str(source), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()

    try:
        if ask("ls-files", "--full-name", "fvar/__init__.py") != "fvar/__init__.py":
            return ""
        return ask("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def commit_of_this_code() -> str:
    """The commit this module is from; a copy made for a job carries it in a file beside the packages."""
    source = Path(__file__).resolve().parents[1]
    noted = source / "commit"
    return noted.read_text().strip() if noted.exists() else git_commit(source)


@contextlib.contextmanager
def _heartbeat(run: RunDir) -> Iterator[None]:
    """Refresh the status regularly, so that a reader can tell a slow stage from a dead one, and note the load."""
    finished, load = threading.Event(), vitals.Vitals()

    def beat() -> None:
        while not finished.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                run.update()
                run.log_load(load.read())

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


class _Tee(io.TextIOBase):
    """Text that goes to several streams."""

    def __init__(self, *streams: TextIO) -> None:
        self.streams = streams

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()


@contextlib.contextmanager
def _log_to(path: Path, echo: bool) -> Iterator[None]:
    """Append what is printed to the log, and print it too if `echo`."""
    with open(path, "a", buffering=1, encoding="utf-8", errors="backslashreplace") as file:
        out = _Tee(file, sys.stdout) if echo else _Tee(file)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            yield


if __name__ == "__main__":
    run_main(main)
