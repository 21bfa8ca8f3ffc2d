"""The file that sbatch gets, run by a shell; SLURM's programs are replaced by ones that only note their arguments."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fvar.errors import UserError
from fvar.usage import spans
from studies.engine.backends import sbatch
from studies.engine.backends.answers import refusal
from studies.engine.backends.clients import complaints
from studies.engine.backends.pack import members
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
    jobs = sbatch.submit(folder, paths, Resources(**resources), folder.parent, dependency="afterok:3:4_1")  # type: ignore[arg-type]
    assert jobs == (["7"] if runs == 1 else [f"7_{index}" for index in range(runs)])
    return (folder / "job.sh").read_text()


def calls(programs: Path, name: str) -> list[str]:
    path = programs / f"{name}.calls"
    return path.read_text(errors="surrogateescape").splitlines() if path.exists() else []


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
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "wave", env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert calls(programs, "scontrol") == (["requeue 7"] if requeued else [])
    (run,) = calls(programs, "srun")
    assert run.endswith(f"{sys.executable} -u -m fvar.run {tmp_path}/wave/../r0")
    (span,) = spans(tmp_path / "r0")
    assert span.gpus == 8


def test_a_member_of_an_array_runs_the_directory_of_its_number(programs: Path, tmp_path: Path) -> None:
    script = submitted(tmp_path / "wave", runs=3)
    environment = os.environ | {"SRUN_STATUS": "0", "SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2"}
    subprocess.run(["bash", "-c", script], cwd=tmp_path / "wave", env=environment, check=True)
    assert calls(programs, "srun")[0].endswith(f"{tmp_path}/wave/../r2")
    assert "#SBATCH --array=0-2%3" in script


def test_stages_are_packed_into_jobs_and_the_job_is_requeued_like_any_other(programs: Path, tmp_path: Path) -> None:
    wave = tmp_path / "wave"
    paths = [tmp_path / f"r{index}" for index in range(7)]
    resources = Resources(packing=3, side_by_side=2, requeues=3)
    assert sbatch.submit(wave, paths, resources, tmp_path) == ["7_0", "7_1", "7_2"]
    script = (wave / "job.sh").read_text()
    assert "#SBATCH --array=0-2%3" in script
    environment = os.environ | {"SRUN_STATUS": "75", "SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(["bash", "-c", script], cwd=wave, env=environment, capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    assert calls(programs, "scontrol") == ["requeue 9"]
    assert calls(programs, "srun")[0].endswith(
        "-u -m studies.engine.backends.pack runs --member 2 --packing 3 --side-by-side 2 --wave wave"
    )
    assert members(wave / "runs", 2, 3) == paths[6:]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"packing": 2, "tasks_per_node": 8}, "stages of one process, and these have 8"),
        ({"packing": 2, "nodes": 2}, "stages of one process, and these have 2"),
        ({"side_by_side": 2}, "set packing to that, or more"),
        ({"packing": 0}, "packing must be at least 1"),
        ({"gather": -1.0}, "gather must not be negative"),
    ],
)
def test_packs_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Resources(**settings)


ODD = [
    "100%j run",
    "%%A%",
    "a:b",
    'it\'s "odd"',
    "$HOME `id` ;&|",
    "q?x#y%20[z]*",
    "two\nlines",
    "ümlaut\udcff",
]


@pytest.mark.parametrize("name", ODD)
def test_a_job_finds_its_run_and_its_code_whatever_the_folder_is_called(
    programs: Path, tmp_path: Path, name: str
) -> None:
    results = tmp_path / name
    wave, code, runs = results / "slurm" / "wave", results / "slurm" / "code" / "c0de", [results / "runs" / "var-0"]
    runs[0].mkdir(parents=True)
    code.mkdir(parents=True)
    (code / "nonesuch.py").write_text("import sys; sys.stdout.write(__file__)")
    (programs / "srun").write_text(f'#!/bin/sh\n{shlex.quote(sys.executable)} -m nonesuch\nprintf " %s" "$RUN"\n')
    sbatch.submit(wave, runs, Resources(setup=("cd /", "export RUN")), code)
    done = subprocess.run(["bash", "job.sh"], cwd=wave, capture_output=True, check=True)
    assert os.fsdecode(done.stdout) == f"{code}/nonesuch.py {wave}/../../runs/var-0"
    assert members(wave / "runs", 0, 1) == runs
    assert len(spans(runs[0])) == 1
    given = "\n".join(calls(programs, "sbatch"))
    assert given == f"--parsable --chdir={wave} --output={str(wave).replace('%', '%%')}/%j_0_log.out {wave}/job.sh"
    assert str(results) not in "".join(
        line for line in (wave / "job.sh").open(errors="surrogateescape") if line.startswith("#SBATCH")
    )


def test_a_folder_in_which_slurm_expands_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"for its backslash; name another folder by --results$"):
        sbatch.literal(Path("/data/back\\slash"))


def test_a_job_inherits_nothing_of_the_job_that_its_driver_runs_in(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (programs / "sbatch").write_text(f"#!/bin/sh\nenv > {programs}/environment\necho 7\n")
    for key in ("SLURM_NTASKS", "SRUN_DEBUG", "SBATCH_PARTITION", "RANK", "MINE"):
        monkeypatch.setenv(key, "4")
    submitted(tmp_path / "wave")
    names = {line.partition("=")[0] for line in (programs / "environment").read_text().splitlines()}
    assert "MINE" in names
    assert not names & {"SLURM_NTASKS", "SRUN_DEBUG", "SBATCH_PARTITION", "RANK"}


def test_any_option_of_sbatch_can_be_given(programs: Path, tmp_path: Path) -> None:
    script = submitted(tmp_path / "wave", nice=100, reservation="night", extra=("exclude=n7", "exclusive"))
    asked = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"--nice=100", "--reservation=night", "--exclude=n7", "--exclusive"} <= set(asked)


@pytest.mark.parametrize("option", ["job-name=mine", "array=0-3", "--exclusive", "mem=1\n--wrap=rm"])
def test_options_that_the_driver_needs_or_that_are_none_are_refused(option: str) -> None:
    with pytest.raises(UserError, match=r"slurm\.extra"):
        Resources(extra=(option,))


def test_an_answer_that_is_not_text_may_have_come_through(programs: Path, tmp_path: Path) -> None:
    (programs / "sbatch").write_text("#!/bin/sh\nprintf '\\377\\376'\n")
    with pytest.raises(sbatch.SubmissionRefused, match="no readable id") as refused:
        submitted(tmp_path / "wave")
    assert refusal(str(refused.value)).unsure


def test_what_a_job_waits_for_is_given_to_slurm(programs: Path, tmp_path: Path) -> None:
    script = submitted(tmp_path / "wave")
    assert "#SBATCH --dependency=afterok:3:4_1" in script
    assert "#SBATCH --kill-on-invalid-dep=yes" in script


def test_a_refusal_is_told_in_one_line(programs: Path, tmp_path: Path) -> None:
    (programs / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
    with pytest.raises(sbatch.SubmissionRefused, match=r"^invalid partition specified: gpu$"):
        submitted(tmp_path / "wave")


def test_an_answer_without_an_id_of_its_own_line_is_not_read_as_a_job(programs: Path, tmp_path: Path) -> None:
    (programs / "sbatch").write_text("#!/bin/sh\necho 'Your last job 12 waited 3 hours'\n")
    with pytest.raises(sbatch.SubmissionRefused, match="no readable id") as refused:
        submitted(tmp_path / "wave")
    assert refusal(str(refused.value)).unsure


def test_the_id_is_found_among_greetings(programs: Path, tmp_path: Path) -> None:
    (programs / "sbatch").write_text("#!/bin/sh\necho 'Your last job 12 waited 3 hours'\necho '7;loopback'\n")
    submitted(tmp_path / "wave")


def test_several_complaints_become_one_line() -> None:
    assert complaints("sbatch: error: one\nsbatch: error: two\n") == "one; two"
    assert complaints("something\nlast words\n") == "last words"
