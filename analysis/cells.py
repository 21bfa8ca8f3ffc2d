"""cells.json: which cells a study has, and which run directories compute each. Read and written here alone.

The driver writes `results/<study>/<preset>/cells.json` whenever a study proposes cells. Tables, figures, MLflow and
`python -m studies` start from it; all else they find in the run directories it names.

    {"study": "ablation_table2",                as the folder is called, for whoever sees the file alone
     "preset": "smoke",                         likewise; "smoke-1f0c3a" where settings were changed
     "title": "Table 2: ablation, with ...",    over tables, and in MLflow
     "settings": ["train.steps=7"],             what --set changed in what is computed; part of the title
     "row": {"name": "smoke", ...},             the preset as it was then
     "revisions": {"var": 2, ...},              of the stage kinds then; 1 where it does not say
     "references": ["full", "baseline"],        variants that the others are compared with, where they are in the study;
                                                "var-{size}": each with the one of its own parameter `size`
     "until": {"metric": "kid", ...},           the rule by which it adds seeds (`analysis.contrasts.Until`), or null
     "columns": [{"key": "accuracy", ...}],     what is measured of its cells (`analysis.metrics.Metric`), what decides
                                                first; none: what is measured of samples
     "plugin": "mylab.digits",                  the module that the study is of; empty for fvar's own
     "options": ["--trials", "32"],             of the command, for studies that read such: searches, and the grid
     "cells": [{
         "name": "full/seed0",                  unique in the study
         "variant": "full",                     the cells of one variant are its seeds
         "label": "FVAR (full)",                of the variant, as tables print it
         "seed": 0,
         "params": {"rho_max": 12.0},           what the cell varies, flat
         "stages": {"scores": "scores-0123456789abcdef"},
                                                its own stage, the last of the chain: kind and run directory
         "chain": ["tokenizer-fedcba9876543210", ..., "scores-0123456789abcdef"]}]}
                                                all its run directories, inputs first
    and, of a cell that a search gave up half-way, "pruned": "by median at step 40, ..."

Only `cells`, and in each `name`, `variant` and `chain`, must be there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fvar.config import STAGE_CONFIGS
from fvar.errors import UserError, unknown
from fvar.machine import atomic, records

FILE = "cells.json"
REFERENCES = ("full", "baseline")  # of a study that names none
RUNS = "runs"  # the folder of all run directories, among those of the studies
KEPT = Path("results", "reference")  # the results folder of the repository: exports alone, nothing is computed there

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Place:
    """Where a study at a preset keeps its cells.json, tables and figures."""

    results: Path
    study: str
    preset: str

    @property
    def folder(self) -> Path:
        return self.results / self.study / self.preset

    @property
    def file(self) -> Path:
        return self.folder / FILE

    @property
    def runs(self) -> Path:
        """The folder of all run directories, of this and other studies."""
        return self.results / RUNS

    def __str__(self) -> str:
        return f"{self.study} --preset {self.preset}"


@dataclass(frozen=True)
class CellRecord:
    """A cell as cells.json has it."""

    name: str
    variant: str
    label: str
    seed: int
    params: Mapping[str, Any]
    chain: tuple[str, ...]  # at least one
    pruned: str = ""  # why a search gave it up half-way

    @property
    def own(self) -> str:
        """The run directory of its own stage, the last."""
        return self.chain[-1]

    @property
    def stages(self) -> dict[str, str]:
        """Its own stage's kind and run directory."""
        return {self.own.rpartition("-")[0]: self.own}


@dataclass(frozen=True)
class StudyRecord:
    """A study that was started at a preset. Cheap to read, however many cells: nothing is opened but cells.json."""

    place: Place
    title: str
    cells: tuple[CellRecord, ...]
    settings: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    revisions: Mapping[str, int] = field(default_factory=dict)
    references: tuple[str, ...] = REFERENCES
    until: Mapping[str, Any] | None = None
    columns: tuple[Mapping[str, Any], ...] = ()
    plugin: str = ""
    options: tuple[str, ...] = ()

    def outdated(self) -> list[str]:
        """Of which of its stage kinds today's code is a newer revision: "tokenizer of revision 1, now 2"."""
        kinds = {stage.partition("-")[0] for stage in self.stages()}
        return [
            f"{kind} of revision {self.revisions.get(kind, 1)}, now {cls.REVISION}"
            for kind, cls in STAGE_CONFIGS.items()
            if kind in kinds and self.revisions.get(kind, 1) < cls.REVISION
        ]

    def select(self, names: Iterable[str]) -> list[CellRecord]:
        """The cells of these names or variants; all for none. Raises `UserError` for a wrong name."""
        names = list(names)
        for name in names:
            if not any(name in (cell.name, cell.variant) for cell in self.cells):
                raise unknown("cell", name, (cell.name for cell in self.cells))
        return [cell for cell in self.cells if not names or cell.name in names or cell.variant in names]

    def stages(self) -> list[str]:
        """All its run directories, each once."""
        return list(dict.fromkeys(stage for cell in self.cells for stage in cell.chain))


def started(results: Path) -> list[Place]:
    """Every study and preset that was started, sorted."""
    if not results.is_dir():
        return []
    return sorted(
        Place(results, study.name, preset.name)
        for study in results.iterdir()
        if study.name != RUNS and study.is_dir()  # thousands of run directories are not worth a look
        for preset in study.iterdir()
        if (preset / FILE).exists()
    )


def find(results: Path, study: str, preset: str = "") -> Place:
    """Where a study was started. Without a preset: the only one it was started at, or "smoke" among several.

    Raises `UserError` listing what there is where this was never started.
    """
    places = started(results)
    if not places:
        raise UserError(f"{results} holds no study yet; start one by `python -m studies.run {study}`")
    own = [place.preset for place in places if place.study == study]
    wanted = Place(results, study, preset or (own[0] if len(own) == 1 else "smoke"))
    if wanted not in places:
        raise unknown("started study", str(wanted), map(str, places))
    return wanted


def content(place: Place) -> str:
    """The content of the data set that a study's cells.json was written for; empty where it names none."""
    part = _part(place, "row", "data", "content")
    return part if isinstance(part, str) else ""


def rule(place: Place) -> Mapping[str, Any] | None:
    """The rule by which a study adds seeds, without a look at its cells; None where there is none."""
    part = _part(place, "until")
    return part if isinstance(part, dict) else None


def _part(place: Place, *keys: str) -> object:
    """What stands below these keys, one below the other; None where there is nothing."""
    part: object = None
    with contextlib.suppress(records.Damaged):  # which whoever reads the cells will say
        part = records.read_object(place.file)
    for key in keys:
        part = part.get(key) if isinstance(part, dict) else None
    return part


def reference_of(pattern: str, params: Mapping[str, Any]) -> str:
    """The variant that a reference is for one with these parameters: itself, or with them in place of braced names."""
    try:
        return pattern.format_map(params)
    except (KeyError, ValueError, IndexError, AttributeError):  # no such parameter, or no pattern
        return pattern


def write(record: StudyRecord) -> None:
    """Replace the study's cells.json."""
    place = record.place
    body = {
        "study": place.study,
        "preset": place.preset,
        "title": record.title,
        "settings": list(record.settings),
        "row": dict(record.row),
        "revisions": dict(record.revisions),
        "references": list(record.references),
        "until": None if record.until is None else dict(record.until),
        "columns": [dict(column) for column in record.columns],
        "plugin": record.plugin,
        **({"options": list(record.options)} if record.options else {}),
        "cells": [
            {
                "name": cell.name,
                "variant": cell.variant,
                "label": cell.label,
                "seed": cell.seed,
                "params": dict(cell.params),
                "stages": cell.stages,
                "chain": list(cell.chain),
                **({"pruned": cell.pruned} if cell.pruned else {}),
            }
            for cell in record.cells
        ],
    }
    atomic.write_json(place.file, body)


def read(place: Place) -> StudyRecord:
    """What a study's cells.json says.

    Raises `UserError` where there is none, saying what to run first, and where it is damaged, saying what heals it.
    """
    try:
        body = records.read_object(place.file)
        if body is None:
            raise UserError(f"{place.folder} holds no results; run `python -m studies.run {place}` first")
        entries = _get(body, "cells", list, place.file)
        cells = tuple(_cell(entry, f"{place.file}: cell {number}") for number, entry in enumerate(entries, 1))
        return StudyRecord(
            place,
            _get(body, "title", str, place.file, place.study),
            cells,
            tuple(_words(_get(body, "settings", list, place.file, []), f"{place.file}: settings")),
            _get(body, "row", dict, place.file, {}),
            _revisions(_get(body, "revisions", dict, place.file, {}), place.file),
            tuple(_words(_get(body, "references", list, place.file, list(REFERENCES)), f"{place.file}: references")),
            _get(body, "until", dict, place.file, {}) if body.get("until") is not None else None,
            tuple(_columns(_get(body, "columns", list, place.file, []), place.file)),
            _get(body, "plugin", str, place.file, ""),
            tuple(_words(_get(body, "options", list, place.file, []), f"{place.file}: options")),
        )
    except records.Damaged as error:
        preset, _, changed = place.preset.partition("-")
        command = f"python -m studies.run {place.study} --preset {preset}" + " --set ..." * bool(changed)
        raise UserError(f"{error}; repeat the study's command, which writes the file anew: {command}") from None


def _cell(entry: object, where: str) -> CellRecord:
    if not isinstance(entry, dict):
        raise records.Damaged(f"{where} is not a JSON object")
    variant = _get(entry, "variant", str, where)
    chain = _words(_get(entry, "chain", list, where), where)
    for name in chain or [""]:
        if "/" in name or name.startswith(".") or "-" not in name:
            raise records.Damaged(f"{where} has {name!r} where the name of a run directory belongs")
    return CellRecord(
        _get(entry, "name", str, where),
        variant,
        _get(entry, "label", str, where, variant),
        _get(entry, "seed", int, where, 0),
        _get(entry, "params", dict, where, {}),
        tuple(chain),
        _get(entry, "pruned", str, where, ""),
    )


def _get(body: Mapping[str, Any], key: str, kind: type[T], where: object, default: T | None = None) -> T:
    """The value under a key, of this type. Raises `Damaged` where it is another's, or missing without a default."""
    value = body.get(key, default)
    if not isinstance(value, kind):
        raise records.Damaged(f"{where} has {f'a wrong {key!r}' if key in body else f'no {key!r}'}")
    return value


def _revisions(found: Mapping[str, object], where: object) -> dict[str, int]:
    numbers = {kind: number for kind, number in found.items() if isinstance(number, int)}
    if len(numbers) < len(found):
        raise records.Damaged(f"{where} has a revision that is not a number")
    return numbers


def _columns(values: Sequence[object], where: object) -> list[Mapping[str, Any]]:
    columns: list[Mapping[str, Any]] = [value for value in values if isinstance(value, dict)]
    if len(columns) < len(values):
        raise records.Damaged(f"{where} has something other than an object where a column belongs")
    return columns


def _words(values: Sequence[object], where: str) -> list[str]:
    """The values, which must all be text."""
    words = [value for value in values if isinstance(value, str)]
    if len(words) < len(values):
        raise records.Damaged(f"{where} has something other than text where a name belongs")
    return words
