"""What a search leaves: search.json, from which all tables and figures are drawn, and what optuna-dashboard shows.

The file is a projection of Optuna's store, written anew whenever a trial began or ended.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from analysis.metrics import Metric
from analysis.results import StudyResults
from analysis.search import FILE
from analysis.style import Drawings
from fvar.errors import spared
from fvar.machine import atomic, records
from studies.engine.search.judge import Judge, Trial
from studies.engine.search.space import Choice, Point
from studies.engine.search.store import ARTIFACTS
from studies.engine.settings import option
from studies.presets import PRESETS
from studies.study import Cell, Context

# Where a preset keeps what a setting of a stage says. Whatever is not here has no field in a preset.
FIELDS = {
    "preset": "",
    "preset.loss": "loss",
    "tokenizer.pyramid": "pyramid",
    "tokenizer.quantiser": "quantiser",
    "var.train": "var_train",
    "var.transformer": "transformer",
}
OF_VARIANTS = ("tokenizer.pyramid.kernel", "tokenizer.quantiser.reading")  # which a preset's fields do not decide


def write(
    ctx: Context,
    judge: Judge,
    metric: Metric,
    samples: int,
    trials: Iterable[Trial],
    cells: Mapping[int, Cell],
    settings: Callable[[Point], Mapping[str, Any]],
) -> None:
    """Write search.json where it would say something new. `metric` and `samples`: what a trial is scored by, and on."""
    name = metric.axis.format(n=samples)
    named = {"score": {"name": name, "scale": sign(metric) * metric.scale}, "hours": {"name": "hours", "scale": 1.0}}
    axes = {
        key: {"options": list(axis.options)}
        if isinstance(axis, Choice)
        else {"low": axis.low, "high": axis.high, "log": axis.log}
        for key, axis in judge.space.items()
    }
    body = {
        "objectives": [{"key": key, **named[key]} for key in judge.objectives],
        "sampler": judge.sampler,
        "pruner": judge.pruner,
        "store": judge.store.shown,
        "space": axes,
        "trials": [
            {
                "number": trial.number,
                "cell": cells[trial.number].name if trial.number in cells else "",
                "state": trial.state,
                "params": dict(trial.params),
                "values": list(trial.values),
                "curve": [[step, value] for step, value in sorted((trial.curve or {}).items())],
                "reason": trial.reason,
                "again_of": trial.again_of,
                "settings": [option(path, value) for path, value in settings(trial.params).items()],
                "row": row(ctx.preset.name, trial.number, settings(trial.params)),
            }
            for trial in trials
        ],
    }
    path = ctx.folder / FILE
    try:
        same = records.read_object(path) == json.loads(json.dumps(body))
    except records.Damaged:
        same = False
    if not same:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, body)


def sign(metric: Metric) -> int:
    """By which a metric is multiplied, so that lower is better."""
    return -1 if metric.better == "higher" else 1


def row(preset: str, number: int, settings: Mapping[str, Any]) -> str:
    """The row of `studies/presets.py` that a point makes of a preset, and what stays a `--set`."""
    parts: dict[str, dict[str, Any]] = {}
    left: list[str] = []
    for path, value in settings.items():
        group, _, leaf = path.rpartition(".")
        value = tuple(value) if isinstance(value, list) else value
        if group in FIELDS and path not in OF_VARIANTS:
            parts.setdefault(FIELDS[group], {})[leaf] = value
        else:
            left.append(f"--set {shlex.quote(option(path, value))}")
    base = f'PRESETS["{preset}"]' if preset in PRESETS else f'preset("{preset}")'
    fields = [f'name="{preset}-trial{number:03d}"']
    for field, values in parts.items():
        told = ", ".join(f"{leaf}={value!r}" for leaf, value in values.items())
        fields.append(told if not field else f"{field}=replace({base}.{field}, {told})")
    return f"replace({base}, {', '.join(fields)})" + (f"  # and {' '.join(left)}" if left else "")


def drawings(results: StudyResults) -> Drawings:
    """The table of trials and the figures, by file."""
    from analysis import plot_search, search

    return {
        "trials.md": partial(search.write, results),
        **{name: partial(draw, results) for name, draw in plot_search.FIGURES.items()},
    }


def publish(ctx: Context, judge: Judge, files: Sequence[Path]) -> None:
    """Show the figures as artifacts of Optuna's study and the table of trials as its note, in place of earlier ones.

    A failure costs these, and a line.
    """
    with spared("optuna-dashboard does not show the newest figures"), judge.store.failing():
        from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
        from optuna_dashboard import save_note

        folder = ctx.results / ARTIFACTS
        folder.mkdir(exist_ok=True)
        kept = FileSystemArtifactStore(folder)
        known = {found.filename: found.artifact_id for found in get_all_artifact_meta(judge.study)}
        for path in files:
            if path.suffix == ".png" and path.name in known:
                with open(path, "rb") as file:
                    kept.write(known[path.name], file)
            elif path.suffix == ".png":
                upload_artifact(artifact_store=kept, file_path=str(path), study_or_trial=judge.study)
        table = next((path for path in files if path.name == "trials.md"), None)
        if table is not None:
            save_note(judge.study, table.read_text())
