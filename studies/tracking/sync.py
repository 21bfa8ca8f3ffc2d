"""MLflow as a projection of the run directories: one experiment per study and preset, one run per cell.

`sync` may be called at any time, by the driver alone: it creates `results/mlflow.db` where there is none, adds what is
new, rebuilds a run whose history was rewritten by a resume, and everything where the results were copied or moved.
Nothing is kept here that the run directories lack, so deleting mlflow.db and mlartifacts loses nothing. MLflow takes
seconds to import: it is left alone when nothing changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from analysis.metrics import METRICS
from analysis.results import CellResult, StudyResults
from fvar.errors import UserError, one_line
from fvar.machine import atomic
from fvar.machine.names import printable
from fvar.plain import to_dict
from fvar.rundir import RunDir
from studies.database import address, complaint

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

DATABASE, ARTIFACTS, STAMPS = "mlflow.db", "mlartifacts", "mlflow-synced.json"
CELL, SYNCED = "fvar.cell", "fvar.synced"  # tags
SUMMARY = "summary"  # value of CELL on the run that holds the table and the figures
BATCH = 1000  # metrics per request; MLflow's own limit


def sync(results: Path, study: StudyResults, outputs: Sequence[Path] = ()) -> bool:
    """Bring MLflow up to date with a study and with the files it left for people (`studies.engine.outputs`).

    False, and MLflow is not imported, where nothing changed since then. Raises `UserError`, in one line, for whatever
    MLflow, its database or the disk fails at.
    """
    try:
        return _sync(results, study, outputs)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"writing to {results / DATABASE} failed ({one_line(error)})") from error


def _sync(results: Path, study: StudyResults, outputs: Sequence[Path]) -> bool:
    if moved(results):
        _start_over(results)
    stamps = _read_stamps(results)
    name, fingerprint = f"{study.study}/{study.preset}", _fingerprint(study, outputs)
    if (results / DATABASE).exists() and stamps.get(name) == fingerprint:
        return False
    client = open_client(results)
    experiment = _experiment(client, results, name)
    runs = {run.data.tags.get(CELL, ""): run for run in _all_runs(client, experiment)}
    summary = runs.get(SUMMARY) or client.create_run(experiment, run_name=study.title, tags={CELL: SUMMARY})
    for cell in study.cells:
        _sync_cell(client, experiment, cell, runs.get(_identity(cell)))
    for output in outputs:
        _upload(client, summary, output)
    client.set_terminated(summary.info.run_id)
    atomic.write_json(results / STAMPS, _read_stamps(results) | {name: fingerprint})
    return True


def open_client(results: Path) -> MlflowClient:
    """A client of `results/mlflow.db`, made first where it is missing."""
    database = results.resolve() / DATABASE
    if reason := complaint(database):
        raise _unusable(database, reason)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    try:
        from mlflow.tracking import MlflowClient
    except Exception as error:  # of a damaged installation, or of an MLflow that finds no home directory
        raise UserError(f"MLflow cannot be imported ({one_line(error)})") from error
    try:
        if not database.exists():
            _make(database)
        client = MlflowClient(address(database))
        client.search_experiments(max_results=1)
    except Exception as error:
        raise _unusable(database, one_line(error)) from error
    return client


def _make(database: Path) -> None:
    """An empty store, which takes MLflow seconds of migrations: as a whole, or not at all."""
    from mlflow.tracking import MlflowClient

    with atomic.replacing(database) as temporary:
        MlflowClient(address(temporary)).search_experiments()


def _unusable(database: Path, reason: str) -> UserError:
    if not database.exists():
        return UserError(f"{database} cannot be made ({reason})")
    if "locked" in reason:
        return UserError(f"{database} is held by another program ({reason}); it is brought up to date next time")
    return UserError(
        f"{database} cannot be opened ({reason}); "
        "delete it, the next run of the study rebuilds it from the run directories"
    )


def moved(results: Path) -> bool:
    """Whether the store was made for results that lie elsewhere: then its artifacts, all by absolute paths, do too."""
    database = results.resolve() / DATABASE
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as store:
            experiments = store.execute("SELECT name, artifact_location FROM experiments").fetchall()
    except sqlite3.Error:  # none, or a damaged one, of which `open_client` complains
        return False
    for name, location in experiments:
        root, end = Path(url2pathname(urlsplit(location).path)), Path(ARTIFACTS, name)
        if root.parts[-len(end.parts) :] != end.parts:
            continue  # not one of ours
        root = root.parents[len(end.parts) - 1]
        if not (root.exists() and root.samefile(results)):
            return True
    return False


def _start_over(results: Path) -> None:
    """Remove the store and its artifacts."""
    for name in (*(f"{DATABASE}{suffix}" for suffix in ("-wal", "-shm", "-journal", "")), STAMPS):
        (results / name).unlink(missing_ok=True)
    artifacts = results / ARTIFACTS
    if artifacts.is_symlink():  # of a copy made of links
        artifacts.unlink()
    else:
        shutil.rmtree(artifacts, ignore_errors=True)


# --------------------------------------------------------------------------------------------------- what has changed


def _fingerprint(study: StudyResults, outputs: Sequence[Path]) -> str:
    """Hash of everything that `sync` would write."""
    digest = hashlib.sha256(study.fingerprint.encode())
    for output in outputs:
        digest.update(_bytes(output))
    return digest.hexdigest()


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _read_stamps(results: Path) -> dict[str, str]:
    try:
        stamps: dict[str, str] = json.loads((results / STAMPS).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return stamps


# ----------------------------------------------------------------------------------------------------- writing one cell


def _sync_cell(client: MlflowClient, experiment: str, cell: CellResult, run: Run | None) -> None:
    """Add to the cell's run what it lacks; make it (again) where it is missing or contradicts the run directories."""
    from mlflow.entities import Param, RunTag

    params, synced = _params(cell), json.loads(run.data.tags.get(SYNCED, "{}")) if run else {}
    histories = {role: _complete_lines(stage) for role, stage in cell.chain.items()}
    if run and (_contradicts(run.data.params, params) or any(map(_rewritten, *_pairs(synced, histories)))):
        client.delete_run(run.info.run_id)
        run, synced = None, {}
    if run is None:
        tags = {CELL: _identity(cell), "variant": cell.variant, "seed": str(cell.seed)}
        run = client.create_run(experiment, start_time=_started(cell), run_name=cell.name, tags=tags)
    run_id = run.info.run_id

    client.log_batch(run_id, params=[Param(key, params[key]) for key in params.keys() - run.data.params.keys()])
    bad: list[str] = []
    for role, lines in histories.items():
        new = lines[synced.get(role, {}).get("lines", 0) :]
        for batch in _batches(_metrics_of(role, new, bad)):
            client.log_batch(run_id, metrics=batch)
    client.log_batch(run_id, metrics=_row(cell))
    tags = {SYNCED: json.dumps({role: _mark(lines) for role, lines in histories.items() if lines})}
    tags |= {"state": ": ".join(filter(None, cell.state))} | ({"non_finite": bad[0]} if bad else {})
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    for stage in cell.chain.values():
        for picture in ("grid.png", "reconstruction.png"):
            _upload(client, run, stage.path / picture)
    _set_state(client, run_id, cell)


def _identity(cell: CellResult) -> str:
    """Name and last stage: a cell whose configuration changed is another run."""
    return f"{cell.name}@{','.join(cell.stages.values())}"


def _params(cell: CellResult) -> dict[str, str]:
    """Every setting of every stage of the cell, flat: "var.train.lr" -> "0.0001"."""
    flat = {f"cell.{key}": printable(str(value)) for key, value in cell.params.items()}
    for role, run in cell.chain.items():
        flat |= _flatten(to_dict(run.config), role)
    return flat


def _flatten(values: Mapping[str, Any], prefix: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        path = f"{prefix}.{key}"
        flat |= _flatten(value, path) if isinstance(value, dict) else {path: printable(str(value))}
    return flat


def _contradicts(logged: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """MLflow refuses to log a parameter again with another value."""
    return any(wanted.get(key, value) != value for key, value in logged.items())


def _complete_lines(run: RunDir) -> list[bytes]:
    return [line for line in _bytes(run.path / "metrics.jsonl").splitlines(keepends=True) if line.endswith(b"\n")]


def _mark(lines: list[bytes]) -> dict[str, Any]:
    return {"lines": len(lines), "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}


def _pairs(synced: Mapping[str, Any], histories: Mapping[str, list[bytes]]) -> tuple[list[Any], list[list[bytes]]]:
    return list(synced.values()), [histories.get(role, []) for role in synced]


def _rewritten(mark: Mapping[str, Any], lines: list[bytes]) -> bool:
    """Whether the records that were synced are no longer the first ones: a resume dropped and repeated some."""
    return bool(_mark(lines[: mark["lines"]]) != mark)


def _metrics_of(role: str, lines: Iterable[bytes], bad: list[str]) -> Iterator[Metric]:
    """A stage's records as metrics `role/split/key`. MLflow would make inf 1.8e308: it gets NaN, and `bad` a note."""
    from mlflow.entities import Metric

    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        step, split, at = int(record.pop("step")), record.pop("split"), int(1000 * record.pop("time"))
        for key, text in record.items():
            value, name = float(text), f"{role.replace('.', '_')}/{split}/{key}"
            if not math.isfinite(value):
                bad.append(f"{name} is {value} at step {step}")
                value = math.nan
            yield Metric(name, value, at, step)


def _row(cell: CellResult) -> list[Metric]:
    """The cell's part of the table, as metrics without a history."""
    from mlflow.entities import Metric

    if cell.state[0] != "done":
        return []
    measured = {metric.key: metric.of(cell)[0] for metric in METRICS}
    return [Metric(f"table/{key}", value, 0, 0) for key, value in measured.items() if value is not None]


def _batches(metrics: Iterable[Metric]) -> Iterator[list[Metric]]:
    batch: list[Metric] = []
    for metric in metrics:
        batch.append(metric)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _started(cell: CellResult) -> int | None:
    starts = [run.status.started for run in cell.chain.values() if run.status.started]
    return int(1000 * min(starts)) if starts else None


def _set_state(client: MlflowClient, run_id: str, cell: CellResult) -> None:
    state = cell.state[0]
    ends = [run.status.updated for run in cell.chain.values() if run.status.updated]
    if state in ("done", "failed", "blocked", "cancelled"):
        status = {"done": "FINISHED", "cancelled": "KILLED"}.get(state, "FAILED")
        client.set_terminated(run_id, status, int(1000 * max(ends)) if ends else None)
    else:
        client.update_run(run_id, "RUNNING" if state == "running" else "SCHEDULED")


# ---------------------------------------------------------------------------------------------------------- experiments


def _experiment(client: MlflowClient, results: Path, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        location = (results.resolve() / ARTIFACTS / name).as_uri()
        return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _all_runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = client.search_runs([experiment], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _upload(client: MlflowClient, run: Run, path: Path) -> None:
    if path.exists():
        client.log_artifact(run.info.run_id, str(path))
