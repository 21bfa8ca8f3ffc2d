"""What `python -m studies` does: looks at, and tidies up after, studies through cells.json and the run directories."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.results import StudyResults
from fvar.errors import UserError, unknown
from fvar.plain import differences, to_dict
from fvar.rundir import RunDir, Status, read_status
from fvar.usage import gpu_hours
from studies.engine.backends import Backend, JobRecord, submitting
from studies.engine.driver import log_tail
from studies.engine.scheduler import settle

if TYPE_CHECKING:
    from studies.engine.live import Row


@dataclass(frozen=True)
class RecordedCell:
    """A cell as cells.json has it; `chain` names its run directories, inputs first."""

    name: str
    variant: str
    chain: tuple[str, ...]


@dataclass(frozen=True)
class Recorded:
    """A study that was started at a preset. Cheap to read, however many cells: nothing is opened but cells.json."""

    folder: Path
    title: str
    cells: tuple[RecordedCell, ...]

    @classmethod
    def read(cls, results: Path, study: str, preset: str = "") -> Recorded:
        """Without a preset: the only one the study was started at, or "smoke" among several.

        Raises `UserError` listing what there is where this was never started.
        """
        folders = [path.parent for path in cells_files(results)]
        if not folders:
            raise UserError(f"{results} holds no study yet; start one by `python -m studies.run {study}`")
        own = [folder.name for folder in folders if folder.parent.name == study]
        preset = preset or (own[0] if len(own) == 1 else "smoke")
        folder = next((folder for folder in folders if folder.parts[-2:] == (study, preset)), None)
        if folder is None:
            started = [f"{folder.parent.name} --preset {folder.name}" for folder in folders]
            raise unknown("started study", f"{study} --preset {preset}", started)
        body = json.loads((folder / "cells.json").read_text())
        cells = (RecordedCell(cell["name"], cell["variant"], tuple(cell["chain"])) for cell in body["cells"])
        return cls(folder, body["title"], tuple(cells))

    @property
    def runs(self) -> Path:
        return self.folder.parent.parent / "runs"

    def select(self, names: Iterable[str]) -> list[RecordedCell]:
        """The cells of these names or variants; all for none. Raises `UserError` for a wrong name."""
        names = list(names)
        for name in names:
            if not any(name in (cell.name, cell.variant) for cell in self.cells):
                raise unknown("cell", name, (cell.name for cell in self.cells))
        return [cell for cell in self.cells if not names or cell.name in names or cell.variant in names]


def cells_files(results: Path) -> list[Path]:
    """cells.json of every study and preset that was started."""
    return sorted(results.glob("*/*/cells.json"))


# -------------------------------------------------------------------------------------------------------------- looking


def states(study: Recorded) -> tuple[dict[str, str], dict[str, Status]]:
    """State and status of every stage that matters: one look at a finished cell, one per stage at any other.

    Nobody is asked: "queued" is a stage that a job was submitted for and that has not begun.
    """
    statuses: dict[str, Status] = {}
    runs = study.runs
    for cell in study.cells:
        for name in reversed(cell.chain):
            if name not in statuses:
                statuses[name] = read_status(runs / name)
            if name == cell.chain[-1] and statuses[name].state == "done":
                break
    found: dict[str, str] = {}
    for name, status in statuses.items():
        found[name] = status.state
        if status.state == "running" and time.time() - (status.updated or 0) > 60 and not _locked(runs / name):
            found[name] = "interrupted"
        elif status.state == "waiting" and (record := JobRecord.read_in(runs / name)) and record.job_id:
            found[name] = "queued"
    return found, statuses


def status_rows(study: Recorded, bill: Mapping[str, float] | None = None) -> Iterator[Row]:
    """One `live.Row` per cell. Its GPU hours (by `bill`, see `spent`) are those of all its stages, shared ones too."""
    from studies.engine.live import row

    found, statuses = states(study)
    for cell in study.cells:
        chain = cell.chain if found.get(cell.chain[-1]) != "done" else cell.chain[-1:]
        hours = sum(bill[name] for name in cell.chain) if bill else 0.0
        yield dataclasses.replace(row(cell.name, chain, found, statuses), gpu_hours=f"{hours:.3g}" if hours else "")


def spent(study: Recorded) -> dict[str, float]:
    """GPU hours that each stage has held, by run name."""
    names, runs = {name for cell in study.cells for name in cell.chain}, study.runs
    return {name: gpu_hours([runs / name]) for name in names}


def log_file(study: Recorded, name: str, kind: str = "") -> Path:
    """The log of the stage a cell is at: the one that failed or runs, else the last that wrote one."""
    cells = study.select([name])
    chain = [stage for stage in cells[0].chain if not kind or stage.startswith(f"{kind}-")]
    if not chain:
        raise unknown("stage", kind, {stage.partition("-")[0] for stage in cells[0].chain})
    logs = [stage for stage in chain if (study.runs / stage / "log").exists()]
    if not logs:
        raise UserError(f"cell {cells[0].name} has no log yet; is it waiting? `python -m studies status` says")
    current = [s for s in logs if read_status(study.runs / s).state in ("failed", "running", "interrupted")]
    return study.runs / (current or logs)[-1] / "log"


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


def compare(first: tuple[Recorded, str], second: tuple[Recorded, str]) -> list[str]:
    """How two cells differ in the settings of their stages, and in their scores."""
    before, after = (_described(study, study.select([name])[0]) for study, name in (first, second))
    lines = []
    for here, there, (_, name) in ((before, after, first), (after, before, second)):
        alone = sorted(here.keys() - there.keys())
        lines += [f"{role}: only in {name}" for role in alone if not any(role.startswith(f"{o}.") for o in alone)]
    common = before.keys() & after.keys()
    lines += differences({role: before[role] for role in common}, {role: after[role] for role in common})
    return lines or ["the same stages"]


def _described(study: Recorded, cell: RecordedCell) -> dict[str, Any]:
    """Settings by stage, and scores, nested."""
    results = StudyResults.read(study.runs.parent, *study.folder.parts[-2:])
    found = next(result for result in results.cells if result.name == cell.name)
    settings = {role: to_dict(run.config) for role, run in found.chain.items()}
    return {**settings, "result": {metric: found.score(metric) for metric in found.scores}}


# ------------------------------------------------------------------------------------------------------------- changing


def retry(study: Recorded, names: Iterable[str]) -> list[str]:
    """Let failed and cancelled stages of these cells be started again. Returns their names."""
    changed = []
    for stage in dict.fromkeys(stage for cell in study.select(names) for stage in cell.chain):
        path = study.runs / stage
        if read_status(path).state in ("failed", "cancelled"):
            run = RunDir.open(path)
            settle(run, "waiting", "")
            (path / "job.json").unlink(missing_ok=True)
            changed.append(stage)
    return changed


def cancel(study: Recorded, names: Iterable[str], backend_for: Callable[[str], Backend]) -> list[str]:
    """Stop these cells' stages that no other cell of the study needs, for good. Returns their names."""
    chosen = study.select(names)
    kept = {stage for cell in study.cells if cell not in chosen for stage in cell.chain}
    open_runs = [
        RunDir.open(study.runs / stage)
        for stage in dict.fromkeys(stage for cell in chosen for stage in cell.chain if stage not in kept)
        if (study.runs / stage / "config.json").exists()
        and read_status(study.runs / stage).state not in ("done", "failed", "cancelled")
    ]
    with submitting(study.runs):  # a driver at work must not submit meanwhile what is being cancelled
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
    for cluster, records in jobs.items():
        backend_for(cluster).cancel(records)
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


def unreferenced(results: Path) -> list[Path]:
    """Run directories that no study's cells.json names and nobody works in."""
    named = {
        stage
        for path in cells_files(results)
        for cell in json.loads(path.read_text())["cells"]
        for stage in cell["chain"]
    }
    found = sorted(path for path in (results / "runs").glob("*-*") if (path / "config.json").exists())
    return [path for path in found if path.name not in named and not _locked(path)]


def size(path: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def delete(path: Path) -> None:
    """Remove a run directory; one that dies half-way must not look like a whole one."""
    (path / "config.json").unlink()
    shutil.rmtree(path)


def _locked(path: Path) -> bool:
    try:
        return RunDir.open(path).locked
    except UserError:
        return False
