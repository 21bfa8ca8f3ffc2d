"""What a study leaves for people: table, figures and MLflow, drawn from run directories and drawn again any time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.results import StudyResults
from fvar.errors import UserError
from fvar.machine import atomic
from studies.study import Context, Study

STAMP = ".outputs.json"


def write(ctx: Context) -> list[Path]:
    """Write what the study shows, the table first; nothing where no cell is done yet.

    What was drawn from the same results is left alone: importing the drawing libraries alone takes seconds.
    """
    if ctx.study.outputs:
        return ctx.study.outputs(ctx)
    results = ctx.read()
    if not any(cell.state[0] == "done" for cell in results.cells):
        return []
    files = written(ctx.folder)
    fresh = _read(ctx.folder / STAMP).get("fingerprint") == results.fingerprint
    if not fresh or not all(file.exists() for file in files):
        return draw(results, ctx.study)
    return files


def draw(results: StudyResults, study: Study) -> list[Path]:
    """Write table and figures of some results, and record which files they are."""
    files = (study.report or report)(results)
    body = {"fingerprint": results.fingerprint, "files": [file.name for file in files]}
    atomic.write_json(results.folder / STAMP, body)
    return files


def written(folder: Path) -> list[Path]:
    """The files that `write` last left in a study's folder."""
    return [folder / Path(name).name for name in _read(folder / STAMP).get("files", [])]


def report(results: StudyResults) -> list[Path]:
    """The table of a study of samples, and the figures that its results are enough for."""
    from analysis import gallery, plot_convergence, plot_sweep, table

    files = table.write(results)
    for figure in (plot_sweep, plot_convergence, gallery):
        try:
            files.append(figure.draw(results))
        except UserError:
            continue  # nothing to show of this kind: no sweep, no curve, no samples
    return files


def track(ctx: Context, say: Callable[[str], None]) -> None:
    """Bring MLflow up to date. It is a projection: where it fails, the study goes on and says so."""
    from studies.tracking.sync import sync

    try:
        results = ctx.read()
        if results.cells:
            sync(ctx.results, results, written(ctx.folder))
    except UserError as error:
        say(f"warning: MLflow is not up to date: {error}")


def _read(path: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return body
