"""Stands in for `fvar.run` in the jobs of a toy study: stages that only pretend, without torch.

What a stage does stands in RESULTS/toy.json, by run name, else by kind, else under "*":

    {"steps": 4, "seconds": 0.1, "hang": 3, "measured": true,
     "then": "done" | "raise" | "eat memory" | "die" | "ignore signals" | "listen" | "no space"
     | "linger"}

`hang` names the step after which it only pretends to work: its heartbeat goes on. Who listens to signals ends as a real
stage does, and who does not is killed by them.

`measured`: a var logs a held-out loss after each step, and scores have a KID, both |ln(lambda_feat / 2)|: what a search
of one known function needs.

A list gives an order to each attempt; the last one holds for all that follow.

Each start appends the job's id to `executions` and the place of its code to `code` in the run directory, each finished
step its number to `steps`.
"""

import json
import math
import os
import signal
import socket
import sys
import time
from pathlib import Path

import fvar
from fvar.config import VarConfig
from fvar.rundir import RunDir, Status


def execute(path: str) -> Status:
    run = RunDir.open(Path(path))
    if run.done:
        return run.status
    with run.lock():
        orders = json.loads((run.path.parent.parent / "toy.json").read_text())
        order = orders.get(run.name) or orders.get(run.kind) or orders["*"]
        before = run.status
        if isinstance(order, list):
            order = order[min(before.attempts, len(order) - 1)]
        _note(run, "code", fvar.__file__)
        _note(run, "executions", os.environ.get("SLURM_JOB_ID", "none"))
        run.update(
            state="running", steps=order["steps"], error="", disk_trouble=False, attempts=before.attempts + 1, **_here()
        )
        try:
            _work(run, before.step, order)
            if order.get("measured") and run.kind == "scores":
                scores = {"kid": {"value": _known(run.input("samples")), "reason": "", "count": 1, "extractor": "toy"}}
                (run.path / "scores.json").write_text(json.dumps(scores))
            run.update(state="done", pid=0)
        except _Stopped:
            run.update(state="interrupted", pid=0)
            os._exit(75)
        except Exception as error:
            run.update(state="failed", error=f"{type(error).__name__}: {error}", pid=0)
            raise
    if order.get("then") == "linger":  # as a process does whose libraries are slow to unload
        time.sleep(1.0)
    return run.status


def _known(run: RunDir) -> float:
    """The function that a toy search minimises."""
    return abs(math.log(run.config_as(VarConfig).distill.lambda_feat / 2))


def _work(run: RunDir, done: int, order: dict[str, object]) -> None:
    steps, seconds = int(str(order["steps"])), float(str(order["seconds"]))
    if order.get("then") == "ignore signals":
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if order.get("then") == "listen":
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, _stop)
    for step in range(done, steps):
        while order.get("hang") == step:
            time.sleep(0.5)
            run.update()
        time.sleep(seconds)
        _note(run, "steps", str(step + 1))
        run.update(step=step + 1)
        if order.get("measured") and run.kind == "var":
            run.log_metrics(step + 1, {"cross_entropy": _known(run)}, split="heldout")
    if order.get("then") == "raise":
        with open(run.path / "log", "a") as log:
            log.write("about to divide\nZeroDivisionError: division by zero\n")
        raise ZeroDivisionError("division by zero")
    if order.get("then") == "no space":
        run.update(state="interrupted", error="the disk is full (model)", disk_trouble=True, pid=0)
        sys.exit(1)
    if order.get("then") == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order.get("then") == "eat memory":
        eaten = []
        while True:
            eaten.append(os.urandom(8 << 20))


class _Stopped(BaseException):
    """By a signal. Raised where the stage was, so that no lock it held there is still held when it writes its state."""


def _stop(number: int, frame: object) -> None:
    for again in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    raise _Stopped


def _here() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _note(run: RunDir, name: str, text: str) -> None:
    with open(run.path / name, "a") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    execute(sys.argv[1])
