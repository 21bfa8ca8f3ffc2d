"""The store beside the results: `mlflow.db`, written by SQL in MLflow's own layout.

MLflow's client takes 0.2 ms per value and seconds to import; this takes 3 µs, without importing it. What it writes is
compared, table by table, with what MLflow's client writes (tests/studies/tracking/test_local.py). MLflow makes the
empty store. One transaction holds a piece of history and the mark that it was written, so that nothing is there twice.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fvar.errors import UserError, one_line
from fvar.machine import atomic
from studies.database import PATIENCE, address, complaint
from studies.tracking.store import ENDED, KEY, MARK, QUIET, RUN_NAME, Dataset, Entry, Known, Point

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
CACHE_KIB = 64 << 10  # the tables' keys begin with the name of a metric, so that each run is written all over them
COMMIT_SECONDS = 2.0  # for which another program may have to wait
COLUMNS = {  # what is written here; a store whose tables have other columns is another version's
    "experiments": "experiment_id name artifact_location lifecycle_stage creation_time last_update_time",
    "experiment_tags": "experiment_id key value",
    "runs": "run_uuid name source_type source_name entry_point_name user_id status start_time end_time source_version "
    "lifecycle_stage artifact_uri experiment_id",
    "metrics": "key value timestamp run_uuid step is_nan",
    "latest_metrics": "key value timestamp step is_nan run_uuid",
    "params": "key value run_uuid",
    "tags": "key value run_uuid",
    "datasets": "dataset_uuid experiment_id name digest dataset_source_type dataset_source",
    "inputs": "input_uuid source_type source_id destination_type destination_id",
    "input_tags": "input_uuid name value",
}


REPLACE = (
    "INSERT INTO latest_metrics (key, step, timestamp, value, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (key, run_uuid) DO UPDATE SET step = excluded.step, timestamp = excluded.timestamp, "
    "value = excluded.value, is_nan = excluded.is_nan"
)
ADVANCE = REPLACE + " WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)"


class LocalStore:
    """`results/mlflow.db`, made first where it is missing, and made again where the results were copied or moved."""

    def __init__(self, results: Path) -> None:
        self.results = results.resolve()
        self.database = self.results / DATABASE
        if moved(results):
            start_over(results)
        if reason := complaint(self.database):
            raise unusable(self.database, reason)
        if not self.database.exists():
            make(self.database)
        self._connection = sqlite3.connect(self.database, timeout=PATIENCE, isolation_level=None)
        self._connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._began = 0.0
        self._fresh: set[str] = set()  # runs made here that were not written yet: nothing is to be replaced
        self._locations: dict[str, str] = {}  # by experiment: where its artifacts go
        self._datasets: dict[tuple[str, str, str], str] = {}  # ids, by experiment, name and digest
        try:
            self._require_layout()
        except sqlite3.Error as error:
            raise unusable(self.database, one_line(error)) from error

    def _require_layout(self) -> None:
        for table, columns in COLUMNS.items():
            found = self._connection.execute(f"PRAGMA table_info({table})").fetchall()
            ours, needed = set(columns.split()), {row[1] for row in found if row[3] and row[4] is None}
            if not ours <= {row[1] for row in found} or needed - ours:
                raise unusable(self.database, f"its table {table} has another layout than MLflow's of today")

    # ------------------------------------------------------------------------------------------------- experiments

    def experiment(self, name: str) -> str:
        row = self._read("SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?", name)
        if row:
            if row[0][1] != "active":
                self._do("UPDATE experiments SET lifecycle_stage = 'active' WHERE experiment_id = ?", row[0][0])
            return str(row[0][0])
        location, now = (self.results / ARTIFACTS / name).as_uri(), _now()
        self._do(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time) "
            "VALUES (?, ?, 'active', ?, ?)",
            *(name, location, now, now),
        )
        return self.experiment(name)

    def annotate(self, experiment: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._do(
                "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)",
                *(key, value, int(experiment)),
            )

    def annotation(self, experiment: str, key: str) -> str:
        sql = "SELECT value FROM experiment_tags WHERE experiment_id = ? AND key = ?"
        return next((str(value) for (value,) in self._read(sql, int(experiment), key)), "")

    # -------------------------------------------------------------------------------------------------------- runs

    def known(self, experiment: str) -> dict[str, Known]:
        sql = (
            "SELECT runs.run_uuid, status, keys.value, marks.value FROM runs "
            "JOIN tags AS keys ON keys.run_uuid = runs.run_uuid AND keys.key = ? "
            "LEFT JOIN tags AS marks ON marks.run_uuid = runs.run_uuid AND marks.key = ? "
            "WHERE experiment_id = ? AND lifecycle_stage = 'active'"
        )
        rows = self._read(sql, KEY, MARK, int(experiment))
        return {key: Known(run_id, status, read_mark(mark)) for run_id, status, key, mark in rows}

    def create(self, experiment: str, key: str, name: str, start: int | None) -> str:
        run_id = uuid.uuid4().hex
        if experiment not in self._locations:
            sql = "SELECT artifact_location FROM experiments WHERE experiment_id = ?"
            ((self._locations[experiment],),) = self._read(sql, int(experiment))
        location = self._locations[experiment]
        self._do(
            "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, "
            "start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
            "VALUES (?, ?, 'UNKNOWN', '', '', ?, 'SCHEDULED', ?, NULL, '', 'active', ?, ?)",
            *(run_id, name, _user(), start or _now(), f"{location}/{run_id}/artifacts", int(experiment)),
        )
        self._tag(run_id, {KEY: key, RUN_NAME: name})
        self._fresh.add(run_id)
        return run_id

    def write(self, run_id: str, entry: Entry) -> None:
        end = entry.end if entry.status in ENDED else None
        self._do(
            "UPDATE runs SET name = ?, status = ?, start_time = coalesce(?, start_time), end_time = ? "
            "WHERE run_uuid = ?",
            *(entry.name, entry.status, entry.start, end, run_id),
        )
        fresh = run_id in self._fresh
        self._fresh.discard(run_id)
        if not fresh:
            self._do("DELETE FROM tags WHERE run_uuid = ? AND key LIKE 'varies.%'", run_id)
            for point in entry.values:  # of which only the newest counts
                self._do("DELETE FROM metrics WHERE run_uuid = ? AND key = ?", run_id, point.key)
        self._tag(run_id, {**entry.tags, RUN_NAME: entry.name})
        rows = [(key, value, run_id) for key, value in entry.params.items()]
        self._many("INSERT OR REPLACE INTO params (key, value, run_uuid) VALUES (?, ?, ?)", rows)
        self._add(run_id, entry.values, replace=True)
        for dataset in entry.datasets:
            self._link(run_id, dataset, fresh)

    def append(self, run_id: str, points: Iterable[Point], mark: Mapping[str, Any]) -> None:
        self._add(run_id, list(points))
        self._tag(run_id, {MARK: json.dumps(mark)})
        if time.monotonic() - self._began > COMMIT_SECONDS:
            self._commit()

    def forget(self, run_id: str) -> None:
        for table in ("metrics", "latest_metrics", "params", "tags"):
            self._do(f"DELETE FROM {table} WHERE run_uuid = ?", run_id)  # noqa: S608
        self._do("DELETE FROM inputs WHERE destination_id = ?", run_id)
        folder = self._artifacts(run_id)
        self._do("DELETE FROM runs WHERE run_uuid = ?", run_id)
        shutil.rmtree(folder.parent, ignore_errors=True)

    def upload(self, run_id: str, file: Path) -> None:
        with atomic.replacing(self._artifacts(run_id) / file.name) as temporary:
            shutil.copyfile(file, temporary)

    def finish(self) -> None:
        self._commit()

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    # ------------------------------------------------------------------------------------------------------ inside

    def _add(self, run_id: str, points: Iterable[Point], replace: bool = False) -> None:
        """Values of metrics, and which of each is the latest: the one of the highest step, then time, then value."""
        rows: list[tuple[object, ...]] = []
        latest: dict[str, tuple[int, int, float, bool]] = {}
        for key, value, at, step in points:
            nan = math.isnan(value)
            number = 0.0 if nan else value
            rows.append((key, number, at, run_id, step, nan))
            if key not in latest or latest[key][:3] < (step, at, number):
                latest[key] = (step, at, number, nan)
        sql = "INSERT OR IGNORE INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"
        self._many(sql, rows)
        self._many(REPLACE if replace else ADVANCE, [(key, *newest, run_id) for key, newest in latest.items()])

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        rows = [(key, value, run_id) for key, value in tags.items()]
        self._many("INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", rows)

    def _link(self, run_id: str, dataset: Dataset, fresh: bool) -> None:
        """Say that a run read a data set, once."""
        ((experiment,),) = self._read("SELECT experiment_id FROM runs WHERE run_uuid = ?", run_id)
        key = (str(experiment), dataset.name, dataset.digest)
        if key not in self._datasets:
            self._datasets[key] = self._dataset(experiment, dataset)
        number = self._datasets[key]
        sql = "SELECT 1 FROM inputs WHERE source_type = 'DATASET' AND source_id = ? AND destination_id = ?"
        if fresh or not self._read(sql, number, run_id):
            link = uuid.uuid4().hex
            self._do(
                "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id) "
                "VALUES (?, 'DATASET', ?, 'RUN', ?)",
                *(link, number, run_id),
            )
            sql = "INSERT INTO input_tags (input_uuid, name, value) VALUES (?, 'mlflow.data.context', ?)"
            self._do(sql, link, dataset.split)

    def _dataset(self, experiment: int, dataset: Dataset) -> str:
        """The id of a data set, made where it is missing."""
        sql = "SELECT dataset_uuid FROM datasets WHERE experiment_id = ? AND name = ? AND digest = ?"
        if found := self._read(sql, experiment, dataset.name, dataset.digest):
            return str(found[0][0])
        number = uuid.uuid4().hex
        self._do(
            "INSERT INTO datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type, "
            "dataset_source) VALUES (?, ?, ?, ?, 'local', ?)",
            *(number, experiment, dataset.name, dataset.digest, dataset.source),
        )
        return number

    def _artifacts(self, run_id: str) -> Path:
        ((uri,),) = self._read("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
        return Path(url2pathname(urlsplit(uri).path))

    def _read(self, sql: str, *values: object) -> list[Any]:
        return self._connection.execute(sql, values).fetchall()

    def _do(self, sql: str, *values: object) -> None:
        self._begin()
        self._connection.execute(sql, values)

    def _many(self, sql: str, rows: list[Any]) -> None:
        if rows:
            self._begin()
            self._connection.executemany(sql, rows)

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
            self._began = time.monotonic()

    def _commit(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")


def read_mark(text: str | None) -> dict[str, Any]:
    """A mark as it was written; of one that somebody edited, nothing is known."""
    with contextlib.suppress(json.JSONDecodeError):
        mark = json.loads(text or "{}")
        if isinstance(mark, dict):
            return mark
    return {}


def make(database: Path) -> None:
    """An empty store, by MLflow, which takes seconds for it: as a whole, or not at all."""
    code = "import sys; from mlflow.tracking import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
    try:
        with atomic.replacing(database) as temporary:
            command = [sys.executable, "-c", code, address(temporary)]
            done = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True, errors="replace")
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
                raise UserError(f"MLflow cannot make {database} ({lines[-1]})")
    except OSError as error:
        raise UserError(f"{database} cannot be made ({one_line(error)})") from error


def unusable(database: Path, reason: str) -> UserError:
    if "locked" in reason:
        return UserError(f"{database} is held by another program ({reason}); it is brought up to date next time")
    return UserError(
        f"{database} cannot be opened ({reason}); "
        "delete it, the next run of the study rebuilds it from the run directories"
    )


def experiments(database: Path) -> list[tuple[str, str]]:
    """Ids and names of the experiments of a store, but for MLflow's own."""
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as store:
        sql = "SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active' AND name LIKE '%/%'"
        return [(str(number), str(name)) for number, name in store.execute(sql)]


def moved(results: Path) -> bool:
    """Whether the store was made for results that lie elsewhere: then its artifacts, all by absolute paths, do too."""
    database = results.resolve() / DATABASE
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as store:
            experiments = store.execute("SELECT name, artifact_location FROM experiments").fetchall()
    except sqlite3.Error:  # none, or a damaged one, of which whoever opens it complains
        return False
    for name, location in experiments:
        root, end = Path(url2pathname(urlsplit(location).path)), Path(ARTIFACTS, name)
        if root.parts[-len(end.parts) :] != end.parts:
            continue  # not one of ours
        root = root.parents[len(end.parts) - 1]
        if not (root.exists() and root.samefile(results)):
            return True
    return False


def absent(results: Path) -> bool:
    """Whether the next sync makes a store."""
    return not (results / DATABASE).exists() or moved(results)


def start_over(results: Path) -> None:
    """Remove the store and its artifacts."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        (results / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    artifacts = results / ARTIFACTS
    if artifacts.is_symlink():  # of a copy made of links
        artifacts.unlink()
    else:
        shutil.rmtree(artifacts, ignore_errors=True)


def _now() -> int:
    return int(1000 * time.time())


def _user() -> str:
    return os.environ.get("USER", "")
