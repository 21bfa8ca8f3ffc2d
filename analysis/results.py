"""What a study left behind: the one reader behind its tables, figures, MLflow runs and search.

cells.json says which cells there are (`analysis.cells`) and names the last stage of each; the stages above it are found
through the run directories' inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis import cells as cells_json
from analysis import standing
from analysis.cells import CellRecord, Place
from fvar.config import ScoresConfig, VarConfig
from fvar.errors import UserError
from fvar.machine import records
from fvar.rundir import BLOCK, RunDir
from fvar.usage import gpu_hours


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
    recorded: tuple[str, ...]  # names of its run directories, inputs first
    pruned: str = ""  # why a search gave it up half-way

    @classmethod
    def of(cls, cell: CellRecord, runs: Path) -> CellResult:
        """What a cell has come to, whose run directories lie in the folder `runs`."""
        recorded = (cell.stages, runs, cell.chain, cell.pruned)
        return cls(cell.name, cell.variant, cell.label, cell.seed, cell.params, *recorded)

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
    def state(self) -> tuple[standing.State, str]:
        """Where the cell stands, and one line saying which stage it stands at and, if that failed, why."""
        *_, own = self.recorded
        found = {own: standing.of_stage(self.runs / own)}
        if found[own].state != "done":
            if self.pruned:
                return "pruned", self.pruned
            found = {name: standing.of_stage(self.runs / name) for name in self.recorded}
        state, stage = standing.of_cell({name: at.state for name, at in found.items()})
        return state, standing.detail(state, stage, found[stage].status)

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """scores.json of a finished cell's last stage: metric -> {"value", "reason", "count", "extractor", ...}.

        Empty before, and for a kind that writes none. Raises `UserError` where the file is damaged or gone.
        """
        kind = next(iter(self.stages), "")
        run = self.chain.get(kind)
        if run is None or not run.done:
            return {}
        path, heal = run.path / "scores.json", f"repeat the study's command with --recompute {kind}"
        try:
            body = records.read_object(path)
        except records.Damaged as error:
            raise UserError(f"{error}; {heal}") from None
        if body is None and not isinstance(run.config, ScoresConfig):
            return {}
        if body is None:
            raise UserError(f"{path} is gone; {heal}")
        if not all(isinstance(found, dict) for found in body.values()):
            raise UserError(f"{path} holds something else than scores; {heal}")
        return body

    def score(self, metric: str) -> float | None:
        """One score; None where it was not (or could not be) measured, or came out as no finite number."""
        value = self.scores.get(metric, {}).get("value")
        return None if value is None or not math.isfinite(value) else float(value)

    @property
    def scores_config(self) -> ScoresConfig | None:
        run = self.chain.get("scores")
        return run.config if run is not None and isinstance(run.config, ScoresConfig) else None

    @property
    def has_teacher(self) -> bool | None:
        """Whether its network was trained beside a teacher; None where that is not known yet."""
        run = self.chain.get("var")
        return run.config.teacher is not None if run is not None and isinstance(run.config, VarConfig) else None

    def metrics(self, split: str, role: str = "var") -> list[dict[str, Any]]:
        """Records of one stage's metrics.jsonl."""
        run = self.chain.get(role)
        return [] if run is None else run.metrics(split)

    @property
    def hours(self) -> tuple[float, str]:
        """What its stages took, those shared with other cells in full, and of what: GPU hours, or hours of processes
        where no job held a GPU."""
        paths = {run.path: run for run in self.chain.values()}
        if held := gpu_hours(paths):
            return held, "GPU hours"
        return sum(run.status.seconds for run in paths.values()) / 3600, "hours of a process, without GPUs"

    def heldout(self, key: str) -> float | None:
        """The deployment network's last held-out value of a metric, once its training is done."""
        run = self.chain.get("var")
        values = [record[key] for record in self.metrics("heldout") if key in record]
        return float(values[-1]) if run is not None and run.done and values else None

    def sampling(self, key: str) -> float | None:
        """What its samples took: "seconds_per_image" of one process, "steps" per image, "parameters" of the network."""
        values = [record[key] for record in self.metrics("speed", "samples") if key in record]
        return float(values[-1]) if values else None

    @property
    def sampled_on(self) -> str:
        """Device and threads that made its samples; only times of the same can be compared."""
        run = self.chain.get("samples")
        attempts = run.attempts() if run is not None else []
        return f"{attempts[-1]['device']}, {attempts[-1]['threads']} threads" if attempts else "an unknown device"


@dataclass(frozen=True)
class StudyResults:
    """All cells of one study at one preset, in the study's order."""

    study: str
    preset: str
    title: str
    folder: Path  # results/<study>/<preset>: where tables and figures go
    cells: tuple[CellResult, ...]
    references: tuple[str, ...] = cells_json.REFERENCES  # variants that the others are compared with, see `comparisons`
    until: Mapping[str, Any] | None = None  # the rule by which the study adds seeds, see `analysis.contrasts.Until`
    columns: tuple[Mapping[str, Any], ...] = ()  # what is measured of the cells, see `analysis.metrics.metrics_of`

    @classmethod
    def read(cls, results: Path, study: str, preset: str) -> StudyResults:
        """Raises `UserError`, saying what to run first, where the study was never run at this preset."""
        return cls.at(Place(results, study, preset))

    @classmethod
    def at(cls, place: Place) -> StudyResults:
        """`read`, of a study whose place is known."""
        record = cells_json.read(place)
        cells = tuple(CellResult.of(cell, place.runs) for cell in record.cells)
        rule = record.references, record.until, record.columns
        return cls(place.study, place.preset, record.title, place.folder, cells, *rule)

    @property
    def fingerprint(self) -> str:
        """Hash of the cells, their states, metrics and scores: whatever is drawn from them changes only if it does."""
        digest = hashlib.sha256((self.folder / cells_json.FILE).read_bytes())
        for cell in self.cells:
            for role, run in cell.chain.items():
                digest.update(f"{role} {run.name} {standing.of_stage(run.path).state}\n".encode())
                for name in ("metrics.jsonl", "scores.json"):
                    with contextlib.suppress(FileNotFoundError), open(run.path / name, "rb") as file:
                        while block := file.read(BLOCK):
                            digest.update(block)
        return digest.hexdigest()

    @property
    def one_tokenizer(self) -> bool:
        """Whether all cells' tokens are of one tokenizer; if not, their token losses cannot be compared."""
        return len({run.name for cell in self.cells if (run := cell.chain.get("tokens.tokenizer"))}) <= 1

    def tokenizers(self, variant: str) -> tuple[str, ...]:
        """The structure tokenizers of a variant's seeds, in their order, each once; empty where none is known."""
        runs = (cell.chain.get("tokens.tokenizer") for cell in self.variants()[variant])
        return tuple(dict.fromkeys(run.name for run in runs if run))

    def comparisons(self) -> dict[str, list[str]]:
        """Reference -> the variants that are compared with it, in the study's order."""
        variants, found = self.variants(), dict[str, list[str]]()
        for pattern in self.references:
            for variant, cells in variants.items():
                reference = cells_json.reference_of(pattern, cells[0].params)
                if reference in variants and reference != variant:
                    found.setdefault(reference, []).append(variant)
        return found

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
