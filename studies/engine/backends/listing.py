"""What SLURM's client programs print, read line by line: jobs of squeue and sacct, and the id that sbatch answers.

Lines that are not of the kind asked for are passed over. Logins print banners, a cluster of several says `CLUSTER: x`,
and a row may be cut short; none of them may become a job. A line counts by what only ours has: the name of a wave that
was asked for.

JSON is not asked for, although 21.08 has it: `squeue --json` of 22.05 ignores --name and lists the whole cluster.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

LARGEST_ARRAY = 4_000_001  # MaxArraySize cannot be larger; a range beyond it is not a range
RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
STATE = re.compile(r"([A-Z][A-Z_]*)\+?(?: by (\d+))?")
ARRAY_ID = re.compile(r"(\d+)(?:_(?:(\d+)|\[([^\]]*)\]))?")
SUBMITTED = re.compile(r"(?:Submitted batch job )?(\d+)(?:;[\w.-]+| on cluster [\w.-]+)?")


@dataclass(frozen=True)
class Entry:
    """A job as SLURM lists it."""

    job_id: str
    state: str  # empty where the row has none
    reason: str = ""
    by: int | None = None  # user id of who cancelled it, as far as sacct knows


Entries = dict[tuple[str, int], Entry]  # by name of the array and place in it


def submitted_id(text: str) -> str:
    """The job id in sbatch's answer, with or without --parsable; empty where there is none.

    Only a whole line counts: "Your last job 12 waited 3 hours" is a greeting.
    """
    found = [match[1] for line in text.splitlines() if (match := SUBMITTED.fullmatch(line.strip()))]
    return found[-1] if found else ""


def expand(text: str) -> list[int]:
    """The places that an array's range names: "0-5,7%6" gives 0 to 5 and 7, "0-8:4" gives 0, 4 and 8.

    Raises `ValueError` for anything else.
    """
    places: list[int] = []
    for part in text.partition("%")[0].split(","):
        match = RANGE.fullmatch(part.strip())
        if not match:
            raise ValueError(f"{text!r} is not a range of an array")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if not first <= last < LARGEST_ARRAY or step < 1:
            raise ValueError(f"{text!r} is not a range of an array")
        places += range(first, last + 1, step)
    return places


def queue(text: str, waves: Collection[str]) -> Entries:
    """squeue's rows "array|place|state|name|reason"; the place of a job that is not a member of an array is N/A."""
    rows = []
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) == 5 and fields[3] in waves:
            array, place, state, name, reason = fields
            member = "" if place in ("N/A", "") else f"_{place}" if place.isdigit() else f"_[{place.strip('[]')}]"
            rows.append((name, array + member, state, reason))
    return _entries(rows)


def accounts(text: str, waves: Collection[str]) -> Entries:
    """sacct's rows "id|state|name|reason".

    A row that lost its reason still counts, one that lost its name does not: whose job would it be?
    """
    rows = []
    for line in text.splitlines():
        fields = line.strip().split("|", 3)
        if len(fields) >= 3 and fields[2] in waves:
            rows.append((fields[2], fields[0], fields[1], fields[3] if len(fields) == 4 else ""))
    return _entries(rows)


def states(text: str) -> dict[str, str]:
    """squeue's rows "id state" of single jobs, by id."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2 and row[0].isdigit() and STATE.fullmatch(row[1])}


def _entries(rows: Iterable[tuple[str, str, str, str]]) -> Entries:
    """Name, id, state and reason as entries, one for each member of an array that a row speaks for.

    A member's own row outdoes that of a range, which lags behind; and either that of the array as a whole, which squeue
    prints for an array of which a part was cancelled.
    """
    known: dict[tuple[str, int], tuple[int, Entry]] = {}
    for name, job_id, state, reason in rows:
        match, said = ARRAY_ID.fullmatch(job_id), STATE.fullmatch(state.strip())
        if not match or (state.strip() and not said):
            continue
        array, place, places = match.groups()
        try:
            members = expand(places) if places is not None else [int(place or 0)]
        except ValueError:
            continue
        rank = 1 if places is not None else 2 if place is not None else 0
        for member in members:
            if (name, member) not in known or known[name, member][0] <= rank:
                own = f"{array}_{member}" if rank else array
                by = int(said[2]) if said and said[2] else None
                known[name, member] = rank, Entry(own, said[1] if said else "", reason, by)
    return {key: entry for key, (_, entry) in known.items()}
