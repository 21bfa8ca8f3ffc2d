"""Descriptions in Markdown, for the pages of experiments and runs; and which columns a list of runs opens with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.cells import StudyRecord
from fvar.rundir import RunDir, Status

if TYPE_CHECKING:
    from analysis.results import CellResult

LONGEST_NOTE = 4500  # characters; MLflow takes 5000 of an experiment's tag
READINGS = Path(__file__).resolve().parents[2] / "READINGS.md"
VIEW = "fvar"  # name of the saved view
MEASURED = ("FID", "KID")  # of samples


def command(study: StudyRecord) -> str:
    """What was typed, or what gives the same."""
    words = ["python", "-m", "studies.run", study.place.study, "--preset", str(study.row.get("name") or "smoke")]
    data = study.row.get("data")
    if isinstance(data, dict) and data.get("root"):
        words += ["--data", f"{data.get('dataset')}:{data['root']}"]
    seeds = len({cell.seed for cell in study.cells})
    words += ["--seeds", str(seeds)] if seeds > 1 else []
    words += ["--plugin", study.plugin] if study.plugin else []
    words += study.options
    for setting in study.settings:
        words += ["--set", setting]
    return shlex.join(words)


def experiment(study: StudyRecord, table: str, summary_page: str) -> str:
    """A study's description: what it is, the command, the table."""
    head = f"## {study.title}\n\n`{command(study)}`\n\n"
    if READINGS.exists():
        head += f"[How the paper was read]({summary_page}/READINGS.md) · "
    head += f"[table and figures]({summary_page}) · columns and curves by stage: filter `tags.kind = 'var'`\n\n"
    if not table:
        return head + "No cell is done yet."
    if len(head) + len(table) > LONGEST_NOTE:
        return head + "The table is longer than a description may be; see the link."
    return head + table


def cell(cell: CellResult, values: Mapping[str, float], tags: Mapping[str, str]) -> str:
    """A cell's description: its scores, where it stands, its run directories."""
    lines = [f"### {cell.label}, seed {cell.seed}", "", tags["state"] or "waiting", ""]
    if values:
        lines += ["| metric | value |", "|---|---|", *(f"| {key} | {value:.5g} |" for key, value in values.items()), ""]
    if tags.get("samples"):
        lines += [f"Measured on {tags['samples']} samples, preset `{tags.get('preset', '')}`.", ""]
    lines += [f"- {role}: `{run.path}`" for role, run in cell.chain.items()]
    return "\n".join(lines)[:LONGEST_NOTE]


def stage(run: RunDir, status: Status) -> str:
    """A stage's description: the command that runs it by hand, what it reads, why it failed."""
    lines = [f"`python -m fvar.run {shlex.quote(str(run.path))}`", ""]
    lines += [f"- reads {role}: `{name}`" for role, name in run.input_names.items()]
    if status.error:
        lines += ["", "```", *status.error.strip().splitlines()[-15:], "```"]
    return "\n".join(lines)[:LONGEST_NOTE]


def telling(varies: Sequence[str]) -> list[str]:
    """Which of the settings in which cells differ a list shows: what the study says it varies, then the network's."""
    rank = {"cell": 0, "var": 1}
    return sorted(varies, key=lambda key: rank.get(key.partition(".")[0], 2))[:4]


def view(extra: Sequence[str] = (), measured: Sequence[str] = MEASURED) -> dict[str, str]:
    """The tag of an experiment that holds a saved view of its runs, opened by `?viewStateShareKey=`."""
    columns = [f"tags.`{key}`" for key in ("variant", "seed", "preset")]
    columns += [*(f"metrics.`{key}`" for key in measured), "tags.`state`", *(f"tags.`varies.{key}`" for key in extra)]
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
    }
    return {f"mlflow.sharedViewState.{VIEW}": json.dumps(state)}


def page(server: str, experiment: str) -> str:
    """Address of an experiment's runs with the columns of `view`."""
    return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
