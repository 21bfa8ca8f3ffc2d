"""The file that sbatch gets, run by a shell; SLURM's programs are replaced by ones that only note their arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fvar.usage import spans
from studies.engine.backends import sbatch
from studies.engine.backends.clients import complaints
from studies.engine.profile import Resources


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, first in PATH: sbatch accepts job 7, srun exits with SRUN_STATUS, all note how they ran."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, rest in (("sbatch", "echo Submitted batch job 7"), ("srun", "exit $SRUN_STATUS"), ("scontrol", ":")):
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> {folder}/{name}.calls\n{rest}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def submitted(folder: Path, runs: int = 1, **resources: object) -> str:
    """Submit runs named r0, r1, ...; returns the text that sbatch was given."""
    paths = [folder.parent / f"r{index}" for index in range(runs)]
    for path in paths:
        path.mkdir()
    jobs = sbatch.submit(folder, paths, Resources(**resources), folder.parent, after=["3", "4_1"])  # type: ignore[arg-type]
    assert jobs == (["7"] if runs == 1 else [f"7_{index}" for index in range(runs)])
    (script,) = folder.glob("7*_submission.sh")
    return script.read_text()


def calls(programs: Path, name: str) -> list[str]:
    path = programs / f"{name}.calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, 0, False), (1, 0, False), (75, 0, True), (140, 0, True), (75, 3, False)],
    ids=["done", "failed", "stopped", "killed by the warning", "requeued too often"],
)
def test_a_job_is_requeued_only_if_a_signal_stopped_it(
    programs: Path, tmp_path: Path, status: int, restarts: int, requeued: bool
) -> None:
    script = submitted(tmp_path / "wave", requeues=3)
    environment = os.environ | {
        "SRUN_STATUS": str(status), "SLURM_RESTART_COUNT": str(restarts),
        "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "8",
    }  # fmt: skip
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert calls(programs, "scontrol") == (["requeue 7"] if requeued else [])
    (run,) = calls(programs, "srun")
    assert run.endswith(f"{sys.executable} -u -m fvar.run {tmp_path}/r0")
    (span,) = spans(tmp_path / "r0")
    assert span.gpus == 8


def test_a_member_of_an_array_runs_the_directory_of_its_number(programs: Path, tmp_path: Path) -> None:
    script = submitted(tmp_path / "wave", runs=3)
    environment = os.environ | {"SRUN_STATUS": "0", "SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2"}
    subprocess.run(["bash", "-c", script], env=environment, check=True)
    assert calls(programs, "srun")[0].endswith(f"{tmp_path}/r2")
    assert "#SBATCH --array=0-2%3" in script


def test_what_a_job_waits_for_is_given_to_slurm(programs: Path, tmp_path: Path) -> None:
    script = submitted(tmp_path / "wave")
    assert "#SBATCH --dependency=afterok:3:4_1" in script
    assert "#SBATCH --kill-on-invalid-dep=yes" in script


@pytest.mark.parametrize(
    ("said", "temporary"),
    [("Unable to contact slurm controller (connect failure)", True), ("invalid partition specified: gpu", False)],
)
def test_a_refusal_says_whether_to_try_again(programs: Path, tmp_path: Path, said: str, temporary: bool) -> None:
    (programs / "sbatch").write_text(f'#!/bin/sh\necho "sbatch: error: {said}" >&2\nexit 1\n')
    with pytest.raises(sbatch.SubmissionRefused, match=said.partition("(")[0]) as refused:
        submitted(tmp_path / "wave")
    assert refused.value.temporary is temporary


def test_several_complaints_become_one_line() -> None:
    assert complaints("sbatch: error: one\nsbatch: error: two\n") == "one; two"
    assert complaints("something\nlast words\n") == "last words"
