"""What `python -m studies` does: looks at, and tidies up after, studies through cells.json and the run directories."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import cells, standing
from analysis.cells import CellRecord, StudyRecord
from analysis.results import CellResult
from analysis.standing import SETTLED, Standing
from fvar.config import STAGE_CONFIGS
from fvar.errors import UserError, unknown
from fvar.job import JobRecord
from fvar.machine import records
from fvar.plain import differences, to_dict
from fvar.rundir import RunDir, locked, read_status
from fvar.usage import gpu_hours
from studies.engine.backends import Backend, submitting
from studies.engine.driver import log_tail
from studies.engine.nodes import allow_again, settle

if TYPE_CHECKING:
    from studies.engine.live import Row


# -------------------------------------------------------------------------------------------------------------- looking


def standings(study: StudyRecord) -> dict[str, Standing]:
    """Where every stage that matters stands: one look at a finished cell, one per stage at any other."""
    found: dict[str, Standing] = {}
    runs = study.place.runs
    for cell in study.cells:
        for name in reversed(cell.chain):
            if name not in found:
                found[name] = standing.of_stage(runs / name)
            if name == cell.own and found[name].state == "done":
                break
    return found


def status_rows(
    study: StudyRecord, bill: Mapping[str, float] | None = None, found: Mapping[str, Standing] | None = None
) -> Iterator[Row]:
    """One `live.Row` per cell. Its GPU hours (by `bill`, see `spent`) are those of all its stages, shared ones too.

    `found`: where its stages stand, if the cluster was asked, too; otherwise as their directories say.
    """
    from studies.engine.live import row

    found = standings(study) if found is None else found
    states = {name: at.state for name, at in found.items()}
    statuses = {name: at.status for name, at in found.items()}
    for cell in study.cells:
        hours = sum(bill[name] for name in cell.chain) if bill else 0.0
        line = row(cell.name, cell.chain, states, statuses, cell.pruned)
        yield line._replace(gpu_hours=f"{hours:.3g}") if hours else line


def spent(study: StudyRecord) -> dict[str, float]:
    """GPU hours that each stage has held, by run name."""
    runs = study.place.runs
    return {name: gpu_hours([runs / name]) for name in study.stages()}


def log_file(study: StudyRecord, name: str, kind: str = "") -> Path:
    """The log of the stage a cell is at: the one that failed or runs, else the last that had something to say."""
    cells = study.select([name])
    chain = [stage for stage in cells[0].chain if not kind or stage.startswith(f"{kind}-")]
    if not chain:
        raise unknown("stage", kind, {stage.partition("-")[0] for stage in cells[0].chain})
    logs = [stage for stage in chain if (study.place.runs / stage / "log").exists()]
    if not logs:
        raise UserError(f"cell {cells[0].name} has no log yet; is it waiting? `python -m studies status` says")
    current = [s for s in logs if standing.of_stage(study.place.runs / s).state in ("failed", "running", "interrupted")]
    telling = [stage for stage in logs if _says_something(study.place.runs / stage / "log")]
    return study.place.runs / (current or telling or logs)[-1] / "log"


def logged(study: StudyRecord, name: str) -> list[str]:
    """The kinds of a cell's stages that wrote a log, in the order of the chain."""
    chain = study.select([name])[0].chain
    return list(dict.fromkeys(s.partition("-")[0] for s in chain if (study.place.runs / s / "log").exists()))


def _says_something(log: Path) -> bool:
    """Whether there is more in it than the line that heads each attempt."""
    with open(log, errors="replace") as file:
        return any(line.strip() and not line.startswith("--- ") for line in file)


def search_logs(study: StudyRecord, pattern: str) -> Iterator[str]:
    """The lines in which a regular expression matches, of the logs of all stages, as "<cell> <stage>: <line>".

    A stage of several cells is named after the first. Raises `UserError` for an expression that is none.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--grep {pattern!r} is not a regular expression ({error})") from None
    seen: set[str] = set()
    for cell in study.cells:
        for stage in cell.chain:
            path = study.place.runs / stage / "log"
            if stage in seen or not path.exists():
                continue
            seen.add(stage)
            with open(path, errors="replace") as file:
                yield from (f"{cell.name} {stage}: {line.rstrip()}" for line in file if wanted.search(line))


def follow(path: Path, say: Callable[[str], None], forever: bool) -> None:
    """Print a log's end, and what is added to it."""
    with open(path, errors="replace") as file:
        if not forever:
            say(file.read().rstrip("\n"))
            return
        say("\n".join(line.removeprefix("  | ") for line in log_tail(path)))
        file.seek(0, os.SEEK_END)
        while True:
            text = file.read()
            if text:
                say(text.rstrip("\n"))
            time.sleep(0.5)


def compare(first: tuple[StudyRecord, str], second: tuple[StudyRecord, str]) -> list[str]:
    """How two cells differ in the settings of their stages, and in their scores."""
    before, after = (_described(study, study.select([name])[0]) for study, name in (first, second))
    lines = []
    for here, there, (_, name) in ((before, after, first), (after, before, second)):
        alone = sorted(here.keys() - there.keys())
        lines += [f"{role}: only in {name}" for role in alone if not any(role.startswith(f"{o}.") for o in alone)]
    common = before.keys() & after.keys()
    lines += differences({role: before[role] for role in common}, {role: after[role] for role in common})
    return lines or ["the same stages"]


def _described(study: StudyRecord, cell: CellRecord) -> dict[str, Any]:
    """Settings by stage, and scores, nested."""
    found = CellResult.of(cell, study.place.runs)
    settings = {role: to_dict(run.config) for role, run in found.chain.items()}
    return {**settings, "result": {metric: found.score(metric) for metric in found.scores}}


# ------------------------------------------------------------------------------------------------------------- changing


def retry(study: StudyRecord, names: Iterable[str]) -> list[str]:
    """Let failed and cancelled stages of these cells be started again. Returns their names."""
    changed = []
    for stage in dict.fromkeys(stage for cell in study.select(names) for stage in cell.chain):
        path = study.place.runs / stage
        if read_status(path).state in ("failed", "cancelled"):
            allow_again(RunDir.open(path))
            changed.append(stage)
    return changed


def cancel(study: StudyRecord, names: Iterable[str], backend_for: Callable[[str], Backend]) -> list[str]:
    """Stop these cells' stages that no other cell of the study needs, for good. Returns their names."""
    chosen, runs = {cell.name: cell for cell in study.select(names)}, study.place.runs
    kept = {stage for cell in study.cells if cell.name not in chosen for stage in cell.chain}
    wanted = dict.fromkeys(stage for cell in chosen.values() for stage in cell.chain if stage not in kept)
    open_runs = [
        RunDir.open(runs / stage)
        for stage in wanted
        if (runs / stage / "config.json").exists() and read_status(runs / stage).state not in SETTLED
    ]
    with submitting(runs):  # a driver at work must not submit meanwhile what is being cancelled
        _stop_all(open_runs, backend_for)
    return [run.name for run in open_runs]


def _stop_all(open_runs: Iterable[RunDir], backend_for: Callable[[str], Backend]) -> None:
    open_runs = list(open_runs)
    jobs: dict[str, list[tuple[RunDir, JobRecord]]] = {}
    for run in open_runs:
        record = JobRecord.read(run)
        if record and record.cluster:
            jobs.setdefault(record.cluster, []).append((run, record))
        elif run.locked:
            _interrupt(run)
    for cluster, own in jobs.items():
        backend_for(cluster).cancel(own)
    for run in open_runs:
        _settle_when_idle(run)


def _interrupt(run: RunDir) -> None:
    """Ask the process that works here, inline in a driver or by hand, to stop."""
    status = run.status
    if status.host != socket.gethostname() or not status.pid:
        raise UserError(f"{run.name} is being worked on by process {status.pid} on {status.host}; stop it there")
    os.kill(status.pid, signal.SIGTERM)


def _settle_when_idle(run: RunDir, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while run.locked:
        if time.monotonic() > deadline:
            raise UserError(f"{run.name} has not stopped within {patience:g} s; try again")
        time.sleep(0.1)
    if not run.done:
        settle(run, "cancelled", "by `python -m studies cancel`; `python -m studies retry` undoes it")


def unreferenced(results: Path, old_revisions: bool = False) -> list[Path]:
    """Run directories that no study's cells.json names and nobody works in.

    With `old_revisions` also those that a study names, but that an older revision of the code computed.

    Raises `UserError` where a cells.json cannot be read, since nobody knows then what it names.
    """
    named = {stage for place in cells.started(results) for stage in cells.read(place).stages()}
    runs, known = results / cells.RUNS, dict[str, bool]()

    def goes(path: Path) -> bool:
        return path.name not in named or (
            old_revisions and _says_it_is_old(runs, path.name, known) and bool(outdated(path))
        )

    found = (path for path in runs.glob("*-*") if (path / "config.json").exists())
    return sorted(path for path in found if goes(path) and not locked(path))


def _says_it_is_old(runs: Path, name: str, known: dict[str, bool]) -> bool:
    """Whether a run directory, or one above it, is of an older revision by its own words, which are not checked here.

    Opening a directory checks all it says: too much for thousands, most of which are of today.
    """
    if name not in known:
        try:
            body = records.read_object(runs / name / "config.json") or {}
        except records.Damaged:
            body = {}
        kind, revision, inputs = (body.get(key) for key in ("kind", "revision", "inputs"))
        newest = STAGE_CONFIGS[kind].REVISION if kind in STAGE_CONFIGS else 1
        above = inputs.values() if isinstance(inputs, dict) else ()
        known[name] = (revision or 1) != newest or any(
            _says_it_is_old(runs, str(upstream), known) for upstream in above
        )
    return known[name]


def outdated(path: Path) -> str:
    """Why today's code would compute something else in a run directory: "var of revision 1, now 2"; "" where not."""
    try:
        return RunDir.open(path).outdated
    except UserError:  # renamed or edited: whatever it holds, no study reads it
        return ""


def size(path: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(os.lstat(f"{folder}/{name}").st_size for folder, _, names in os.walk(path) for name in names)


def delete(path: Path) -> None:
    """Remove a run directory; one that dies half-way must not look like a whole one."""
    (path / "config.json").unlink()
    shutil.rmtree(path)
