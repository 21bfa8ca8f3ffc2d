"""MLflow's model registry, beside the results or on a server: promoted models as versions of a name.

The store beside the results names the model's own folder, so that the registry can be made again with the store. A
server is sent a copy, file by file. Its API takes a file as a whole or not at all: a transfer that broke off goes on
with the first file of weights that is not there in its whole size.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fvar.errors import UserError, one_line
from fvar.machine import locks
from studies.database import address, complaint
from studies.tracking.local import DATABASE, unusable
from studies.tracking.model import CARD, FACTS, MODELS
from studies.tracking.store import QUIET, open_store, shown
from studies.tracking.sync import LOCK, PATIENCE, experiment_of, key_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

WEIGHTS = "weights"  # tag of a version: the digest of its weights, which is the name of its folder
LARGE = ".safetensors"  # files that a server is not sent again which has one of their size
LONGEST_CARD = 5000  # characters of a description; MLflow's limit
WHAT = "Promoted by `python -m studies promote`: a version for each set of weights; its card is its description."
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}  # else it tries for minutes


class Version(NamedTuple):
    """A model in the registry; `new` where it was not there before."""

    name: str
    number: str
    new: bool

    @property
    def address(self) -> str:
        return f"models:/{self.name}/{self.number}"


def register(results: Path, folder: Path, uri: str = "") -> Version:
    """Make a model's folder a version of its name, once, with its cell's run as the source where the store has that.

    Parameters
    ----------
    folder
        As `studies.tracking.model.make` left it.
    uri
        Of a tracking server; empty: the store beside the results.

    Raises
    ------
    UserError
        In one line, where a server has no run of the cell (`studies.tracking.sync`), and for whatever MLflow, its
        database, the server or the disk fails at.
    """
    with _client(results, uri) as client:
        return _add(client, results, folder, uri)


def restore(results: Path) -> list[Version]:
    """Register all models of a results folder whose store was made anew, the oldest first. Raises as `register`.

    One whose study was not synced yet, or is gone, has no run as its source.
    """
    made = sorted(results.glob(f"{MODELS}/*/*/{CARD}"), key=lambda path: path.stat().st_mtime_ns)
    if not made:
        return []
    with _client(results, "") as client:
        return [_add(client, results, path.parent, "") for path in made]


def address_in(results: Path) -> str:
    """What `mlflow.set_tracking_uri` needs for the store beside the results."""
    return address(results.resolve() / DATABASE)


@contextlib.contextmanager
def _client(results: Path, uri: str) -> Iterator[MlflowClient]:
    """MLflow's own client of a store that nothing else of ours writes meanwhile; whatever it fails at is one line."""
    database = results.resolve() / DATABASE
    with locks.holding(results / LOCK, lambda owner: f"{owner} is bringing MLflow up to date", PATIENCE):
        if not uri and (reason := complaint(database)):
            raise unusable(database, reason)
        os.environ.update(QUIET | IMPATIENT)
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        where = uri or address_in(results)
        try:
            yield MlflowClient(where, where)
        except UserError:
            raise
        except Exception as error:
            named = f"the MLflow server {shown(uri)}" if uri else database
            raise UserError(f"{named} did not register the model ({one_line(error)}); repeat the command") from error


def _run_of(results: Path, facts: Mapping[str, str], uri: str) -> str:
    """The id of a cell's run; "" where the store has none."""
    store = open_store(results, uri)
    try:
        known = store.known(store.experiment(experiment_of(facts["study"], facts["preset"])))
        store.finish()
    finally:
        store.close()
    found = known.get(key_of(facts["cell"], facts["stage"]))
    return found.run_id if found else ""


def _add(client: MlflowClient, results: Path, folder: Path, uri: str) -> Version:
    """Register a folder as a version, or find the version that it is already."""
    name, weights = folder.parent.name, folder.name
    for version in _versions(client, name):
        if version.tags.get(WEIGHTS) == weights:
            return Version(name, version.version, new=False)
    facts = _facts(folder)
    run_id = _run_of(results, facts, uri)
    if uri and not run_id:  # which is to hold the copy
        raise UserError(
            f"{shown(uri)} has no run of {facts['cell']} yet; first: python -m studies sync {facts['study']}"
        )
    source = _send(client, folder, run_id) if uri else folder.resolve().as_uri()
    card = (folder / CARD).read_text(encoding="utf-8")[:LONGEST_CARD]
    made = client.create_model_version(name, source, run_id or None, tags={**facts, WEIGHTS: weights}, description=card)
    return Version(name, made.version, new=True)


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a name, which is registered where it is new."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name, description=WHAT)
    return list(client.search_model_versions(f"name = '{name}'"))


def _facts(folder: Path) -> dict[str, str]:
    from mlflow.models import Model

    return dict((Model.load(str(folder)).metadata or {}).get(FACTS, {}))


def _send(client: MlflowClient, folder: Path, run_id: str) -> str:
    """Copy a model to the artifacts of a run; the copy's address. Raises `UserError` if not all of it arrived."""
    place = f"model-{folder.name}"
    there = dict(_sizes(client, run_id, place))
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, path in files.items():
        if path.suffix != LARGE or there.get(f"{place}/{name}") != path.stat().st_size:
            client.log_artifact(run_id, str(path), f"{place}/{name}".rpartition("/")[0])
    there = dict(_sizes(client, run_id, place))
    short = [name for name, path in files.items() if there.get(f"{place}/{name}") != path.stat().st_size]
    if short:
        raise UserError(f"{short[0]} did not arrive whole on the server; repeat the command, which sends it again")
    return f"{client.get_run(run_id).info.artifact_uri}/{place}"


def _sizes(client: MlflowClient, run_id: str, path: str) -> Iterator[tuple[str, int]]:
    """Path and size of all files below a path of a run's artifacts."""
    for found in client.list_artifacts(run_id, path):
        if found.is_dir:
            yield from _sizes(client, run_id, found.path)
        else:
            yield found.path, found.file_size or 0
