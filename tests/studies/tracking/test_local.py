"""The store beside the results holds what MLflow's own client would have written, row by row."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fvar.errors import UserError
from studies.tracking.local import LocalStore
from studies.tracking.store import KEY, MARK, Dataset, Entry, Point
from tests.studies.tracking.stores import client

pytest.importorskip("mlflow")

ENTRY = Entry(
    "full/seed0",
    "FINISHED",
    1000,
    2000,
    {"variant": "full"},
    {"var.train.lr": "0.0001"},
    [Point("FID", 12.5, 2000, 0)],
    [Dataset("emoji 64 px", "0123", "train", '{"root": ""}')],
)
POINTS = [Point("train/loss", 3.0, 5, 0), Point("train/loss", 2.0, 6, 10), Point("train/loss", math.nan, 7, 20)]
LEFT_OUT = {"experiment_id", "artifact_uri", "user_id", "run_uuid", "dataset_uuid", "input_uuid", "source_id"}
LEFT_OUT |= {"destination_id", "lifecycle_stage"}  # an id, or different by design; active and deleted runs differ


def rows(results: Path, table: str, run: str) -> list[dict[str, Any]]:
    """A table's rows of one run, without ids."""
    links = "SELECT input_uuid FROM inputs WHERE destination_id = :run"
    sources = "SELECT source_id FROM inputs WHERE destination_id = :run"
    where = {"inputs": "destination_id = :run", "input_tags": f"input_uuid IN ({links})"}
    where["datasets"] = f"dataset_uuid IN ({sources})"
    with contextlib.closing(sqlite3.connect(results / "mlflow.db")) as store:
        store.row_factory = sqlite3.Row
        found = store.execute(f"SELECT * FROM {table} WHERE {where.get(table, 'run_uuid = :run')}", {"run": run})  # noqa: S608
        left = [{key: row[key] for key in row.keys() if key not in LEFT_OUT} for row in found]  # noqa: SIM118
    return sorted(left, key=repr)


def by_us(results: Path) -> str:
    store = LocalStore(results)
    run = store.create(store.experiment("ours"), "k", ENTRY.name, ENTRY.start)
    store.append(run, POINTS[:2], {"at": 1})
    store.append(run, POINTS[2:], {"at": 2})
    store.write(run, ENTRY)
    store.finish()
    store.close()
    return run


def by_mlflow(results: Path) -> str:
    from mlflow.data.meta_dataset import MetaDataset  # noqa: F401
    from mlflow.entities import Dataset as Set
    from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

    mlflow = client(results)
    tags = {KEY: "k", MARK: '{"at": 2}', **ENTRY.tags}
    made = mlflow.create_run(mlflow.create_experiment("theirs"), ENTRY.start, {}, ENTRY.name)
    run = str(made.info.run_id)
    metrics = [Metric(point.key, point.value, point.time, point.step) for point in (*POINTS, *ENTRY.values)]
    params = [Param(key, value) for key, value in ENTRY.params.items()]
    mlflow.log_batch(run, metrics, params, [RunTag(key, value) for key, value in tags.items()])
    (dataset,) = ENTRY.datasets
    link = DatasetInput(
        Set(dataset.name, dataset.digest, "local", dataset.source), [InputTag("mlflow.data.context", dataset.split)]
    )
    mlflow.log_inputs(run, [link])
    mlflow.set_terminated(run, ENTRY.status, ENTRY.end)
    return run


def test_every_table_holds_what_mlflows_client_writes(results: Path) -> None:
    ours, theirs = by_us(results), by_mlflow(results)
    for table in ("runs", "metrics", "latest_metrics", "params", "tags", "datasets", "inputs", "input_tags"):
        assert rows(results, table, ours) == rows(results, table, theirs), table


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 1.0, -1.0, math.nan])), max_size=12),
    st.integers(1, 4),
)
def test_the_latest_value_is_that_of_the_highest_step_in_whatever_pieces_it_comes(
    results: Path,
    values: list[tuple[int, int, float]],
    pieces: int,
) -> None:
    store = LocalStore(results)
    run = store.create(store.experiment("latest"), "k", "name", 1)
    points = [Point("loss", value, at, step) for step, at, value in values]
    for first in range(0, len(points), pieces):
        store.append(run, points[first : first + pieces], {})
    store.finish()
    store.close()
    found = rows(results, "latest_metrics", run)
    best = max(((step, at, 0.0 if math.isnan(value) else value) for step, at, value in values), default=None)
    assert [(row["step"], row["timestamp"], row["value"]) for row in found] == ([best] if best else [])


def test_forgetting_a_run_leaves_nothing_of_it(results: Path, tmp_path: Path) -> None:
    run = by_us(results)
    store = LocalStore(results)
    (tmp_path / "picture.png").write_bytes(b"png")
    store.upload(run, tmp_path / "picture.png")
    assert list((results / "mlartifacts" / "ours").iterdir())
    store.forget(run)
    store.finish()
    assert not list((results / "mlartifacts" / "ours").iterdir())
    for table in ("runs", "metrics", "latest_metrics", "params", "tags", "inputs"):
        assert rows(results, table, run) == [], table


def test_a_store_of_another_layout_is_refused_in_one_line(results: Path) -> None:
    with contextlib.closing(sqlite3.connect(results / "mlflow.db")) as store:
        store.execute("ALTER TABLE runs RENAME COLUMN status TO standing")
        store.commit()
    with pytest.raises(UserError, match="its table runs has another layout"):
        LocalStore(results)
