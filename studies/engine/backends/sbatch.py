"""One sbatch: the file submitit writes, in which each job finds its run directory and runs it.

    results/slurm/<wave>/
        runs                    run directories, one per line; a member of an array takes the line of its number
        <job>_submission.sh     what sbatch was given
        <job>_<task>_log.out    what the job printed

submitit's own job unpickles a function, and imports for that more than a short stage does. Ours is
`python -m fvar.run RUN_DIR`, which says by its exit status that it was stopped after a checkpoint: then it is requeued.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import clean_env

from fvar.machine import atomic
from fvar.usage import JOBS_FILE
from studies.engine.backends.clients import complaints
from studies.engine.profile import Resources

SBATCH_SECONDS = 50  # after which sbatch is given up; no driver's sbatch is under way for longer

# One line at the job's start, one at its end; see `fvar.usage`.
NOTE = (
    """note() {{ printf '{{"job": "%s", "%s": %s, "seen": %s, "nodes": %s, "gpus": %s}}\\n' "$SLURM_JOB_ID" "$1" """
    """"$(date +%s)" "$(stat -c %Y "$RUN/status.json" 2>/dev/null || echo 0)" "${{SLURM_JOB_NUM_NODES:-1}}" """
    """"${{SLURM_GPUS_ON_NODE:-0}}" >> "$RUN/{file}"; }}"""
)
# 75: stopped by a signal after a checkpoint. 140: killed by USR2, that is, before the stage had begun to listen.
REQUEUE = (
    'case $status in 75|140) if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; '
    'then scontrol requeue "$SLURM_JOB_ID"; fi;; esac'
)


class SubmissionRefused(Exception):
    """sbatch's complaint in one line; `temporary` if the same may succeed later, or even have come through."""

    def __init__(self, message: str, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


class _Executor(submitit.SlurmExecutor):
    """submitit's, with an sbatch that ends."""

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["timeout", str(SBATCH_SECONDS), *super()._make_submission_command(submission_file_path)]


def submit(
    folder: Path, runs: Sequence[Path], resources: Resources, code: Path, after: Sequence[str] = ()
) -> list[str]:
    """Submit a wave: one job, or an array of one per run directory. Returns the jobs' ids.

    Parameters
    ----------
    folder
        Of the wave; its name is the jobs' name.
    code
        Where the jobs find the packages.
    after
        Ids of jobs that must succeed first; where one does not, these jobs are cancelled.

    Raises `SubmissionRefused`.
    """
    folder.mkdir(parents=True)
    atomic.write_text(folder / "runs", "".join(f"{run}\n" for run in runs))
    executor = _Executor(folder)
    executor.update_parameters(**_parameters(folder, resources, code, after))
    if len(runs) > 1:
        executor.parameters["map_count"] = len(runs)
    try:
        # submitit repeats sbatch's complaints on stderr.
        with _clean_environment(), contextlib.redirect_stderr(io.StringIO()) as said:
            job = executor._submit_command(f'{shlex.quote(sys.executable)} -u -m fvar.run "$RUN"')
    except (RuntimeError, subprocess.SubprocessError, OSError) as error:
        message = complaints(said.getvalue()) or complaints(str(error)) or "sbatch gave no answer"
        raise SubmissionRefused(message, _temporary(message)) from None
    return [f"{job.job_id}_{index}" for index in range(len(runs))] if len(runs) > 1 else [job.job_id]


def _parameters(folder: Path, resources: Resources, code: Path, after: Sequence[str]) -> dict[str, Any]:
    """submitit's names for what a job asks for. It runs in the copy of the code, where Python looks first."""
    asked = {
        "job_name": folder.name,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "cpus_per_task": resources.cpus_per_task,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "gres": resources.gres,
        "mem": resources.memory,
        "dependency": f"afterok:{':'.join(after)}" if after else "",
        "setup": [
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            *resources.setup,
            f'RUN="$(sed -n "$((${{SLURM_ARRAY_TASK_ID:-0}} + 1))p" {shlex.quote(str(folder / "runs"))})"',
            NOTE.format(file=JOBS_FILE),
            "note start",
        ],
        "teardown": ["status=$?", "note end", REQUEUE.format(requeues=resources.requeues), "exit $status"],
        "signal_delay_s": resources.warning,
        "array_parallelism": resources.array_parallelism,
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, "chdir": str(code), "kill-on-invalid-dep": "yes"},
        # srun does not take this over from the batch job since SLURM 22.05.
        "srun_args": [f"--cpus-per-task={resources.cpus_per_task}"],
    }
    return {key: value for key, value in asked.items() if value not in ("", ())}


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Without what a surrounding job left in the environment, which sbatch would obey; SLURM_CONF names the cluster."""
    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield


def _temporary(message: str) -> bool:
    """Whether sbatch failed for want of a controller rather than for what was asked of it."""
    signs = ("unable to contact", "timed out", "connection", "temporarily", "gave no answer")
    return any(sign in message.lower() for sign in signs)
