"""Trainings in processes of their own, so that a test can kill them.

A fork server imports torch once; its children start in milliseconds.
"""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from fvar.config import TrainConfig
from fvar.errors import run_main
from fvar.machine import distributed
from fvar.run import execute
from fvar.rundir import RunDir
from fvar.tasks.var import VarTask
from fvar.training.loop import train
from tests.training.toy import ToyTask

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch._dynamo", "tests.training.processes"])


def start(target: Callable[..., None], *arguments: Any, **named: Any) -> BaseProcess:
    """Run `target(*arguments, **named)` in a child process."""
    process = CONTEXT.Process(target=target, args=arguments, kwargs=named, daemon=True)
    process.start()
    return process


def train_toy(path: Path, config: TrainConfig, *, dropout: float = 0.3, noise: float = 0.1, pause: float = 0) -> None:
    """Train a toy in the run directory `path`, and leave its weights there. It sleeps for `pause` s after a step."""
    torch.set_num_threads(1)
    task = ToyTask(dropout=dropout, noise=noise)
    if pause:
        task.after_step = lambda step, batches: time.sleep(pause)  # type: ignore[method-assign]
    run = RunDir.open(path)
    with open(path / "log", "a", buffering=1) as log, redirected(log.fileno()):
        train(task, run, config)
    if distributed.rank() == 0:
        (path / "weights").write_text(fingerprint(task))


class redirected:
    """Send what this process prints to another file, at the level of the operating system."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __enter__(self) -> None:
        self.saved = os.dup(1)
        os.dup2(self.handle, 1)

    def __exit__(self, *_: object) -> None:
        os.dup2(self.saved, 1)
        os.close(self.saved)


def run_ranks(world: int, target: Callable[..., None], *arguments: Any, patience: float = 120) -> list[int | None]:
    """Run `target(*arguments)` in `world` gloo ranks; their exit codes, None for one that had to be killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(_as_rank, rank, world, port, target, arguments) for rank in range(world)]
    deadline = time.monotonic() + patience
    codes = []
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        codes.append(process.exitcode)
        process.kill()
    return codes


def _as_rank(rank: int, world: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """What torchrun does."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    target(*arguments)


def train_toy_rank(path: Path, config: TrainConfig, die_at: int = -1) -> None:
    """Train a toy without random numbers; the last rank dies at step `die_at`."""
    if die_at >= 0 and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        ToyTask.after_step = lambda self, step, batches: os._exit(9) if step == die_at else None  # type: ignore[method-assign]
    with distributed.process_group(torch.device("cpu")):
        train_toy(path, config, dropout=0.0, noise=0.0)


def execute_stage(
    path: Path, at: int = -1, happens: Callable[[], None] | None = None, says: Path | None = None
) -> None:
    """Run a stage as `python -m fvar.run` does, with its exit status; `happens()` comes with training step `at`.

    `says` is a file for what would go to the terminal.
    """
    if says:
        terminal = os.open(says, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(terminal, 1)
        os.dup2(terminal, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    if happens:
        VarTask.after_step = lambda self, step, batches: happens() if step == at else None  # type: ignore[method-assign]

    def run() -> None:
        execute(path)

    run_main(run)


def sigterm() -> None:
    """What `kill` sends."""
    signal.raise_signal(signal.SIGTERM)


def last_rank_dies() -> None:
    """As a machine does that loses its power."""
    if os.environ["RANK"] != "0":
        os._exit(9)


def last_rank_meets_a_full_disk() -> None:
    if os.environ["RANK"] != "0":
        raise OSError(errno.ENOSPC, "No space left on device", "/scratch/cache")


def fingerprint(task: ToyTask) -> str:
    """A hash of all weights, bit by bit."""
    digest = hashlib.sha256()
    for module in task.state_modules().values():
        for value in module.state_dict().values():
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def records(path: Path) -> list[dict[str, Any]]:
    """All logged numbers that must repeat exactly, so not clock readings; nan, which equals nothing, as text."""
    wanted = (record for record in RunDir.open(path).metrics() if record["split"] != "speed")
    return [
        {key: value if value == value else str(value) for key, value in record.items() if key != "time"}
        for record in wanted
    ]
