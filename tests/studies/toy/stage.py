"""A stage that only counts: it locks, logs, stops and fails as a real one does, without torch.

TOY_STEPS and TOY_SECONDS set its length; a stage whose name contains TOY_FAIL fails; each attempt leaves a
line in `attempts`, with its process and whether that began with torch, and each step one in `steps`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from fvar.errors import Interrupted, StageFailed, UserError
from fvar.rundir import RunDir, Status
from tests import fakes


def execute(path: Path, *, echo: bool = False) -> Status:
    run = RunDir.open(path)
    if run.done:
        return run.status
    for role in run.input_names:
        if not run.input(role).done:
            raise UserError(f"{run.name} needs its input {role}")
    stopped: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    try:
        with run.lock():
            return run.status if run.done else _count(run, stopped)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _count(run: RunDir, stopped: list[int]) -> Status:
    steps, seconds = int(os.environ.get("TOY_STEPS", "3")), float(os.environ.get("TOY_SECONDS", "0"))
    _append(run.path / "attempts", f"{os.getpid()} {'torch' in sys.modules}\n")
    attempt = run.status.attempts + 1
    run.update(state="running", pid=os.getpid(), host=os.uname().nodename, attempts=attempt, steps=steps, error="")
    for step in range(run.status.step, steps):
        time.sleep(seconds)
        _append(run.path / "steps", f"{step}\n")
        run.update(step=step + 1, loss=1 / (step + 1))
        if stopped:
            run.update(state="interrupted")
            raise Interrupted(f"by signal {stopped[0]}")
    pattern = os.environ.get("TOY_FAIL", "none")
    if pattern in run.name:
        _append(run.path / "log", "first line\nValueError: the toy broke\n")
        run.update(state="failed", error="ValueError: the toy broke")
        raise StageFailed(f"{run.name} failed")
    rng = np.random.default_rng(int(run.signature, 16))
    if run.kind == "var":
        fakes.log_training(run, 0.5, rng)
    if run.kind == "samples":
        fakes.write_samples(run, 0.5, rng)
    if run.kind == "scores":
        fakes.write_scores(run, rng.uniform(), rng)
    return run.update(state="done")


def _append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)
