"""One study's page: index.html beside its table, complete in itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.render import Grid, grids
from analysis.report import browser, curves, facts, tables
from analysis.report.verdict import verdict
from analysis.results import StudyResults
from fvar.machine import atomic

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FILE = "index.html"
HERE = Path(__file__).parent
SHOWN_OTHERWISE = ("convergence.png", "samples.png")  # as charts and images that can be searched
CAPTIONS = {
    "pairs.png": "VAR left, FVAR right: the same class and seed, with a detail enlarged",
    "sweep.png": "Scores over the settings that were varied",
    "search_history.png": "Trials in the order in which they were asked for, and their curves while training",
    "search_importances.png": "How much of the variance each axis explains",
    "search_slices.png": "Scores over each axis of the space; ringed: the best",
    "search_contour.png": "Scores over the two ranges that explain most, interpolated between the trials",
    "search_parallel.png": "Each trial as a line over all axes; thick: the best",
    "search_pareto.png": "Scores over what trials took; joined: those that no other beats in both",
    "readability.png": "Share of characters misread, by font size",
    "strip.png": "One word per font size, as rendered and as reconstructed",
    "clarity.png": "The largest word after every scale",
}


def write(results: StudyResults, price: float = facts.PRICE, own_table: bool = False) -> list[Path]:
    """Write index.html into the study's folder.

    Parameters
    ----------
    results
        The study.
    price
        Of a GPU hour.
    own_table
        The study writes a table.md of its own, from which the page takes its tables.
    """
    grids_, notes = tables.read(results.folder / "table.md") if own_table else _measured(results)
    recorded = facts.record(results)
    shown = [path.name for path in sorted(results.folder.glob("*.png")) if path.name not in SHOWN_OTHERWISE]
    settings_of, settings = facts.configuration(results)
    cost = facts.cost(results)
    panels = curves.panels(results)
    text = (
        environment()
        .get_template("study.html")
        .render(
            results=results,
            seeds=sorted({cell.seed for cell in results.cells}),
            verdict=verdict(results),
            grids=grids_,
            notes=notes,
            rows_of=tables.cells,
            cited_of=tables.cited_columns,
            panels=panels,
            curves=[panel.data for panel in panels],
            samples=browser.samples(results),
            figures=browser.figures(results.folder, shown),
            captions=CAPTIONS,
            settings_of=settings_of,
            settings=settings,
            cost=cost,
            hours=sum(part.hours for part in cost),
            gpu_hours=sum(part.gpu_hours for part in cost),
            price=price,
            origins=facts.origins(results),
            failures=facts.failures(results),
            command=facts.command(recorded),
            settings_changed=recorded.settings,
        )
    )
    atomic.write_text(results.folder / FILE, text)
    return [results.folder / FILE]


def _measured(results: StudyResults) -> tuple[list[Grid], Sequence[str]]:
    """The grids of a study of samples and the notes under them."""
    from analysis.notes import notes
    from analysis.table import rows

    if not results.cells:
        return [], []
    found = rows(results)
    return grids(results, found), notes(results, found)


@cache
def environment() -> Environment:
    """Templates that escape whatever users name; `prose` sets `code` and **bold** as such."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader([HERE / "templates", HERE / "assets"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["prose"] = _prose
    made.globals["palette"] = list(zip(style.PALETTE, style.PALETTE_ON_DARK, strict=True))

    def asset(name: str) -> Any:
        """A file of ours or of uPlot, put into the page as it is."""
        return Markup((HERE / name).read_text(encoding="utf-8"))

    made.globals["asset"] = asset
    return made


def _prose(text: str) -> Markup:
    from markupsafe import Markup, escape

    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe))
