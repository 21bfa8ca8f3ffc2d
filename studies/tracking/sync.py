"""MLflow as a projection of the run directories: study -> experiment, cell -> run, stage -> run below it.

`sync` may be called at any time: it adds what is new, and makes a run again whose history was rewritten by a resume.
Nothing is kept in MLflow that the run directories lack. A run directory is opened only where a file of it changed since
the mark that its run carries, and a history is read on from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis import cells as cells_json
from analysis import standing
from analysis.cells import StudyRecord
from analysis.results import CellResult, StudyResults
from fvar.errors import UserError, one_line
from fvar.machine import locks
from fvar.rundir import RunDir, Status, read_status
from studies.tracking import describe, entries, history
from studies.tracking.entries import Look, digest
from studies.tracking.store import ENDED, Contradiction, Entry, Known, Store, open_store, shown

LOCK = ".mlflow.lock"
PATIENCE = 120.0  # seconds to wait for another sync of the same results
SUMMARY = "summary"  # key of the run that holds table and figures
SYNCED, VARIES = "fvar.synced", "fvar.varies"  # tags of an experiment


def sync(results: Path, study: StudyResults, outputs: Sequence[Path] = (), uri: str = "") -> bool:
    """Bring MLflow up to date with a study and with the files it left for people (`studies.engine.outputs`).

    Parameters
    ----------
    uri
        Of a tracking server; empty: the store beside the results.

    Returns
    -------
    bool
        Whether anything was written.

    Raises
    ------
    UserError
        In one line, for whatever MLflow, its database, the server or the disk fails at.
    """
    try:
        with locks.holding(results / LOCK, lambda owner: f"{owner} is bringing MLflow up to date", PATIENCE):
            store = open_store(results, uri)
            try:
                written = Projection(store, results, study, outputs).write()
                store.finish()
            finally:
                store.close()
            return written
    except UserError:
        raise
    except Exception as error:
        where = shown(uri) if uri else results / "mlflow.db"
        raise UserError(f"writing to {where} failed ({one_line(error)})") from error


def experiment_of(study: str, preset: str) -> str:
    """The name of a study's experiment."""
    return f"{study}/{preset}"


def key_of(cell: str, stage: str) -> str:
    """By which the run of a cell is known, with its own stage: of other settings, it is another run."""
    return f"cell {cell}@{stage}"


class Projection:
    """One study on its way into a store."""

    def __init__(self, store: Store, results: Path, study: StudyResults, outputs: Sequence[Path]) -> None:
        self.store = store
        self.study = study
        self.outputs = outputs
        self.runs = results / cells_json.RUNS
        self.cells = {key_of(cell.name, cell.recorded[-1]): cell for cell in study.cells}
        self.where = {"study": study.study, "preset": study.preset}
        self.settings: dict[str, dict[str, str]] = {}  # by stage
        self.written = False

    def write(self) -> bool:
        """Bring the store up to date; whether there was anything to do."""
        self.experiment = self.store.experiment(experiment_of(self.study.study, self.study.preset))
        self.known = self.store.known(self.experiment)
        users: dict[str, list[str]] = {}
        for key, cell in self.cells.items():
            for name in cell.recorded:
                users.setdefault(name, []).append(key)
        self.looks = self._look(users)
        self.marks = {name: self._mark(f"stage {name}") for name in self.looks}
        for key, cell in self.cells.items():
            if key not in self.known:
                self._create(key, cell.name, None)
        for name, keys in users.items():
            if name in self.looks:
                self._stage(name, keys)
        self._all_cells()
        self._retire(users)
        self._summary()
        return self.written

    def _look(self, users: Mapping[str, object]) -> dict[str, Look]:
        found = {}
        for name in users:
            mark = self._mark(f"stage {name}")
            before = Look(str(mark.get("stamp")), str(mark.get("state"))) if "stamp" in mark else None
            if seen := entries.look(self.runs / name, before):
                found[name] = seen
        return found

    def _mark(self, key: str) -> Mapping[str, Any]:
        return self.known[key].mark if key in self.known else {}

    def _create(self, key: str, name: str, start: int | None) -> None:
        run_id = self.store.create(self.experiment, key, name, start)
        self.known[key] = Known(run_id, "SCHEDULED", {})
        self.written = True

    def _put(self, key: str, entry: Entry, mark: Mapping[str, Any]) -> None:
        """Make a run show an entry and remember that, made again where MLflow holds on to another parameter."""
        try:
            self.store.write(self.known[key].run_id, entry)
        except Contradiction:
            self.store.forget(self.known[key].run_id)
            self._create(key, entry.name, entry.start)
            self.store.write(self.known[key].run_id, entry)
        self.store.append(self.known[key].run_id, [], mark)
        self.known[key] = Known(self.known[key].run_id, entry.status, mark)
        self.written = True

    # ------------------------------------------------------------------------------------------------------ stages

    def _stage(self, name: str, keys: Sequence[str]) -> None:
        """Bring the run of a stage up to date: history first, in pieces, then all else."""
        key, seen = f"stage {name}", self.looks[name]
        parent = self.known[keys[0]].run_id
        given_up = seen.state not in (*standing.SETTLED, "running") and all(self.cells[user].pruned for user in keys)
        place = digest((parent, keys, given_up))  # where it stands among the runs
        mark = self._mark(key)
        if (mark.get("stamp"), mark.get("state"), mark.get("place")) == (*seen, place):
            return
        run = RunDir.open(self.runs / name)
        past = entries.Past.of(run)
        facts = entries.facts_of(run, past)
        progress = history.Progress.of(dict(mark.get("progress", {})))
        if key in self.known and not progress.still_holds(run.path):
            self.store.forget(self.known.pop(key).run_id)
            progress = history.Progress()
            mark = {}
        if key not in self.known:
            self._create(key, run.name, facts.get("start"))
        for points in history.news(run.path, progress):
            self.store.append(self.known[key].run_id, points, {"progress": progress.as_mark()})
        pictures = self._upload(key, run, mark.get("pictures", {}))
        users = [self.cells[user] for user in keys]
        state, params = "pruned" if given_up else seen.state, self._settings_of(run)
        entry = entries.stage_entry(run, past, state, facts, users, parent, progress.non_finite, params)
        mark = {"stamp": seen.stamp, "state": seen.state, "place": place, "facts": facts}
        mark |= {"progress": progress.as_mark(), "pictures": pictures}
        self._put(key, entry, mark)
        self.marks[name] = mark

    def _upload(self, key: str, run: RunDir, before: Mapping[str, Any]) -> dict[str, str]:
        """Upload the stage's pictures that changed; what they are now."""
        found = {}
        for name in entries.PICTURES:
            path = run.path / name
            with contextlib.suppress(FileNotFoundError):
                found[name] = str(path.stat().st_mtime_ns)
                if found[name] != before.get(name):
                    self.store.upload(self.known[key].run_id, path)
        return found

    # ------------------------------------------------------------------------------------------------------- cells

    def _all_cells(self) -> None:
        varies = self._varies()
        for key, cell in self.cells.items():
            stages = [(name, self.looks.get(name)) for name in cell.recorded]
            stamp = digest((cell.name, cell.label, cell.seed, cell.params, cell.pruned, self.where, stages, varies))
            if self._mark(key).get("stamp") == stamp:
                continue
            statuses = self._statuses(cell)
            state = entries.state_of(cell, self.looks, statuses)
            params = entries.cell_settings(cell, self._settings(cell))
            entry = entries.cell_entry(cell, self.where, state, self.marks, params, varies)
            self._put(key, entry, {"stamp": stamp})

    def _statuses(self, cell: CellResult) -> dict[str, Status]:
        """Of the stages that are not done, and may have something to say."""
        open_ones = [name for name in cell.recorded if name in self.looks and self.looks[name].state != "done"]
        return {name: read_status(self.runs / name) for name in open_ones}

    def _varies(self) -> list[str]:
        """The settings in which the cells differ; found anew only where cells or stages were added."""
        stamp = digest(([(key, cell.params) for key, cell in self.cells.items()], sorted(self.looks)))
        before, _, keys = self.store.annotation(self.experiment, VARIES).partition(" ")
        if before == stamp:
            return keys.split()
        cells = self.cells.values()
        found = entries.varying(entries.cell_settings(cell, self._settings(cell)) for cell in cells)
        self.store.annotate(self.experiment, {VARIES: " ".join([stamp, *found])})
        return found

    def _settings(self, cell: CellResult) -> dict[str, dict[str, str]]:
        """The settings of every stage so far, a cell's own among them."""
        for run in cell.chain.values():
            self._settings_of(run)
        return self.settings

    def _settings_of(self, run: RunDir) -> dict[str, str]:
        if run.name not in self.settings:
            self.settings[run.name] = entries.settings(run)
        return self.settings[run.name]

    def _retire(self, users: Mapping[str, object]) -> None:
        """Runs of cells and stages that the study no longer has do not wait or run any more."""
        wanted = {*self.cells, *(f"stage {name}" for name in users), SUMMARY}
        for key, run in self.known.items():
            if key not in wanted and run.status not in ENDED and not run.mark.get("retired"):
                name = key.partition(" ")[2].partition("@")[0]
                entry = Entry(name, "KILLED", tags={"state": "no longer part of the study"})
                self._put(key, entry, {**run.mark, "retired": True})

    # -------------------------------------------------------------------------------------------------- the summary

    def _summary(self) -> None:
        """The run that holds table and figures, and the experiment's description."""
        files = [path for path in (*self.outputs, describe.READINGS) if path.exists()]
        stamps = {path.name: digest((path.stat().st_size, path.stat().st_mtime_ns)) for path in files}
        if SUMMARY not in self.known:
            self._create(SUMMARY, self.study.title, None)
        run = self.known[SUMMARY]
        if run.mark.get("stamp") != digest(stamps):
            sent = dict(run.mark.get("files", {}))
            for path in files:
                if sent.get(path.name) != stamps[path.name]:
                    self.store.upload(run.run_id, path)
                    sent[path.name] = stamps[path.name]
                    self.store.append(run.run_id, [], {"files": sent})  # not again, should the next one break off
            tags = {"kind": SUMMARY, "state": "", **self.where}
            self._put(SUMMARY, Entry(self.study.title, "FINISHED", tags=tags), {"stamp": digest(stamps), "files": sent})
        record = cells_json.read(cells_json.Place(self.runs.parent, self.study.study, self.study.preset))
        tags = self._description(replace(record, title=self.study.title), run.run_id)
        if self.store.annotation(self.experiment, SYNCED) != digest(tags):
            self.store.annotate(self.experiment, {**tags, SYNCED: digest(tags)})
            self.written = True

    def _description(self, record: StudyRecord, summary: str) -> dict[str, str]:
        tables = [path for path in self.outputs if path.name == "table.md" and path.exists()]
        table = tables[0].read_text(errors="replace") if tables else ""
        page = f"#/experiments/{self.experiment}/runs/{summary}/artifacts"
        _, _, varies = self.store.annotation(self.experiment, VARIES).partition(" ")
        return {
            "mlflow.note.content": describe.experiment(record, table, page),
            "mlflow.experimentKind": "custom_model_development",
            **describe.view(
                describe.telling(varies.split()), [column["key"] for column in record.columns] or describe.MEASURED
            ),
        }
