"""The run directory: one stage's configuration, status, metrics and output. It is the truth; all else is read from it.

    results/runs/<kind>-<signature>/
        config.json      kind, config, inputs {role: run name}, revision, plugin, runtime  written once
        provenance.json  the same without runtime, when and where it was made        written once
        status.json      state, step, loss, speed, error                             replaced atomically
        metrics.jsonl    one record per line, by step                                appended
        system.jsonl     load of the machine while the stage ran (fvar.machine.vitals)  appended
        attempts.jsonl   what each attempt ran on: commit, versions, device          appended
        bad_batches.json items of the steps that were skipped as not finite          by fvar.training.guards
        checkpoints/     what a training continues from                              by fvar.training.checkpoint
        snapshots/       weights still to be measured                                by fvar.training.probes
        log              what the stage printed                                      appended
        lock             held (flock) while a process works here
        job.json         the job last submitted for it                               by the driver, see fvar.job
        jobs.jsonl       start and end of each job                                   by the jobs, see fvar.usage

and the stage's output, which its file in fvar/stages names. One process works in a run directory, holding its lock; the
driver writes job.json, and status.json where a stage ended without a word. Everyone may read it at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from fvar.config import PLUGINS, STAGE_CONFIGS, RuntimeConfig, Stage, StageConfig, signature
from fvar.errors import UserError, not_loaded, unknown
from fvar.machine import atomic, locks, records
from fvar.plain import differences, from_dict, from_record, to_dict

FORMAT = 1
BLOCK = 1 << 17  # bytes of a file of records that are looked at together: what a processor's cache holds
Config = TypeVar("Config", bound=StageConfig)
Stamp = tuple[int, int, int]  # inode, size and time of a file
State = Literal["waiting", "running", "done", "failed", "interrupted", "cancelled"]


@dataclass(frozen=True)
class Status:
    """Where a stage stands. `rate` is in images per second, `eta` in seconds, times are Unix seconds."""

    state: State = "waiting"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    rate: float | None = None
    eta: float | None = None
    started: float | None = None
    updated: float | None = None
    seconds: float = 0.0  # wall time spent by all attempts
    attempts: int = 0
    host: str = ""
    pid: int = 0
    error: str = ""
    disk_trouble: bool = False  # the error is one of a disk or file system, which passes
    note: str = ""  # one line for the live view, e.g. "checkpoint 400 was damaged; continued from 300"


def read_status(path: Path | str) -> Status:
    """The status in a run directory, without opening it.

    A directory that does not exist is waiting, and so is one whose status cannot be read: its `note` says so.
    """
    try:
        return records.read(Status, f"{path}/status.json") or Status()
    except records.Damaged as error:
        return Status(note=f"{error}; the stage counts as not begun, and repeating the study's command runs it again")


def locked(path: Path) -> bool:
    """Whether some process is at work in a run directory now."""
    return locks.is_held(path / "lock")


class RunDir:
    """One stage's directory. Make one with `create`, reach an existing one with `open`."""

    def __init__(
        self, path: Path, config: StageConfig, inputs: Mapping[str, str], runtime: RuntimeConfig, revision: int = 0
    ) -> None:
        self.path = path
        self.revision = revision or config.REVISION  # of the stage kind, when the directory was made
        self.config = config
        self.input_names = dict(inputs)
        self.runtime = runtime
        self._updating = threading.Lock()  # a stage and its heartbeat both update the status
        self._evaluations: dict[str, tuple[Stamp, list[dict[str, Any]]]] = {}  # by split, as last read

    # ------------------------------------------------------------------------------------------------ make and open

    @classmethod
    def create(cls, root: Path, stage: Stage, runtime: RuntimeConfig) -> RunDir:
        """Make `root/<stage.name>` (and the directories of its inputs), or open it where it exists already.

        Raises `UserError` if a directory of that name holds another configuration.
        """
        for upstream in stage.inputs.values():
            if not (root / upstream.name / "config.json").exists():
                cls.create(root, upstream, runtime)
        path = root / stage.name
        if not (path / "config.json").exists():
            inputs = {role: upstream.name for role, upstream in stage.inputs.items()}
            body = {"format": FORMAT, "kind": stage.kind, "config": to_dict(stage.config), "inputs": inputs}
            body["revision"] = stage.config.REVISION
            if module := PLUGINS.get(stage.kind):
                body["plugin"] = module
            path.mkdir(parents=True, exist_ok=True)
            atomic.write_json(path / "provenance.json", {**body, "created": time.time(), "host": socket.gethostname()})
            atomic.write_json(path / "config.json", {**body, "runtime": to_dict(runtime)})
        return cls.open(path)

    def follow(self, stage: Stage) -> None:
        """Take over what is outside the identity of this stage: where its data lie now."""
        if self.config != stage.config:
            body = _read_object(self.path / "config.json")
            atomic.write_json(self.path / "config.json", {**body, "config": to_dict(stage.config)})
            self.config = stage.config

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Read a run directory, once for as long as its config.json stays the same file.

        Raises `UserError` if it is not one, or if its configuration was edited.
        """
        key = os.path.abspath(path)
        stamp = _stamp(f"{key}/config.json")
        if stamp is None:  # `_open` says what is wrong
            return cls._open(Path(path))
        if _OPENED.get(key, (None,))[0] != stamp:
            _OPENED[key] = (stamp, cls._open(Path(path)))
        return _OPENED[key][1]

    @classmethod
    def _open(cls, path: Path) -> RunDir:
        body = _read_object(path / "config.json")
        for key in ("kind", "config", "inputs"):
            if key not in body:
                raise UserError(f"{path}/config.json has no {key!r}{_remedy(path / 'config.json')}")
        if body["kind"] not in STAGE_CONFIGS:
            if module := body.get("plugin"):
                raise not_loaded(str(path), module)
            raise unknown(f"stage kind in {path}/config.json", body["kind"], STAGE_CONFIGS)
        config = from_record(STAGE_CONFIGS[body["kind"]], body["config"])
        runtime = from_dict(RuntimeConfig, body.get("runtime", {}))
        run = cls(path.resolve(), config, body["inputs"], runtime, _revision(body, path))
        for name in run.input_names.values():
            if Path(name).name != name or name.startswith("."):
                raise UserError(f"{path}/config.json: the input {name!r} is not the name of a run directory")
        run._refuse_if_edited(body)
        return run

    def _refuse_if_edited(self, body: Mapping[str, Any]) -> None:
        if self.path.name == f"{self.kind}-{self.signature}":
            return
        try:
            original = _read_object(self.path / "provenance.json")
            keys = ("kind", "config", "inputs", "revision")
            changes = differences({key: original.get(key) for key in keys}, {key: body.get(key) for key in keys})
        except UserError:
            changes = [f"its settings hash to {self.signature}"]
        if not changes:
            raise UserError(
                f"{self.path} was renamed, or made by a version of fvar with other settings (today's hash to "
                f"{self.signature}); give it its old name, or delete it"
            )
        detail = "; ".join(changes)
        raise UserError(
            f"{self.path}/config.json was edited after the directory was made ({detail}); "
            "restore it, or change the study and run it again: another configuration gets a directory of its own"
        )

    # ------------------------------------------------------------------------------------------------------ identity

    @property
    def kind(self) -> str:
        return self.config.kind

    def config_as(self, kind: type[Config]) -> Config:
        """The configuration, where the run is of that kind. Raises `UserError` for a run of another."""
        if not isinstance(self.config, kind):
            raise UserError(f"{self.path} holds a {self.kind} run, not a {kind.kind} run")
        return self.config

    @property
    def signature(self) -> str:
        """Recomputed from the configuration; input signatures are the tails of the input names."""
        inputs = {role: name.rpartition("-")[2] for role, name in self.input_names.items()}
        return signature(self.config, inputs, self.revision)

    @property
    def outdated(self) -> str:
        """Why today's code would compute something else here, e.g. "tokenizer of revision 1, now 2"; "" where not.

        What was computed stays readable, and a run that names it as an input keeps it. A study asks for the new one.
        """
        if self.revision != self.config.REVISION:
            return f"{self.kind} of revision {self.revision}, now {self.config.REVISION}"
        for role, name in self.input_names.items():
            if (self.path.parent / name / "config.json").exists() and (reason := self.input(role).outdated):
                return reason
        return ""

    @property
    def name(self) -> str:
        return self.path.name

    def input(self, role: str) -> RunDir:
        """The run directory this stage reads as `role`."""
        if role not in self.input_names:
            raise unknown(f"input of {self.name}", role, self.input_names)
        return RunDir.open(self.path.parent / self.input_names[role])

    # -------------------------------------------------------------------------------------------------------- status

    @property
    def status(self) -> Status:
        """The last status written; a directory without one is waiting."""
        return read_status(self.path)

    def update(self, **changes: Any) -> Status:
        """Replace some fields of the status and stamp the time."""
        for key, value in changes.items():
            if isinstance(value, float) and not math.isfinite(value):
                changes[key] = None
        with self._updating:
            status = dataclasses.replace(self.status, **changes, updated=time.time())
            atomic.write_json(self.path / "status.json", dataclasses.asdict(status))
        return status

    @property
    def done(self) -> bool:
        return self.status.state == "done"

    # ------------------------------------------------------------------------------------------------------- metrics

    def log_metrics(self, step: int, values: Mapping[str, float], split: str = "train") -> None:
        """Append one record. Non-finite values are kept as strings ("nan", "inf"): JSON has no other place for them."""
        record: dict[str, Any] = {"step": step, "split": split, "time": round(time.time(), 3)}
        record |= {key: value if math.isfinite(value) else str(value) for key, value in values.items()}
        line = json.dumps(record) + "\n"
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(line)

    def log_load(self, values: Mapping[str, float]) -> None:
        """Append what the machine's load is now."""
        line = json.dumps({"time": round(time.time(), 3), **values}) + "\n"
        with open(self.path / "system.jsonl", "a") as file:
            file.write(line)

    def metrics(self, split: str | None = None) -> list[dict[str, Any]]:
        """All whole records, in the order written, "nan" and "inf" as numbers again; a damaged line is left out.

        Those of one `split` are found without parsing the others: evaluations are few among a million of training. They
        are read once for as long as the file stays the same, since a page asks for each of them a dozen times.
        """
        path = self.path / "metrics.jsonl"
        stamp = _stamp(path)
        if split in self._evaluations and self._evaluations[split][0] == stamp:
            return list(self._evaluations[split][1])
        records = map(_numeric, _read_lines(path, f'"{split}"' if split else ""))
        found = [record for record in records if record and (split is None or record["split"] == split)]
        if stamp and split and split != "train":  # which is too much to keep
            self._evaluations[split] = stamp, found
            return list(found)
        return found

    def attempts(self) -> list[dict[str, Any]]:
        """What every attempt ran on (see fvar.run), in order."""
        return list(_read_lines(self.path / "attempts.jsonl"))

    def forget_metrics_after(self, step: int) -> None:
        """Drop the records of steps that will be repeated after a resume."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            with atomic.replacing(path) as temporary, open(temporary, "w") as file:
                whole = (record for record in _read_lines(path) if _numeric(record))
                file.writelines(json.dumps(record) + "\n" for record in whole if record["step"] <= step)

    # ---------------------------------------------------------------------------------------------------------- lock

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for writing. The kernel lets go of it however the process ends.

        Raises `UserError` if another process holds it.
        """
        with locks.holding(
            self.path / "lock",
            lambda owner: f"{self.path} is being written by {owner}; wait for it or stop it first",
            patience=1.0,  # a reader asking `locked` holds it for an instant
        ):
            yield

    @property
    def locked(self) -> bool:
        """Whether some process is at work here now."""
        return locked(self.path)


# What `RunDir.open` has read, by absolute path, with the stamp of the config.json it was read from.
_OPENED: dict[str, tuple[Stamp, RunDir]] = {}


def _stamp(path: Path | str) -> Stamp | None:
    """By what a file that was written since is known; None where it cannot be reached."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _revision(body: Mapping[str, Any], path: Path) -> int:
    """The revision in a config.json; directories made before there were revisions are of the first."""
    found = body.get("revision", 1)
    newest = STAGE_CONFIGS[body["kind"]].REVISION
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{path}/config.json: revision must be a whole number of at least 1, got {found!r}")
    if found > newest:
        raise UserError(
            f"{path} was made by a newer fvar ({body['kind']} of revision {found}, here {newest}); update fvar"
        )
    return found


def _read_lines(path: Path, containing: str = "") -> Iterator[dict[str, Any]]:
    """The complete records of a file of JSON lines, or of its lines that contain a text; none where there is no file.

    A file may be larger than memory: it is read block by block.
    """
    word, torn = containing.encode() or b"{", b""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        while block := file.read(BLOCK):
            whole, _, torn = (torn + block).rpartition(b"\n")
            yield from _records(whole, word)
    yield from _records(torn, word)


def _records(text: bytes, word: bytes) -> Iterator[dict[str, Any]]:
    """The records in those lines of a text that contain a word."""
    place = 0
    while (found := text.find(word, place)) >= 0:
        start, end = text.rfind(b"\n", place, found) + 1 or place, text.find(b"\n", found)
        place = len(text) if end < 0 else end
        with contextlib.suppress(ValueError):  # torn, or not text
            yield json.loads(text[start:place])


def _numeric(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of metrics with its values as numbers; empty where it is none."""
    try:
        made = {key: value if key in ("split", "step") else float(value) for key, value in record.items()}
    except (AttributeError, TypeError, ValueError):
        return {}
    return made if isinstance(made.get("step"), int) and isinstance(made.get("split"), str) else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path} does not exist; name a run directory such as results/runs/var-0123456789abcdef"
        ) from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or brackets without end
        raise UserError(f"{path} is not valid JSON ({error}){_remedy(path)}") from None
    if not isinstance(body, dict):
        raise UserError(f"{path} holds no JSON object{_remedy(path)}")
    return body


def _remedy(path: Path) -> str:
    """What heals a damaged config.json: provenance.json beside it says the same."""
    original = path.with_name("provenance.json")
    if path.name != "config.json" or not original.exists():
        return ""
    return f"; restore it: cp {shlex.quote(str(original))} {shlex.quote(str(path))}"
