"""Where runs are kept: the few operations that a sync needs, and which of the two stores a command means.

A store keeps with each run its `mark` (a tag): what of the run directory has been written, changed in the same step as
what it speaks of. A sync that is killed is continued from the marks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from fvar.errors import UserError

KEY, MARK = "fvar.key", "mlflow.fvar.synced"  # tags: which run this is; how much is written, which pages hide
RUN_NAME, NOTE, PARENT = "mlflow.runName", "mlflow.note.content", "mlflow.parentRunId"  # tags that MLflow's pages read
VARIABLE = "MLFLOW_TRACKING_URI"
QUIET = {  # environment of MLflow, whose hints and bars are not for our users
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",
}
ENDED = frozenset({"FINISHED", "FAILED", "KILLED"})


class Point(NamedTuple):
    """One value of a metric; `time` in milliseconds since 1970."""

    key: str
    value: float
    time: int
    step: int


class Dataset(NamedTuple):
    """A data set that a run read: MLflow shows name, digest and split."""

    name: str
    digest: str
    split: str
    source: str  # JSON


@dataclass(frozen=True)
class Known:
    """A run that the store has."""

    run_id: str
    status: str
    mark: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """What a run shows, but for its history."""

    name: str
    status: str
    start: int | None = None
    end: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    values: Sequence[Point] = ()
    datasets: Sequence[Dataset] = ()


class Contradiction(Exception):
    """The store holds another value of a parameter and keeps it; the run must be made again."""


class Store(Protocol):
    """Experiments and runs. Whatever cannot be done raises `UserError`, in one line."""

    def experiment(self, name: str) -> str:
        """The id of an experiment, made (or taken back from the deleted ones) where it is missing."""

    def annotate(self, experiment: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment."""

    def annotation(self, experiment: str, key: str) -> str:
        """A tag of an experiment; "" where it has none."""

    def known(self, experiment: str) -> dict[str, Known]:
        """The experiment's runs by their key."""

    def create(self, experiment: str, key: str, name: str, start: int | None) -> str:
        """A new run, scheduled; its id."""

    def write(self, run_id: str, entry: Entry) -> None:
        """Make a run show this. Raises `Contradiction`."""

    def append(self, run_id: str, points: Iterable[Point], mark: Mapping[str, Any]) -> None:
        """Add to the history, then remember the mark."""

    def forget(self, run_id: str) -> None:
        """Remove a run."""

    def upload(self, run_id: str, file: Path) -> None:
        """Add a file to the run's artifacts, in place of one of the same name."""

    def finish(self) -> None:
        """All is written."""

    def close(self) -> None:
        """Let go of the store."""


def address_of_server(given: str = "") -> str:
    """The tracking server that a command means, by `--tracking-uri` or MLFLOW_TRACKING_URI; "" for the store beside
    the results. Raises `UserError` for an address of another kind."""
    uri = (given or os.environ.get(VARIABLE, "")).strip().rstrip("/")
    if not uri:
        return ""
    parts = urlsplit(uri)
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is not a number
        usable = False
    if not usable:
        origin = "--tracking-uri" if given else VARIABLE
        raise UserError(
            f"{origin} {shown(uri)!r} is not the address of an MLflow server; give one such as http://127.0.0.1:5000, "
            "or none to keep the runs beside the results"
        )
    return uri


def shown(uri: str) -> str:
    """An address without its password."""
    head, at, tail = uri.rpartition("@")
    return f"{head.partition('://')[0]}://***@{tail}" if at else uri


def open_store(results: Path, uri: str = "") -> Store:
    """The server of that address, or the store beside the results."""
    if uri:
        from studies.tracking.server import Server

        return Server(uri, results)
    from studies.tracking.local import LocalStore

    return LocalStore(results)
