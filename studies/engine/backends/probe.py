"""Do the cluster's nodes see the results folder? A job of a second answers, before anything else is submitted.

It looks for a file only this results folder has, and writes its answer beside it. Asked once for each results folder
and partition: the answer stays.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from fvar.errors import UserError
from fvar.machine import atomic
from studies.engine.backends.clients import SlurmDown, call
from studies.engine.backends.listing import states, submitted_id
from studies.engine.profile import Resources

WAIT_SECONDS = 0.2
ASK_SECONDS = 3.0  # between two questions to squeue
VISIBLE_SECONDS = 5.0  # from the job's end until its answer must be visible here
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def require_shared(folder: Path, resources: Resources, say: Callable[[str], None]) -> None:
    """Raises `UserError` where the nodes do not see `folder`, may not write to it, or lack this Python.

    Raises `SlurmDown` where SLURM does not take the job.
    """
    marker = folder / f"shared-{re.sub(r'[^A-Za-z0-9_-]', '-', resources.partition) or 'default'}"
    if marker.exists():
        return
    place = folder / f"probe-{uuid.uuid4().hex[:12]}"
    place.mkdir(parents=True)
    place.chmod(0o777)  # the nodes' root may be nobody here
    job = ""
    try:
        answer = call("sbatch", "--parsable", *_options(resources), "--wrap", _script(place))
        job = submitted_id(answer)
        if not job:
            raise SlurmDown(f"sbatch answered with no readable id: {answer.strip()[-100:]!r}")
        say(f"asking a node of the cluster whether it sees {folder} (job {job})")
        answer = _answer(place / "answer", job)
    except KeyboardInterrupt:
        if job:
            call("scancel", job)
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if answer == "":
        raise UserError(f"the cluster's nodes do not see {folder} (job {job}); --results must be a folder they share")
    if answer != "yes":
        raise UserError(f"the cluster's nodes have no {sys.executable}; install fvar where they see it")
    atomic.write_text(marker, f"job {job}\n")


def _options(resources: Resources) -> list[str]:
    """The profile's place in the queue, for a task of a second."""
    names = ("partition", "account", "qos", "constraint", "gres", "reservation")
    asked: Mapping[str, str] = {name: getattr(resources, name) for name in names}
    return [
        "--job-name=fvar-probe", "--time=5", "--ntasks=1", "--output=/dev/null", "--chdir=/",
        *(f"--{name}={value}" for name, value in asked.items() if value),
    ]  # fmt: skip


def _script(place: Path) -> str:
    answer = shlex.quote(str(place / "answer"))
    python = shlex.quote(sys.executable)
    # Written under another name first, so that it is never read half.
    return f"test -x {python} && said=yes || said=no; echo $said > {answer}.new && mv {answer}.new {answer}"


def _answer(path: Path, job: str) -> str:
    """Wait for the answer; empty if the job ended without one."""
    asked, ended = time.monotonic(), 0.0
    while not path.exists():
        if not ended and time.monotonic() - asked > ASK_SECONDS:
            asked = time.monotonic()
            listing = call("squeue", "--noheader", "--states=all", "--name=fvar-probe", "--format=%i %T")
            ended = asked if _has_ended(listing, job) else 0.0
        if ended and time.monotonic() - ended > VISIBLE_SECONDS:
            return ""
        time.sleep(WAIT_SECONDS)
    return path.read_text().strip()


def _has_ended(listing: str, job: str) -> bool:
    """Whether a job that squeue lists as "ID STATE" is over; one it no longer knows is."""
    return states(listing).get(job, "COMPLETED") in ENDED
