"""A tracking server, spoken to in MLflow's REST API: whatever data base it keeps, and wherever it keeps artifacts.

Importing MLflow's client would take seconds and 160 MiB; the few calls that a sync needs are documented and stable:
https://mlflow.org/docs/latest/api_reference/rest-api.html. Which runs the server has, and their marks, is kept in a
file beside the results while nothing writes; where that is missing, after a kill say, the server is asked for them.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

from fvar.errors import UserError, one_line
from fvar.machine import atomic, records
from studies.tracking.local import read_mark
from studies.tracking.store import KEY, MARK, Contradiction, Entry, Known, Point, shown

PATIENCE = 30.0  # seconds for an answer, after which the server counts as down
TRIES = 3  # of a request that may be repeated
PAUSE = 0.5  # seconds before the second try; then twice that
METRICS, OTHERS = 1000, 100  # of each in one request; MLflow's limits
LONGEST_TAG = 5000  # characters, the least of MLflow's limits
LOGIN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
REASONS = {  # of answers that are not MLflow's own
    401: f"it wants a login, or another one: {LOGIN}",
    403: f"this login may not do that: {LOGIN}",
    404: "it has no MLflow at this address; give the server's own, such as http://host:5000, without a page's path",
}
RETRIED = frozenset({429, 500, 502, 503, 504})
API = "/api/2.0/mlflow"
CREATE = f"{API}/runs/create"  # twice would make two; the next sync finds one whose answer was lost

T = TypeVar("T")


class Refused(UserError):
    """The server understood and said no; `code` is its reason by name."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Server:
    """MLflow at an address such as http://127.0.0.1:5000."""

    def __init__(self, uri: str, results: Path) -> None:
        self.uri = uri
        self._results = results
        self._parts = urlsplit(uri)
        self._headers = {"Content-Type": "application/json", **_login(uri)}
        self._connection: http.client.HTTPConnection | None = None
        self._artifacts: dict[str, str] = {}  # by run: where its artifacts go
        self._journal: dict[str, dict[str, Any]] = {}  # by experiment: its runs by key
        self._runs: dict[str, dict[str, Any]] = {}  # the same runs by id

    # ------------------------------------------------------------------------------------------------- experiments

    def experiment(self, name: str) -> str:
        try:
            found = self._ask("GET", f"{API}/experiments/get-by-name", experiment_name=name)["experiment"]
        except Refused as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return str(self._ask("POST", f"{API}/experiments/create", name=name)["experiment_id"])
        if found.get("lifecycle_stage") == "deleted":
            self._ask("POST", f"{API}/experiments/restore", experiment_id=found["experiment_id"])
        return str(found["experiment_id"])

    def annotate(self, experiment: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            where = {"experiment_id": experiment, "key": key, "value": value[:LONGEST_TAG]}
            self._ask("POST", f"{API}/experiments/set-experiment-tag", **where)

    def annotation(self, experiment: str, key: str) -> str:
        found = self._ask("GET", f"{API}/experiments/get", experiment_id=experiment)["experiment"]
        return next((tag["value"] for tag in found.get("tags", []) if tag["key"] == key), "")

    # -------------------------------------------------------------------------------------------------------- runs

    def known(self, experiment: str) -> dict[str, Known]:
        """From the journal, which is then set aside until `finish`."""
        runs = self._read_journal(experiment)
        if runs is None:
            runs = dict(self._search(experiment))
        self._journal[experiment] = runs
        self._runs = {run["id"]: run for run in runs.values()}
        return {key: Known(run["id"], run["status"], run["mark"]) for key, run in runs.items()}

    def _search(self, experiment: str) -> Iterator[tuple[str, dict[str, Any]]]:
        body: dict[str, Any] = {"experiment_ids": [experiment], "max_results": 1000}
        while True:
            page = self._ask("POST", f"{API}/runs/search", **body)
            for run in page.get("runs", []):
                tags = {tag["key"]: tag["value"] for tag in run.get("data", {}).get("tags", [])}
                if KEY in tags:
                    info = run["info"]
                    mark = read_mark(tags.get(MARK))
                    yield tags[KEY], {"id": info["run_id"], "status": info["status"], "mark": mark}
            if not page.get("next_page_token"):
                return
            body["page_token"] = page["next_page_token"]

    def create(self, experiment: str, key: str, name: str, start: int | None) -> str:
        self._dirty(experiment)
        body = {"experiment_id": experiment, "run_name": name, "start_time": start or int(1000 * time.time())}
        made = self._ask("POST", CREATE, **body, tags=[{"key": KEY, "value": key}])
        info = made["run"]["info"]
        self._artifacts[info["run_id"]] = info["artifact_uri"]
        self._ask("POST", f"{API}/runs/update", run_id=info["run_id"], status="SCHEDULED")
        self._runs[info["run_id"]] = {"id": info["run_id"], "status": "SCHEDULED", "mark": {}}
        self._journal[experiment][key] = self._runs[info["run_id"]]
        return str(info["run_id"])

    def write(self, run_id: str, entry: Entry) -> None:
        self._dirty()
        body: dict[str, Any] = {"run_id": run_id, "status": entry.status, "run_name": entry.name}
        if entry.end and entry.status in ("FINISHED", "FAILED", "KILLED"):
            body["end_time"] = entry.end
        self._ask("POST", f"{API}/runs/update", **body)
        try:
            for params in _pieces(list(entry.params.items()), OTHERS):
                self._log(run_id, params=[{"key": key, "value": value} for key, value in params])
        except Refused as error:
            if error.code == "INVALID_PARAMETER_VALUE":
                raise Contradiction(str(error)) from error
            raise
        tags = [{"key": key, "value": value[:LONGEST_TAG]} for key, value in entry.tags.items()]
        self._log(run_id, metrics=[_metric(point) for point in entry.values], tags=tags)
        if entry.datasets:
            inputs = [
                {
                    "tags": [{"key": "mlflow.data.context", "value": dataset.split}],
                    "dataset": {
                        "name": dataset.name,
                        "digest": dataset.digest,
                        "source_type": "local",
                        "source": dataset.source,
                    },
                }
                for dataset in entry.datasets
            ]
            self._ask("POST", f"{API}/runs/log-inputs", run_id=run_id, datasets=inputs)
        self._note(run_id, status=entry.status)

    def append(self, run_id: str, points: Iterable[Point], mark: Mapping[str, Any]) -> None:
        """The mark goes with the last piece; a piece that is sent twice is there once."""
        self._dirty()
        for piece in _pieces([_metric(point) for point in points], METRICS - 1):
            self._log(run_id, metrics=piece)
        self._log(run_id, tags=[{"key": MARK, "value": json.dumps(mark)}])
        self._note(run_id, mark=mark)

    def forget(self, run_id: str) -> None:
        self._dirty()
        self._ask("POST", f"{API}/runs/delete", run_id=run_id)
        for runs in self._journal.values():
            for key in [key for key, run in runs.items() if run["id"] == run_id]:
                del runs[key]

    def upload(self, run_id: str, file: Path) -> None:
        """Through the server, or straight into its bucket by MLflow's client where it does not serve artifacts."""
        self._dirty()
        if run_id not in self._artifacts:
            self._artifacts[run_id] = self._ask("GET", f"{API}/runs/get", run_id=run_id)["run"]["info"]["artifact_uri"]
        place = urlsplit(self._artifacts[run_id])
        if place.scheme == "mlflow-artifacts":
            path = f"/api/2.0/mlflow-artifacts/artifacts/{quote(unquote(place.path).strip('/'))}/{quote(file.name)}"
            with open(file, "rb") as data:
                self._send("PUT", path, data)
            return
        from mlflow.tracking import MlflowClient

        MlflowClient(self.uri).log_artifact(run_id, str(file))

    def finish(self) -> None:
        for experiment, runs in self._journal.items():
            atomic.write_json(self._file(experiment), {"uri": self.uri, "runs": runs})

    def close(self) -> None:
        if self._connection:
            self._connection.close()

    # ----------------------------------------------------------------------------------------------------- journal

    def _file(self, experiment: str) -> Path:
        name = hashlib.sha256(f"{self.uri} {experiment}".encode()).hexdigest()[:16]
        return self._results / f".mlflow-{name}.json"

    def _read_journal(self, experiment: str) -> dict[str, Any] | None:
        try:
            body = records.read_object(self._file(experiment)) or {}
        except records.Damaged:
            return None
        runs = body.get("runs")
        return runs if isinstance(runs, dict) and body.get("uri") == self.uri else None

    def _dirty(self, experiment: str = "") -> None:
        """Something is about to change: after a kill the journal must not be believed."""
        for name in [experiment] if experiment else self._journal:
            self._file(name).unlink(missing_ok=True)

    def _note(self, run_id: str, **changes: object) -> None:
        self._runs[run_id].update(changes)

    # ---------------------------------------------------------------------------------------------------- requests

    def _log(self, run_id: str, **what: Sequence[Any]) -> None:
        if any(what.values()):
            self._ask("POST", f"{API}/runs/log-batch", run_id=run_id, **what)

    def _ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """A call of the API; its answer. Raises `Refused`, or `UserError` where none came."""
        if method == "GET":
            path, data = f"{path}?{urlencode(body)}", None
        else:
            data = json.dumps(body).encode()
        text = self._send(method, path, data)
        try:
            answer = json.loads(text or b"{}")
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise UserError(f"{shown(self.uri)} does not answer as an MLflow server does; is the address right?")
        return answer

    def _send(self, method: str, path: str, data: bytes | BinaryIO | None) -> bytes:
        tries = 1 if path == CREATE else TRIES
        for number in range(tries):
            if number:
                time.sleep(PAUSE * 2 ** (number - 1))
            try:
                status, text = self._once(method, path, data)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                self._connection = None
                if number + 1 == tries:
                    raise UserError(
                        f"the MLflow server {shown(self.uri)} does not answer ({one_line(error)}); once it runs "
                        "there, `python -m studies sync` catches up"
                    ) from error
                continue
            if status < 300:
                return text
            if status not in RETRIED or number + 1 == tries:
                raise self._refusal(status, text)
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, data: bytes | BinaryIO | None) -> tuple[int, bytes]:
        headers = self._headers
        if data is not None and not isinstance(data, bytes):  # a file, from its beginning and piece by piece
            headers = {**headers, "Content-Length": str(data.seek(0, os.SEEK_END))}
            data.seek(0)
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(str(self._parts.hostname), self._parts.port, timeout=PATIENCE)
        self._connection.request(method, self._parts.path.rstrip("/") + path, data, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _refusal(self, status: int, text: bytes) -> UserError:
        try:
            body = json.loads(text)
            code, message = str(body["error_code"]), str(body.get("message", ""))
        except (ValueError, KeyError, TypeError):
            code, message = "", REASONS.get(status, http.client.responses.get(status, ""))
        first = message.strip().splitlines()[0] if message.strip() else code
        return Refused(f"the MLflow server {shown(self.uri)} refuses ({status}: {first})", code)


def _login(uri: str) -> dict[str, str]:
    """The header that MLflow's own client would send."""
    parts = urlsplit(uri)
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    if parts.username:
        user, password = unquote(parts.username), unquote(parts.password or "")
    if user:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _metric(point: Point) -> dict[str, Any]:
    value = "NaN" if math.isnan(point.value) else point.value
    return {"key": point.key, "value": value, "timestamp": point.time, "step": point.step}


def _pieces(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[first : first + size] for first in range(0, len(items), size))
