"""One sbatch: the file submitit writes, in which each job finds its run directory and runs it.

    results/slurm/<wave>/
        runs                    run directories, one per line; a member of an array takes the line of its number,
                                or as many lines as stages are packed into a job
        <job>_submission.sh     what sbatch was given
        <job>_<task>_log.out    what the job printed

submitit's own job unpickles a function, and imports for that more than a short stage does. Ours is
`python -m fvar.run RUN_DIR`, or `pack` for several, which says by its exit status that it was stopped after a
checkpoint: then it is requeued.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import clean_env

from fvar.machine import atomic
from fvar.usage import JOBS_FILE
from studies.engine.backends.clients import complaints
from studies.engine.backends.listing import submitted_id
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
    """sbatch's complaint in one line."""


class _Executor(submitit.SlurmExecutor):
    """submitit's, with an sbatch that ends and whose answer is read by whole lines."""

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["timeout", str(SBATCH_SECONDS), "sbatch", "--parsable", str(submission_file_path)]

    answered = ""  # the job's id, once sbatch has said it

    def _get_job_id_from_submission_command(self, string: str | bytes) -> str:  # type: ignore[override]
        text = string if isinstance(string, str) else string.decode(errors="replace")
        self.answered = submitted_id(text)
        if not self.answered:
            raise SubmissionRefused(f"sbatch answered with no readable id: {text.strip()[-100:]!r}")
        return self.answered


def submit(
    folder: Path, runs: Sequence[Path], resources: Resources, code: Path, limit: int = 0, dependency: str = ""
) -> list[str]:
    """Submit a wave: one job, or an array of them, each for one run directory or as many as are packed together.

    Returns the jobs' ids.

    Parameters
    ----------
    folder
        Of the wave; its name is the jobs' name.
    code
        Where the jobs find the packages.
    limit
        Members of the array that may run at once; 0: all.
    dependency
        What must happen first, as sbatch takes it; where that cannot happen any more, these jobs are cancelled.

    Raises `SubmissionRefused`, and `OSError` where the wave's files cannot be written.
    """
    folder.mkdir(parents=True)
    atomic.write_text(folder / "runs", "".join(f"{run}\n" for run in runs))
    jobs = ceil(len(runs) / resources.packing)
    executor = _Executor(folder)
    executor.update_parameters(**_parameters(folder, resources, code, limit or jobs, dependency))
    if jobs > 1:
        executor.parameters["map_count"] = jobs
    try:
        # submitit repeats sbatch's complaints on stderr.
        with _clean_environment(), contextlib.redirect_stderr(io.StringIO()) as said:
            executor._submit_command(_command(folder, resources))
    except OSError:  # once there is a job, what submitit writes about it is of no importance
        if not executor.answered:
            raise
    except (RuntimeError, subprocess.SubprocessError) as error:
        message = complaints(said.getvalue()) or complaints(str(error))
        if "exit status 124" in message or not message:
            message = f"sbatch gave no answer for {SBATCH_SECONDS} s"
        raise SubmissionRefused(message) from None
    job = executor.answered
    return [f"{job}_{index}" for index in range(jobs)] if jobs > 1 else [job]


def _command(folder: Path, resources: Resources) -> str:
    """What each job runs. A pack notes in its own time which stage it works on."""
    python = f"{shlex.quote(sys.executable)} -u -m"
    if resources.packing == 1:
        return f'{python} fvar.run "$RUN"'
    return (
        f"{python} studies.engine.backends.pack {shlex.quote(str(folder / 'runs'))} "
        f'--member "${{SLURM_ARRAY_TASK_ID:-0}}" --packing {resources.packing} '
        f"--side-by-side {resources.side_by_side} --wave {shlex.quote(folder.name)}"
    )


def _parameters(folder: Path, resources: Resources, code: Path, limit: int, dependency: str) -> dict[str, Any]:
    """submitit's names for what a job asks for. It runs in the copy of the code, where Python looks first."""
    alone = resources.packing == 1
    chosen = f'RUN="$(sed -n "$((${{SLURM_ARRAY_TASK_ID:-0}} + 1))p" {shlex.quote(str(folder / "runs"))})"'
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
        "dependency": dependency,
        "setup": [
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            *resources.setup,
            *([chosen, NOTE.format(file=JOBS_FILE), "note start"] if alone else []),
        ],
        "teardown": [
            "status=$?",
            *(["note end"] if alone else []),
            REQUEUE.format(requeues=resources.requeues),
            "exit $status",
        ],
        "signal_delay_s": resources.warning,
        "array_parallelism": limit,
        "stderr_to_stdout": True,
        "additional_parameters": _options(resources)
        | {
            "requeue": True,
            "chdir": str(code),
            "kill-on-invalid-dep": "yes",
        },
        # srun does not take the first over from the batch job since SLURM 22.05. Where one rank dies, the others would
        # wait for it in vain.
        "srun_args": [f"--cpus-per-task={resources.cpus_per_task}", "--kill-on-bad-exit=1"],
    }
    return {key: value for key, value in asked.items() if value not in ("", ())}


def _options(resources: Resources) -> dict[str, Any]:
    """Options of sbatch that submitit has no name for; True: without a value."""
    asked: dict[str, Any] = {"reservation": resources.reservation, "nice": resources.nice}
    for option in resources.extra:
        name, given, value = option.partition("=")
        asked[name] = value if given else True
    return {name: value for name, value in asked.items() if value not in ("", 0)}


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Without what a surrounding job left in the environment, which sbatch would obey; SLURM_CONF names the cluster."""
    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield
