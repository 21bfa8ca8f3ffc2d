"""What a run directory and a cell are in MLflow: status, parameters, tags, final scores, data sets.

A stage is a run of its own, below the run of the first cell that needs it and tagged with all of them. A cell's run has
every setting of its stages, and as tags `varies.*` those in which the cells of the study differ.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from analysis import standing
from analysis.metrics import METRICS
from analysis.results import CellResult
from fvar.config import ScoresConfig, TokensConfig, VarConfig, data_of
from fvar.ingredients import DataConfig
from fvar.job import JobRecord
from fvar.machine.names import printable
from fvar.plain import identity
from fvar.rundir import RunDir, Status
from fvar.usage import gpu_hours
from studies.tracking import describe
from studies.tracking.store import NOTE, PARENT, Dataset, Entry, Point

STATUS = {"done": "FINISHED", "failed": "FAILED", "blocked": "FAILED", "cancelled": "KILLED", "pruned": "KILLED"}
STATUS |= {"running": "RUNNING"}  # whatever else a stage or cell is: SCHEDULED
PICTURES = ("grid.png", "reconstruction.png")
READ = (
    *("config.json", "status.json", "job.json", "attempts.jsonl", "jobs.jsonl", "metrics.jsonl", "system.jsonl"),
    *("scores.json", *PICTURES),
)
SHOWN = {"fid": "FID", "kid": "KID", "is": "IS", "cross_entropy": "heldout_cross_entropy"}  # others by their own key
SHOWN |= {"accuracy": "heldout_accuracy"}
LONGEST = 6000  # characters of a parameter; MLflow's limit
CELLS_NAMED = 40  # of those that share a stage


class Look(NamedTuple):
    """A run directory seen from outside: it need not be opened while this stays the same."""

    stamp: str
    state: str


def look(path: Path, before: Look | None) -> Look | None:
    """Where a stage stands and a stamp of the files that are read of it; None where it has not begun."""
    found = []
    for name in READ:
        try:
            seen = os.stat(f"{path}/{name}")
        except OSError:
            continue
        found.append((name, seen.st_size, seen.st_mtime_ns, seen.st_ino))
    if not found or found[0][0] != "config.json":
        return None
    stamp = digest(found)
    if before and before.stamp == stamp and before.state in standing.SETTLED:
        return before
    return Look(stamp, standing.of_stage(path).state)


def digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="backslashreplace")).hexdigest()[:16]


# -------------------------------------------------------------------------------------------------------------- stages


class Past(NamedTuple):
    """What a run directory says of how it went so far, read once."""

    status: Status
    attempts: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, run: RunDir) -> Past:
        return cls(run.status, run.attempts())


def facts_of(run: RunDir, past: Past | None = None) -> dict[str, Any]:
    """Where and how long a stage ran, of which its cells show the sums: what its mark keeps."""
    status, attempts = past or Past.of(run)
    starts = [attempt["started"] for attempt in attempts[:1] if "started" in attempt]
    starts.append(status.started or status.updated)
    facts = {
        "start": milliseconds(starts[0]),
        "end": milliseconds(status.updated),
        "hours": status.seconds / 3600,
        "gpu_hours": gpu_hours([run.path]),
        "commit": str(attempts[-1].get("commit") or "") if attempts else "",
    }
    return {key: value for key, value in facts.items() if value}


def stage_entry(
    run: RunDir,
    past: Past,
    state: str,
    facts: Mapping[str, Any],
    cells: Sequence[CellResult],
    parent: str,
    non_finite: str,
    params: Mapping[str, str],
) -> Entry:
    """A stage that these cells need, with these `settings`, below the run `parent`."""
    status, attempts, job = *past, JobRecord.read_in(run.path)
    last = attempts[-1] if attempts else {}
    alone = cells[0] if len(cells) == 1 else None
    role = next((role for role, its in cells[0].chain.items() if its.name == run.name), run.kind)
    tags = {
        "kind": run.kind,
        "role": role,
        "stage": run.name,
        "state": state,
        "cells": _listed([cell.name for cell in cells]),
        "variant": alone.variant if alone else "",
        "seed": str(alone.seed) if alone else "",
        "revision": str(run.revision),
        "attempts": str(status.attempts or ""),
        "host": status.host,
        "device": str(last.get("device", "")),
        "ranks": str(last.get("ranks", "")),
        "slurm.job": job.job_id if job and job.cluster == "slurm" else "",
        "non_finite": non_finite,
        "error": standing.last_line(status.error)[:LONGEST],
        PARENT: parent,
        NOTE: describe.stage(run, status),
        **cost_tags([facts]),
    }
    name = f"{role} {alone.name}" if alone else f"{role} ({len(cells)} cells)"
    return Entry(
        name,
        STATUS.get(state, "SCHEDULED"),
        facts.get("start"),
        facts.get("end"),
        {key: printable(value) for key, value in tags.items() if value},
        params,
        datasets=datasets([run]),
    )


def settings(run: RunDir) -> dict[str, str]:
    """Every setting of a stage, flat: "train.lr" -> "0.0001"."""
    return dict(_flat(run.config, ""))


def _flat(group: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Written out, where `to_dict` would do: it copies a configuration twice, and a first sync asks for thousands."""
    for key in _names(group.__class__):
        value = getattr(group, key)
        if is_dataclass(value):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = str(json.loads(json.dumps(value))) if isinstance(value, tuple) else str(value)
            yield sys.intern(f"{prefix}{key}"), printable(text)[:LONGEST]


@functools.cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(item.name for item in fields(cls))


def cost_tags(facts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Hours and commits of some stages together."""
    hours, gpus = (sum(fact.get(key, 0.0) for fact in facts) for key in ("hours", "gpu_hours"))
    commits = list(dict.fromkeys(fact["commit"] for fact in facts if fact.get("commit")))
    tags = {"hours": f"{hours:.3g}" if hours else "", "gpu_hours": f"{gpus:.3g}" if gpus else ""}
    tags["commit"] = ", ".join(commits)
    if len(commits) == 1:
        tags["mlflow.source.git.commit"] = commits[0].rstrip("+")
    return {key: value for key, value in tags.items() if value}


def datasets(runs: Iterable[RunDir]) -> list[Dataset]:
    """The data sets that these stages read, each once."""
    found: dict[tuple[str, str], Dataset] = {}
    for run in runs:
        for dataset in _datasets_of(run):
            found.setdefault((dataset.name, dataset.digest), dataset)
    return list(found.values())


@functools.cache
def _datasets_of(run: RunDir) -> tuple[Dataset, ...]:
    if isinstance(run.config, VarConfig) and not run.config.curve.every:
        return ()  # it reads tokens, and no images to score samples against
    return tuple(_dataset(run, data) for data in data_of(run.config))


def _dataset(run: RunDir, data: DataConfig) -> Dataset:
    """Named as a person would, told apart by what decides which images there are."""
    if isinstance(run.config, ScoresConfig):
        split = run.config.split
    else:
        split = "all" if isinstance(run.config, TokensConfig) else "train"
    source = {"dataset": data.dataset, "root": printable(data.root), "image_size": data.image_size}
    known = data.content or digest(identity(data))
    name = f"{data.title} {data.image_size} px".strip()
    return Dataset(printable(name)[:500], known[:36], split, json.dumps(source))


# --------------------------------------------------------------------------------------------------------------- cells


def cell_settings(cell: CellResult, of: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Every setting of every stage of a cell, by role: "var.train.lr" -> "0.0001". `of` has those of each stage."""
    flat = {f"cell.{key}": printable(str(value))[:LONGEST] for key, value in cell.params.items()}
    for role, run in cell.chain.items():
        flat |= {f"{role}.{key}": value for key, value in of[run.name].items()}
    return flat


def varying(cells: Iterable[Mapping[str, str]]) -> list[str]:
    """The settings in which these cells differ, seeds apart: other values, or none given where another gives some."""
    values: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    total = 0
    for cell in cells:
        total += 1
        counts.update(cell.keys())
        for key, value in cell.items():
            values.setdefault(key, set()).add(value)
    differ = (key for key, found in values.items() if len(found) > 1 or ("None" in found and counts[key] < total))
    return sorted(key for key in differ if key.rpartition(".")[2] not in ("seed", "root"))


def cell_entry(
    cell: CellResult,
    where: Mapping[str, str],
    state: tuple[str, str],
    marks: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, str],
    varies: Sequence[str],
) -> Entry:
    """A cell whose stages have these marks. `where` are the tags that all cells of the study share."""
    facts = [marks[run.name].get("facts", {}) for run in cell.chain.values() if run.name in marks]
    starts = [fact["start"] for fact in facts if "start" in fact]
    ends = [fact["end"] for fact in facts if "end" in fact]
    differs = {f"varies.{key}": params.get(key, "given") for key in varies if key in params or _given(key, params)}
    values = scores(cell, marks) if state[0] == "done" else {}
    tags = {
        **where,
        "variant": cell.variant,
        "seed": str(cell.seed),
        "label": cell.label,
        "state": ": ".join(filter(None, state)),
        "samples": str(cell.scores.get("fid", {}).get("count") or "") if values else "",
        "kind": "cell",
        **differs,
        **cost_tags(facts),
    }
    tags[NOTE] = describe.cell(cell, values, tags)
    return Entry(
        cell.name,
        STATUS.get(state[0], "SCHEDULED"),
        min(starts, default=None),
        max(ends, default=None),
        {key: printable(value) for key, value in tags.items() if value},
        params,
        [Point(key, value, max(ends, default=0), 0) for key, value in values.items()],
        datasets(cell.chain.values()),
    )


def _given(key: str, params: Mapping[str, str]) -> bool:
    """Whether a cell has a group of settings: "var.teacher" where it has "var.teacher.blocks"."""
    prefix = f"{key}."
    return any(name.startswith(prefix) for name in params)


def scores(cell: CellResult, marks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What was measured of a finished cell, unscaled: FID, KID, precision, ..., and the last held-out values."""
    measured, var = cell.scores, cell.chain.get("var")
    last = marks.get(var.name, {}).get("progress", {}).get("last", {}) if var else {}
    found: dict[str, float] = {}
    for metric in METRICS:
        if metric.source == "heldout":
            value = last.get(f"heldout/{metric.key}")
        else:
            value = measured.get(metric.key, {}).get("value")
        if value is not None:
            found[SHOWN.get(metric.key, metric.key)] = float(value)
    if "scores" not in cell.chain:  # a plugin's numbers have the names it gave them
        found |= {key: float(score["value"]) for key, score in measured.items() if score.get("value") is not None}
    return found


def state_of(cell: CellResult, looks: Mapping[str, Look], statuses: Mapping[str, Status]) -> tuple[str, str]:
    """Where a cell stands, and one line saying how far, or why not."""
    states: dict[str, Any] = {name: looks[name].state if name in looks else "waiting" for name in cell.recorded}
    state, stage = standing.of_cell(states)
    if cell.pruned and state != "done":
        return "pruned", cell.pruned
    return state, standing.detail(state, stage, statuses.get(stage, Status()))


def milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(1000 * seconds)


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - CELLS_NAMED} more" if len(names) > CELLS_NAMED else ""
    return ", ".join(names[:CELLS_NAMED]) + more
