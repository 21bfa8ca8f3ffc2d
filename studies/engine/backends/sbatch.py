"""One sbatch: the script that submitit writes, in which each job finds its run directory and runs it.

    results/slurm/<wave>/
        runs                    run directories as seen from here, a line each; a member of an array takes that of its
                                number, or as many lines as stages are packed into a job
        job.sh                  what sbatch was given
        <job>_<task>_log.out    what the job printed

submitit's own job unpickles a function, and imports for that more than a short stage does. Ours is
`python -m fvar.run RUN_DIR`, or `pack` for several, which says by its exit status that it was stopped after a
checkpoint: then it is requeued.

A results folder may have any name. SLURM expands %j and the like anywhere in the path of an output file, and neither
an #SBATCH line nor a line of `runs` holds every path: so a job starts in its wave's folder, names are relative to it,
and what must be absolute stands on sbatch's command line.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import submitit

from fvar import plugins
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.usage import JOBS_FILE
from studies.engine.backends.clients import SlurmDown, call
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

    Raises
    ------
    SubmissionRefused
        Where SLURM does not take the jobs.
    OSError
        Where the wave's files cannot be written.
    """
    folder.mkdir(parents=True)
    atomic.write_text(folder / "runs", "".join(f"{os.path.relpath(run, folder)}\n" for run in runs))
    jobs = ceil(len(runs) / resources.packing)
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**_parameters(folder, resources, code, limit or jobs, dependency))
    job = "%j"
    if jobs > 1:
        job, executor.parameters["map_count"] = "%A_%a", jobs
    executor.parameters["additional_parameters"]["output"] = f"{job}_0_log.out"
    script = executor._make_submission_file_text(_command(folder, resources, f"{job}_%t_log.out"), "")
    atomic.write_text(folder / "job.sh", script)
    where = [f"--chdir={folder}", f"--output={literal(folder)}/{job}_0_log.out"]
    try:
        answer = call("timeout", str(SBATCH_SECONDS), "sbatch", "--parsable", *where, str(folder / "job.sh"))
    except SlurmDown as error:
        late = str(error) == "timeout ended with 124"
        raise SubmissionRefused(f"sbatch gave no answer for {SBATCH_SECONDS} s" if late else str(error)) from None
    taken = submitted_id(answer)
    if not taken:
        raise SubmissionRefused(f"sbatch answered with no readable id: {answer.strip()[-100:]!r}")
    return [f"{taken}_{index}" for index in range(jobs)] if jobs > 1 else [taken]


def literal(folder: Path) -> str:
    """A folder as SLURM's names of output files take it: 100%j as 100%%j.

    Raises `UserError` for a path with a backslash, in which SLURM expands nothing at all, not even a job's id.
    """
    if "\\" in str(folder):
        raise UserError(f"SLURM writes no logs below {folder}, for its backslash; name another folder by --results")
    return str(folder).replace("%", "%%")


def _command(folder: Path, resources: Resources, output: str) -> str:
    """What each job runs, in as many processes as tasks were asked for. A pack notes in its own time what it works on.

    srun does not take the number of cores over from the batch job since SLURM 22.05. Where one rank dies, the others
    would wait for it in vain.
    """
    srun = f"srun --unbuffered --output={output} --cpus-per-task={resources.cpus_per_task} --kill-on-bad-exit=1"
    python = f"{srun} {shlex.quote(sys.executable)} -u -m"
    if resources.packing == 1:
        return f'{python} fvar.run "$RUN"'
    return (
        f'{python} studies.engine.backends.pack runs --member "${{SLURM_ARRAY_TASK_ID:-0}}" '
        f"--packing {resources.packing} --side-by-side {resources.side_by_side} --wave {shlex.quote(folder.name)}"
    )


def _parameters(folder: Path, resources: Resources, code: Path, limit: int, dependency: str) -> dict[str, Any]:
    """submitit's names for what a job asks for. Python looks for packages in the copy of the code first."""
    alone = resources.packing == 1
    path = os.pathsep.join([os.path.relpath(code, folder), *plugins.folders()])
    chosen = 'RUN="$WAVE/$(sed -n "$((${SLURM_ARRAY_TASK_ID:-0} + 1))p" runs)"'
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
            'WAVE="$PWD"',
            # The code relative to the job's folder, since a list of paths cannot name one with a colon.
            f"export PYTHONPATH={shlex.quote(path)}${{PYTHONPATH:+:$PYTHONPATH}}",
            *([f"export {plugins.VARIABLE}={','.join(asked)}"] if (asked := plugins.asked()) else []),
            *resources.setup,
            'cd "$WAVE"',
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
        "additional_parameters": _options(resources) | {"requeue": True, "kill-on-invalid-dep": "yes"},
        "use_srun": False,  # submitit's own srun would write where its folder's name tells SLURM to
    }
    return {key: value for key, value in asked.items() if value not in ("", ())}


def _options(resources: Resources) -> dict[str, Any]:
    """Options of sbatch that submitit has no name for; True: without a value."""
    asked: dict[str, Any] = {"reservation": resources.reservation, "nice": resources.nice}
    for option in resources.extra:
        name, given, value = option.partition("=")
        asked[name] = value if given else True
    return {name: value for name, value in asked.items() if value not in ("", 0)}
