"""What a study is: a function from the results so far to cells, found by name.

A study is a module of this package with one constant:

    STUDY = Study("my_study", "What it shows", cells)

    def cells(ctx: Context) -> Iterator[Cell]:
        for seed in range(ctx.seeds):
            yield Cell("full", "FVAR", seed, {}, chain(ctx.preset, "full", seed))

The driver asks for the cells again whenever one has ended, so that a study may propose more from `ctx.result(cell)`. A
module elsewhere, with stage kinds of its own, is a plugin (`fvar.plugins`).
"""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import cells
from analysis.cells import REFERENCES, RUNS, CellRecord, Place, StudyRecord
from analysis.metrics import Metric
from fvar import plugins
from fvar.config import STAGE_CONFIGS, Stage
from fvar.errors import UserError, unknown
from fvar.plain import to_dict
from studies.presets import Preset

if TYPE_CHECKING:
    from analysis.contrasts import Until
    from analysis.results import CellResult, StudyResults
    from analysis.style import Drawings

STUDIES: tuple[str, ...] = (
    "ablation_table2",
    "ablation_controls",
    "table1",
    "table1_512",
    "sweep_psf_radius",
    "sweep_lambda",
    "sweep_focus_states",
    "sweep_schedule",
    "sweep_alias_codebook",
    "sweep_aligate",
    "sweep_noise",
    "kernel",
    "quantiser_reading",
    "trunk",
    "resolution",
    "inpainting",
    "cost",
    "search_distillation",
    "search_pyramid",
    "search_tokenizer",
    "search_training",
    "grid",
    "text_readability",
    "wiener",
    "speed",
    "spectral",
)


@dataclass(frozen=True)
class Cell:
    """One measurement: a variant of the study at one seed, and the last stage of the chain that computes it."""

    variant: str
    label: str  # as printed in tables
    seed: int
    params: Mapping[str, Any]  # what the cell varies, flat, for tables and MLflow
    stage: Stage  # usually the scores; the stages above it come with it
    name: str = ""  # unique in the study; "<variant>/seed<seed>" if not given
    optional: bool = False  # part of the study only where `--only` names it, by more than a leading wildcard
    pruned: str = ""  # why a search gave it up half-way; nothing more is computed for it

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or f"{self.variant}/seed{self.seed}")
        if not re.fullmatch(r"[\w.=+-]+(/[\w.=+-]+)*", self.name) or ".." in self.name:
            raise UserError(f"cell name {self.name!r}: use letters, digits and _ . = + - between slashes")

    def matches(self, pattern: str) -> bool:
        """Whether an `--only` names this cell or its variant."""
        return any(fnmatch.fnmatchcase(name, pattern) for name in (self.variant, self.name))

    def belongs(self, only: Iterable[str]) -> bool:
        """Whether the cell is part of the study: *-d12 takes what is there anyway, fmvar-* asks for an optional one."""
        return not self.optional or any(self.matches(name) for name in only if not name.startswith(("*", "?", "[")))

    def record(self) -> CellRecord:
        """The cell as cells.json has it."""
        names = tuple(stage.name for stage in self.stage.chain())
        return CellRecord(self.name, self.variant, self.label, self.seed, self.params, names, self.pruned)


OF_SEARCHES = ("sampler", "pruner", "objectives", "storage")
OF_GRIDS = ("variant", "grid")


@dataclass(frozen=True)
class Options:
    """What only some studies read of a command line: searches, and the grid. Empty: the study's own choice."""

    trials: int = 0  # points a search may hand out
    sampler: str = ""
    pruner: str = ""
    objectives: tuple[str, ...] = ()
    storage: str = ""  # address of the search's data base; empty: the file beside the results
    variant: str = ""
    grid: tuple[str, ...] = ()  # KIND.PATH=VALUE,VALUE

    def refuse(self, study: str, names: Iterable[str]) -> None:
        """Raise `UserError` where one of these was given: the study does not read it."""
        for name in names:
            if getattr(self, name):
                raise UserError(f"--{name} means nothing to {study}; leave it out")

    def words(self) -> tuple[str, ...]:
        """As a command line has them. An address may hold a password, and is left to whoever types the command."""
        found: list[str] = []
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "grid":
                found += [word for setting in value for word in ("--grid", setting)]
            elif value and item.name != "storage":
                found += [f"--{item.name}", ",".join(value) if isinstance(value, tuple) else str(value)]
        return tuple(found)


@dataclass(frozen=True)
class Context:
    """What a study sees: at which preset and with how many seeds it runs, and what was found so far."""

    study: Study
    preset: Preset
    seeds: int = 1
    results: Path = Path("results")
    label: str = ""  # folder of this preset's results; differs from its name where settings were changed
    width: int = 1  # cells that can run at once: as many may be open in an adaptive study
    dry: bool = False  # only a plan is wanted: write nothing
    options: Options = Options()
    changed: Callable[[Sequence[Cell]], list[Cell]] = list  # what the command's `--set` make of cells

    @property
    def place(self) -> Place:
        """Where the study at this preset is kept."""
        return Place(self.results, self.study.name, self.label or self.preset.name)

    @property
    def folder(self) -> Path:
        """results/<study>/<preset>: cells.json, tables and figures."""
        return self.place.folder

    def read(self) -> StudyResults:
        """The cells so far with their states and scores (see `analysis.results`).

        Raises `UserError` before the first cells were recorded.
        """
        from analysis.results import StudyResults

        return StudyResults.at(self.place)

    def result(self, cell: Cell) -> CellResult:
        """What a cell, as it is after `changed`, has come to, recorded or not."""
        from analysis.results import CellResult

        return CellResult.of(cell.record(), self.place.runs)


@dataclass(frozen=True)
class Study:
    """A named function to cells. `report` or `outputs` say what is shown; the first file is printed."""

    name: str
    title: str
    cells: Callable[[Context], Iterable[Cell]]
    report: Callable[[StudyResults], Drawings] | None = None  # of some results; None: table, curves, sample grid
    # In place of a report, where the study keeps no runs: what is shown below <results>/<study>.
    outputs: Callable[[Path], Drawings] | None = None
    measured: tuple[str, ...] = ()  # files of its folder that a report reads and could not make without the runs
    adaptive: bool = False  # later cells depend on the scores of earlier ones
    references: tuple[str, ...] = REFERENCES  # variants that the others are compared with, where it has them
    columns: tuple[Metric, ...] = ()  # what is measured of its cells, the deciding one first; empty: of samples
    until: Until | None = None  # the rule by which it adds seeds, see `studies.until`
    # Of studies that read `Options`: what these make of the context, or `UserError` where they are wrong.
    prepare: Callable[[Context], Context] | None = None
    stirred: Callable[[Context], bool] | None = None  # whether running stages ask for another look at the cells
    publish: Callable[[Context, Sequence[Path]], None] | None = None  # the files it left for people, elsewhere, too


def names() -> tuple[str, ...]:
    """Every study there is, those of plugins at the end."""
    return (*STUDIES, *_of_plugins())


def study(name: str) -> Study:
    """A study by name. Raises `UserError` listing the valid ones."""
    own = _of_plugins()
    if name in own:
        return own[name]
    if name not in STUDIES:
        raise unknown("study", name, names())
    found: Study = importlib.import_module(f"studies.{name}").STUDY
    return found


def _of_plugins() -> dict[str, Study]:
    """The studies of the plugins that are loaded. Raises `UserError` for one that is none, or whose name is taken."""
    found: dict[str, Study] = {}
    for module, content in plugins.MODULES.items():
        if not hasattr(content, "STUDY"):
            continue
        own = content.STUDY
        if not isinstance(own, Study) or not re.fullmatch(r"[a-z][a-z0-9_]*", own.name):
            raise UserError(f"plugin {module}: STUDY must be a Study with a name in small letters")
        if own.name in (*STUDIES, *found, RUNS, *plugins.RESERVED):
            raise UserError(f"plugin {module}: the study {own.name!r} exists already; give it another name")
        found[own.name] = own
    return found


def plugin_of(name: str) -> str:
    """The module of the plugin that a study is of; empty for fvar's own."""
    modules = (module for module, content in plugins.MODULES.items() if hasattr(content, "STUDY"))
    return next((module for module in modules if plugins.MODULES[module].STUDY.name == name), "")


def record(ctx: Context, wanted: Iterable[Cell], settings: Iterable[str] = ()) -> None:
    """Write cells.json, from which everything downstream finds the run directories (see `analysis.cells`)."""
    settings = tuple(settings)
    data = ctx.preset.data
    title = ctx.study.title + (f", on {data.title}" if data.root else "")
    title += f", with {', '.join(settings)}" if settings else ""
    if (before := cells.content(ctx.place)) and before != data.content:
        raise UserError(
            f"{ctx.place.file} holds cells of other data ({before[:6]}, now {data.content[:6] or data.dataset}), which "
            "are kept; name another folder by --results"
        )
    recorded = tuple(cell.record() for cell in wanted)
    revisions = {kind: cls.REVISION for kind, cls in STAGE_CONFIGS.items()}
    until = ctx.study.until.as_dict() if ctx.study.until else None
    row, columns = to_dict(ctx.preset), tuple(map(asdict, ctx.study.columns))
    cells.write(
        StudyRecord(
            ctx.place,
            title,
            recorded,
            settings,
            row,
            revisions,
            ctx.study.references,
            until,
            columns,
            plugin_of(ctx.study.name),
            ctx.options.words() if ctx.study.prepare else (),
        )
    )
