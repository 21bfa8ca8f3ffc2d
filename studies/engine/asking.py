"""What SLURM says of stages that are not settled, for `status`: a job that is held or suspended does not run.

Run directories alone cannot tell. One squeue is asked for all of them, and a silent cluster costs a line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from analysis.standing import SETTLED, Standing
from fvar.job import JobRecord
from studies.engine.backends.clients import SlurmDown
from studies.engine.backends.queries import Queries
from studies.engine.backends.states import QUEUED

PATIENCE = 10.0  # seconds
ORDINARY = ("", "None", "Priority", "Resources")  # reasons for which every job waits now and then


def ask(runs: Path, found: Mapping[str, Standing]) -> tuple[dict[str, Standing], str]:
    """The standings as SLURM's queue corrects them, and a line where it gave no answer.

    A job that waits or is suspended makes its stage "queued"; the status's note has SLURM's own state and reason.
    """
    corrected = dict(found)
    jobs = {name: JobRecord.read_in(runs / name) for name, at in found.items() if at.state not in SETTLED}
    records = {name: job for name, job in jobs.items() if job and job.cluster == "slurm" and job.wave}
    if not records:
        return corrected, ""
    try:
        known = Queries().queue(sorted({job.wave for job in records.values()}), PATIENCE)
    except SlurmDown as error:
        return corrected, f"SLURM does not answer ({error}): these are the states in the run directories"
    for name, job in records.items():
        entry = known.get((job.wave, job.index))
        if entry is None or entry.state not in QUEUED:
            continue
        reason = "" if entry.reason in ORDINARY else entry.reason
        said = f"SLURM: {entry.state}{reason and ', ' + reason}" if reason or entry.state != "PENDING" else ""
        status = dataclasses.replace(found[name].status, note=said, rate=None, eta=None)
        corrected[name] = Standing("queued", status)
    return corrected, ""
