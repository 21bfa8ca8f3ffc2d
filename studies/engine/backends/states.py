"""What SLURM's words for the end of a job mean, and where it does not say enough: by whom, or for want of memory."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

from fvar.rundir import RunDir
from studies.engine.backends.listing import Entry

QUEUED = {"PENDING", "CONFIGURING", "SUSPENDED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
QUEUED |= {"REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}
RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}
LOST = {
    "PREEMPTED": "it was preempted",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
    "REVOKED": "the cluster withdrew it",
    "TIMEOUT": "it reached its time limit",
    "DEADLINE": "it reached its deadline",
    "FAILED": "its job ended",
    "COMPLETED": "its job ended",
}
OUT_OF_MEMORY = re.compile(rb"oom-kill event|: Out Of Memory|exceeded (job )?memory limit", re.IGNORECASE)
NEVER_STARTED = "DependencyNeverSatisfied"  # the reason of a job that waited for one which failed


def is_doubtful(entry: Entry | None) -> bool:
    """Whether squeue's word is not enough: it knows nothing, or not by whom a job was cancelled."""
    return entry is None or not entry.state or (entry.state == "CANCELLED" and entry.reason != NEVER_STARTED)


def owners(run: RunDir) -> set[int]:
    """Whose wish a cancellation is taken for: ours, or of who submitted the job."""
    try:
        return {os.getuid(), (run.path / "job.json").stat().st_uid}
    except OSError:
        return {os.getuid()}


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def ran_out_of_memory(log: Path) -> bool:
    """Whether slurmd wrote so at the end of a job's output.

    The stage is a step of its job (submitit calls srun): the step ends OUT_OF_MEMORY, but the job only FAILED.
    """
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        return bool(OUT_OF_MEMORY.search(file.read()))
