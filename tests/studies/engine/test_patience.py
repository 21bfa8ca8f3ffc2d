"""What does not work now is tried again, and said once; what never will is said at once."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from analysis.cells import Place
from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.machine import locks
from studies.engine.backends import submitting
from studies.engine.backends.answers import NotNow
from studies.engine.notify import Notifier
from studies.engine.outputs import Tracker
from studies.engine.patience import Patience
from tests.studies.engine.test_scheduler import Recorder, cell, drive, scheduler
from tests.studies.test_run import ROOT


def test_a_full_disk_is_waited_for_and_said_once() -> None:
    said: list[str] = []
    answers = [OSError(errno.ENOSPC, "so", "cells.json")] * 3 + [NotNow("no inodes are left")]

    def act() -> str:
        if answers:
            raise answers.pop(0)
        return "done"

    assert Patience(said.append, pause=0.001).until_it_works(act) == "done"
    assert [line.partition(" (")[0] for line in said] == [
        "not now: No space left on device",
        "not now: no inodes are left; trying again",
    ]


def test_a_wrong_path_is_the_users_to_know() -> None:
    def act() -> None:
        raise PermissionError(errno.EACCES, "so", "/results")

    with pytest.raises(UserError, match=r"Permission denied \(/results\)"):
        Patience(lambda line: None).until_it_works(act)


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)


def test_a_command_learns_of_the_first_failure_and_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = cell(0, tokenizer_seed=1)
    monkeypatch.setenv("TOY_FAIL", next(broken.chain()).name)
    made = scheduler(tmp_path / "runs", Recorder(), broken, cell(0))
    said: list[str] = []
    notifier = Notifier(f"cat >> {tmp_path}/told; exit 3", "toy", "smoke", said.append)
    notifier.look(made.nodes.values())
    drive(made)
    for _ in range(3):
        notifier.look(made.nodes.values())
    notifier.end(made.nodes.values())
    bodies = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert Counter(body["event"] for body in bodies) == {"failure": 1, "end": 1}
    end = next(body for body in bodies if body["event"] == "end")
    assert (end["study"], end["preset"]) == ("toy", "smoke")
    assert end["counts"] == {"failed": 1, "blocked": 4, "done": 5}
    assert end["failure"] == f"{next(broken.chain()).name}: ValueError: the toy broke"
    assert said == ["--notify: the command ended with 3"] * 2


def test_mlflow_is_synced_in_a_process_of_its_own_and_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    class Process:
        def poll(self) -> None:
            return None

    def popen(command: list[str], **options: object) -> Process:
        started.append(command)
        return Process()

    monkeypatch.setattr(subprocess, "Popen", popen)
    tracker = Tracker(Place(tmp_path, "toys", "smoke"), every=0.0)
    tracker.start(print)
    tracker.start(print)
    assert [command[1:5] for command in started] == [["-m", "studies", "sync", "toys"]]


def test_waiting_for_another_drivers_sbatch_is_said_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        locks.holding(tmp_path / ".submitting", str),
        pytest.raises(UserError, match="has been submitting"),
        submitting(tmp_path, patience=0.1, say=said.append),
    ):
        raise AssertionError("two hold the lock")
    (line,) = said
    assert "is submitting to" in line
    assert "waiting for it" in line


def test_a_stage_whose_cluster_cannot_be_asked_is_blocked_unless_it_has_ended(tmp_path: Path) -> None:
    from studies.engine.backends import Job

    backend = Recorder("local")
    made = scheduler(tmp_path / "runs", backend, cell(0), cell(1, tokenizer_seed=1))
    tokenizers = [next(cell(seed, tokenizer_seed=seed).chain()).name for seed in range(2)]
    for name in tokenizers:
        JobRecord("slurm", "7", wave="fvar-x").write(made.nodes[name].run)
        made.nodes[name].record = JobRecord.read(made.nodes[name].run)
        backend.answers[name] = Job("absent", "squeue is not installed")
    made.nodes[tokenizers[0]].run.update(state="done")
    made.look()
    assert [made.nodes[name].state for name in tokenizers] == ["done", "blocked"]
    assert made.nodes[tokenizers[1]].reason == "squeue is not installed"


def test_logs_of_all_cells_are_searched(tmp_path: Path) -> None:
    from tests.studies.engine.test_commands import large_study

    large_study(tmp_path, 6)
    runs = sorted((tmp_path / "runs").iterdir())
    for number, run in enumerate(runs):
        (run / "log").write_text(f"line one\nloss is nan at step {number}\n" if number % 2 else "fine\n")
    command = [sys.executable, "-m", "studies", "logs", "big", "--results", str(tmp_path)]
    done = subprocess.run([*command, "--grep", r"nan at step \d"], cwd=ROOT, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == len(runs) // 2
    assert done.returncode == 0
    assert subprocess.run([*command, "--grep", "nowhere"], cwd=ROOT, capture_output=True).returncode == 1
    wrong = subprocess.run([*command, "--grep", "("], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "is not a regular expression" in wrong.stderr
