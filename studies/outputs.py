"""What a study leaves for people: table, figures and MLflow, drawn from run directories and drawn again any time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from analysis.results import StudyResults
from fvar.errors import UserError
from studies.study import Context


def write(ctx: Context) -> list[Path]:
    """Write what the study shows, the table first; nothing where no cell is done yet."""
    if ctx.study.outputs:
        return ctx.study.outputs(ctx)
    results = ctx.read()
    if not any(cell.state[0] == "done" for cell in results.cells):
        return []
    return report(results)


def report(results: StudyResults) -> list[Path]:
    """table.md, .tex, .csv, convergence.png and samples.png of any study whose cells train and sample."""
    from studies import table

    return table.write(results)


def track(ctx: Context, say: Callable[[str], None]) -> None:
    """Bring MLflow up to date. It is a projection: where it fails, the study goes on and says so."""
    from studies import tracking

    if not ctx.started or not json.loads((ctx.folder / "cells.json").read_text())["cells"]:
        return
    try:
        tracking.sync(ctx.results, ctx.read())
    except UserError as error:
        say(f"warning: MLflow is not up to date: {error}")
