"""What a cluster or a disk answers: do it now, not now, or never.

    not now   limits, a partition that is down, a silent controller, a full disk: the same request is made again later
    never     the request itself is wrong: an unknown partition, more memory than any node has

A driver waits for the first and stops for the second.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fvar.machine.troubles import PASSING

MIN_FREE_BYTES = 64 << 20  # stages do not start below this either, see `fvar.run`


@dataclass(frozen=True)
class Answer:
    """A refusal, in a line.

    never: the request is wrong, and repeating it is in vain.
    fewer: it was too large, or the user has as many jobs as allowed; a part of it may be taken.
    unsure: it may have come through all the same, since only the answer was lost.
    """

    reason: str
    never: bool = False
    fewer: bool = False
    unsure: bool = False


class NotNow(Exception):
    """Something did not work that will later, without anybody changing the request."""


LIMIT_NAME = re.compile(r"\b(?:QOS|Assoc)(?:Max|Grp|Min)\w+")  # SLURM names the limit that was hit
FEWER = re.compile(
    r"job submit limit|submit\w*jobs?\w*limit|too many jobs|unable to accept job|job count|invalid job array", re.I
)
UNSURE = re.compile(
    r"timed out|zero bytes were|gave no answer|no readable id|connection reset|unexpected message|communication", re.I
)
NOT_NOW = re.compile(
    r"unable to contact|connection refused|connect failure|authentication|munge|internal error"
    r"|partition not available|partition is (?:down|inactive)|inactive or drain|node not available|nodes are busy"
    r"|not usable now|presently disabled|in use|standby|maintenance|licenses|resources? (?:is )?currently"
    r"|temporarily|could not be started|try again|usage threshold|not available (?:right )?now"
    r"|no space left|quota exceeded"
    r"|dependency problem|unspecified error|protocol version|incompatible versions|cannot allocate memory"
    r"|configuration source|process configuration file|unknown host|name or service|name resolution|host is down"
    r"|unreachable|no route to host|transport endpoint|broken pipe|i/o error|input/output error|stale file",
    re.I,
)
AT_ANY_TIME = re.compile(r"unrecogni[sz]ed|time limit", re.I)  # never, even if the like was taken before
OS_NOT_NOW = PASSING | {errno.EAGAIN, errno.ENOMEM, errno.EMFILE}


def refusal(complaint: str, proven: bool = False) -> Answer:
    """What sbatch's complaint means. One that is not known means never, unless the like of it was taken before.

    Parameters
    ----------
    proven
        Whether the cluster has taken a request of the same settings: then it is not the request that is wrong. A
        directory of users or an accounting that is away makes accounts, groups and partitions "invalid" for a while.
    """
    if named := LIMIT_NAME.search(complaint):
        name = named[0].lower()
        fewer = bool(re.search(r"submit|jobs(?:per|limit)", name))
        never = not fewer and ("perjob" in name or "minutes" not in name)
        return Answer(complaint, never=never, fewer=fewer)
    if FEWER.search(complaint):
        return Answer(complaint, fewer=True)
    if UNSURE.search(complaint):
        return Answer(complaint, unsure=True)
    if NOT_NOW.search(complaint):
        return Answer(complaint)
    return Answer(complaint, never=not proven or bool(AT_ANY_TIME.search(complaint)))


def trouble(error: OSError) -> Answer:
    """What an error of the operating system means: a full or vanished disk is waited for, a wrong path is not."""
    where = f" ({error.filename})" if error.filename else ""
    return Answer(f"{os.strerror(error.errno or 0)}{where}", never=error.errno not in OS_NOT_NOW)


def require_room(folder: Path) -> None:
    """Raises `NotNow` where the disk of a folder has too few bytes or inodes left for anything to be started."""
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < MIN_FREE_BYTES:
        raise NotNow(f"only {disk.f_bavail * disk.f_frsize >> 20} MiB are free where {folder} lies")
    if disk.f_files and not disk.f_favail:
        raise NotNow(f"the disk of {folder} has no inodes left")
