"""The page over all studies: what each has decided, with links to its own page and to the ledger of claims."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from analysis import cells
from analysis.cells import Place
from analysis.report import page, tables
from analysis.report.verdict import verdict
from analysis.results import StudyResults
from fvar.errors import UserError
from fvar.machine import atomic

CLAIMS = "claims.md"


@dataclass(frozen=True)
class Entry:
    """One study at one preset."""

    place: Place
    title: str
    states: str
    seeds: int
    headline: str
    page: str  # its address from the front page, "" where it has none


def write(results: Path) -> list[Path]:
    """Write index.html into the results folder, and into no other."""
    claims, notes = tables.read(results / CLAIMS)
    text = (
        page.environment()
        .get_template("front.html")
        .render(
            entries=[_entry(place) for place in cells.started(results)],
            claims=claims,
            notes=notes,
            claims_file=CLAIMS if (results / CLAIMS).exists() else "",
            rows_of=tables.cells,
            cited_of=tables.cited_columns,
        )
    )
    atomic.write_text(results / page.FILE, text)
    return [results / page.FILE]


def _entry(place: Place) -> Entry:
    own = place.folder / page.FILE
    address = f"{place.study}/{place.preset}/{page.FILE}" if own.exists() else ""
    try:
        results = StudyResults.at(place)
        states = Counter(cell.state[0] for cell in results.cells)
        headline = verdict(results).headline
    except UserError as error:  # of one study; the others can be shown
        return Entry(place, place.study, "cannot be read", 0, str(error), address)
    counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "nothing to train"
    return Entry(place, results.title, counts, len({cell.seed for cell in results.cells}), headline, address)
