"""What a study left behind: the one reader behind its tables, figures, MLflow runs and search.

The driver writes which cells there are to `results/<study>/<preset>/cells.json`; all else is in the run directories:

    {"study": "ablation_table2", "preset": "smoke", "title": "Table 2: ...",
     "cells": [{"name": "full/seed0", "variant": "full", "label": "FVAR (full)", "seed": 0,
                "params": {"rho_max": 12.0}, "stages": {"scores": "scores-0123456789abcdef"}}]}

`stages` names the cell's last stage; the stages above it are found through the run directories' inputs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fvar.config import ScoresConfig
from fvar.errors import UserError
from fvar.rundir import RunDir

CellState = Literal["waiting", "running", "done", "failed", "blocked", "interrupted", "cancelled"]


@dataclass(frozen=True)
class CellResult:
    """One cell: a variant of the study at one seed, and the run directories that compute it."""

    name: str
    variant: str
    label: str
    seed: int
    params: Mapping[str, Any]
    stages: Mapping[str, str]
    runs: Path  # the folder of all run directories

    @cached_property
    def chain(self) -> dict[str, RunDir]:
        """The cell's run directories that exist, by role from the last stage up: "scores", "samples", "var", "tokens",
        "alias" and their "tokens.tokenizer", "alias.tokenizer"."""
        found: dict[str, RunDir] = {}

        def visit(role: str, name: str) -> None:
            if not (self.runs / name / "config.json").exists():
                return
            run = RunDir.open(self.runs / name)
            found[role] = run
            for upstream, upstream_name in run.input_names.items():
                nested = f"{role}.{upstream}" if upstream == "tokenizer" else upstream
                visit(nested, upstream_name)

        for role, name in self.stages.items():
            visit(role, name)
        return found

    @property
    def state(self) -> tuple[CellState, str]:
        """Where the cell stands, and one line saying which stage it stands at and, if that failed, why."""
        last = next(iter(self.stages.values()))
        statuses = {run.name: run.status for run in self.chain.values()}
        if last in statuses and statuses[last].state == "done":
            return "done", ""
        for name, status in statuses.items():
            if status.state == "failed":
                error = status.error.strip().splitlines()
                detail = f"{name}: {error[-1]}" if error else name
                return ("failed" if name == last else "blocked"), detail
        for state in ("running", "cancelled", "interrupted"):
            for name, status in statuses.items():
                if status.state == state:
                    return state, f"{name}: step {status.step} of {status.steps}"
        return "waiting", ""

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """scores.json of a finished cell: metric -> {"value", "reason", "count", "extractor", ...}; empty before."""
        run = self.chain.get("scores")
        if run is None or not run.done:
            return {}
        body: dict[str, dict[str, Any]] = json.loads((run.path / "scores.json").read_text())
        return body

    def score(self, metric: str) -> float | None:
        """One score; None where it was not (or could not be) measured, or came out as no finite number."""
        value = self.scores.get(metric, {}).get("value")
        return None if value is None or not math.isfinite(value) else float(value)

    @property
    def scores_config(self) -> ScoresConfig | None:
        run = self.chain.get("scores")
        return run.config if run is not None and isinstance(run.config, ScoresConfig) else None

    def metrics(self, split: str, role: str = "var") -> list[dict[str, Any]]:
        """Records of one stage's metrics.jsonl."""
        run = self.chain.get(role)
        return [] if run is None else run.metrics(split)

    def heldout(self, key: str) -> float | None:
        """The deployment network's last held-out value of a metric, once its training is done."""
        run = self.chain.get("var")
        values = [record[key] for record in self.metrics("heldout") if key in record]
        return float(values[-1]) if run is not None and run.done and values else None


@dataclass(frozen=True)
class StudyResults:
    """All cells of one study at one preset, in the study's order."""

    study: str
    preset: str
    title: str
    folder: Path  # results/<study>/<preset>: where tables and figures go
    cells: tuple[CellResult, ...]

    @classmethod
    def read(cls, results: Path, study: str, preset: str) -> StudyResults:
        """Raises `UserError`, saying what to run first, where the study was never run at this preset."""
        folder = results / study / preset
        try:
            body = json.loads((folder / "cells.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{folder} holds no results; run `python -m studies.run {study} --preset {preset}` first"
            ) from None
        except json.JSONDecodeError as error:
            raise UserError(f"{folder}/cells.json is not valid JSON ({error}); run the study again") from None
        cells = tuple(
            CellResult(
                cell["name"],
                cell["variant"],
                cell["label"],
                cell["seed"],
                cell["params"],
                cell["stages"],
                results / "runs",
            )
            for cell in body["cells"]
        )
        return cls(body["study"], body["preset"], body["title"], folder, cells)

    @property
    def fingerprint(self) -> str:
        """Hash of the cells, their states, metrics and scores: whatever is drawn from them changes only if it does."""
        digest = hashlib.sha256((self.folder / "cells.json").read_bytes())
        for cell in self.cells:
            for role, run in cell.chain.items():
                digest.update(f"{role} {run.name} {run.status.state}\n".encode())
                for name in ("metrics.jsonl", "scores.json"):
                    path = run.path / name
                    digest.update(path.read_bytes() if path.exists() else b"")
        return digest.hexdigest()

    @property
    def one_tokenizer(self) -> bool:
        """Whether all cells' tokens are of one tokenizer; if not, their token losses cannot be compared."""
        return len({run.name for cell in self.cells if (run := cell.chain.get("tokens.tokenizer"))}) <= 1

    def shortfalls(self) -> list[str]:
        """Sentences about stages that some attempt computed in another precision than configured (`fvar.machine`)."""
        kinds: dict[tuple[str, str], set[str]] = {}
        for run in {run.name: run for cell in self.cells for run in cell.chain.values()}.values():
            for attempt in run.attempts():
                asked, computed = attempt.get("precision"), attempt.get("computed_in")
                if asked and computed and asked != computed:
                    kinds.setdefault((asked, computed), set()).add(run.kind)
        return [
            f"Computed in {computed} instead of {asked}, for which the processor had no kernels: {', '.join(sorted(k))}"
            for (asked, computed), k in sorted(kinds.items())
        ]

    def variants(self) -> dict[str, list[CellResult]]:
        """The cells of each variant (its seeds), in the study's order."""
        groups: dict[str, list[CellResult]] = {}
        for cell in self.cells:
            groups.setdefault(cell.variant, []).append(cell)
        return groups
