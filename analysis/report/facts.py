"""What a reader must be able to check: settings, cost, provenance, failures, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis import cells as cells_json
from analysis.cells import Place, StudyRecord
from analysis.provenance import DIGITS
from analysis.results import CellResult, StudyResults
from fvar.config import STAGE_CONFIGS
from fvar.plain import differences, to_dict
from fvar.rundir import RunDir, read_status
from fvar.usage import gpu_hours

PRICE = 2.0  # of a GPU hour, where no other is stated
LOG_LINES = 12
Key = tuple[str, str, str, str, str, str]  # commit, host, device, precision, Python, versions


@dataclass(frozen=True)
class Difference:
    """How a variant's settings differ from the reference's; one line per setting."""

    label: str
    lines: list[str]


def configuration(results: StudyResults) -> tuple[str, list[Difference]]:
    """The label of the variant that the others are held against, and how they differ from it, stage by stage."""
    variants = results.variants()
    reference = next((name for name in results.references if name in variants), next(iter(variants), ""))
    if not reference:
        return "", []
    base = _settings(variants[reference][0])
    found = []
    for name, cells in variants.items():
        if name == reference:
            continue
        own = _settings(cells[0])
        lines = [f"{role}: only here" for role in sorted(own.keys() - base.keys())]
        lines += [f"{role}: not here" for role in sorted(base.keys() - own.keys())]
        common = own.keys() & base.keys()
        lines += differences({role: base[role] for role in common}, {role: own[role] for role in common})
        found.append(Difference(cells[0].label, lines or ["nothing but the seed"]))
    return variants[reference][0].label, found


def _settings(cell: CellResult) -> dict[str, Mapping[str, Any]]:
    return {role: to_dict(run.config) for role, run in cell.chain.items()}


@dataclass(frozen=True)
class Cost:
    """What the stages of a kind took, each counted once."""

    kind: str
    runs: int
    hours: float  # wall time of all attempts
    gpu_hours: float


def cost(results: StudyResults) -> list[Cost]:
    """By kind of stage, in the order in which they need each other."""
    by_kind: dict[str, list[RunDir]] = {kind: [] for kind in STAGE_CONFIGS}
    for run in _runs(results).values():
        by_kind.setdefault(run.kind, []).append(run)
    return [
        Cost(
            kind, len(runs), sum(read_status(run.path).seconds for run in runs) / 3600, gpu_hours(r.path for r in runs)
        )
        for kind, runs in by_kind.items()
        if runs
    ]


@dataclass(frozen=True)
class Origin:
    """A commit, a machine and the versions that computed some stages."""

    commit: str
    host: str
    device: str
    precision: str
    python: str
    versions: str
    kinds: str


def origins(results: StudyResults) -> list[Origin]:
    """Where the numbers come from: every combination of code and machine among the attempts of all stages."""
    kinds: dict[Key, set[str]] = {}
    for run in _runs(results).values():
        for attempt in run.attempts():
            kinds.setdefault(_origin(attempt), set()).add(run.kind)
    return [Origin(*key, ", ".join(sorted(found))) for key, found in sorted(kinds.items())]


def _origin(attempt: Mapping[str, Any]) -> Key:
    commit = str(attempt.get("commit") or "unknown")
    asked, computed = attempt.get("precision") or "", attempt.get("computed_in") or ""
    device = f"{attempt.get('ranks', 1)} × {attempt.get('device', '?')}, {attempt.get('threads', '?')} threads"
    return (
        commit[:DIGITS] + "+" * (commit.endswith("+") and len(commit) > DIGITS),
        str(attempt.get("host", "")),
        device,
        str(asked) if asked == computed or not computed else f"{computed} instead of {asked}",
        str(attempt.get("python", "")),
        ", ".join(f"{name} {version}" for name, version in sorted((attempt.get("versions") or {}).items())),
    )


@dataclass(frozen=True)
class Failure:
    """A cell that is not done, and the end of what its stage said."""

    name: str
    state: str
    detail: str
    error: str


def failures(results: StudyResults) -> list[Failure]:
    """Every cell that has not come to its end, but for those that a search gave up on purpose."""
    found = []
    for cell in results.cells:
        state, detail = cell.state
        if state not in ("done", "pruned"):
            errors = [read_status(cell.runs / name).error.strip() for name in cell.recorded]
            error = next((text for text in errors if text), "")
            found.append(Failure(cell.name, state, detail, "\n".join(error.splitlines()[-LOG_LINES:])))
    return found


def record(results: StudyResults) -> StudyRecord:
    """The study's cells.json."""
    return cells_json.read(Place(results.folder.parent.parent, results.study, results.preset))


def command(recorded: StudyRecord) -> str:
    """The command line that computes a study again, as its cells.json tells it."""
    row = recorded.row
    preset = str(row.get("name") or recorded.place.preset)
    words = ["python", "-m", "studies.run", recorded.place.study, "--preset", preset]
    if recorded.until:
        words += ["--until", "separated", "--max-seeds", str(recorded.until["max_seeds"])]
        if recorded.until["margin"] is not None:
            words += ["--margin", f"{recorded.until['margin']:g}"]
    else:
        words += ["--seeds", str(len({cell.seed for cell in recorded.cells}) or 1)]
    data = row.get("data") or {}
    if data.get("root"):
        words += ["--data", f"{data['dataset']}:{data['root']}"]
    if row.get("tokenizers_by_seed"):
        words += ["--tokenizer-seeds"]
    words += ["--plugin", recorded.plugin] if recorded.plugin else []
    words += recorded.options
    for setting in recorded.settings:
        words += ["--set", setting]
    return shlex.join(words)


def _runs(results: StudyResults) -> dict[str, RunDir]:
    """All run directories of a study, each once."""
    return {run.name: run for cell in results.cells for run in cell.chain.values()}
