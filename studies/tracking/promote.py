"""Which cell `python -m studies promote CELL` means, and what its model is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from analysis import cells as cells_json
from analysis.cells import CellRecord, Place
from analysis.results import CellResult
from fvar.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+=,-]{0,119}")  # as a folder's, in an address, and in MLflow's filters
LISTED = 20  # cells that an error names


class Finished(NamedTuple):
    """A cell that can be promoted."""

    place: Place
    cell: CellResult

    @property
    def name(self) -> str:
        """Of its model, where the user gives none: seeds of a variant are versions of one model."""
        whole = f"{self.place.study}-{self.place.preset}-{self.cell.variant}"
        return re.sub(r"[^A-Za-z0-9 ._+=,-]", "-", whole)[:120].rstrip(". ")


def find(results: Path, given: str) -> Finished:
    """The finished cell meant by "full/seed0", by "full" where that has one seed, or by all of its name.

    All of a cell's name is "ablation_table2/smoke/full/seed0". Raises `UserError`, naming the cells there are, for one
    that is unknown, one of several, or not finished.
    """
    every = [(place, cell) for place in cells_json.started(results) for cell in cells_json.read(place).cells]
    if not every:
        raise UserError(f"{results} holds no study yet; run one first, e.g. `python -m studies.run ablation_table2`")
    meant = [(place, cell) for place, cell in every if _means(given, place, cell)]
    if not meant:
        raise UserError(f"there is no cell {given!r}; there are: {_listed(every)}")
    if len({cell.chain for _, cell in meant}) > 1:
        raise UserError(f"{given!r} may be any of {_listed(meant)}; give the whole name of one")
    place, record = meant[0]
    cell, whole = CellResult.of(record, place.runs), _whole(place, record.name)
    state, detail = cell.state
    if state != "done":
        done = [(place, other) for place, other in every if CellResult.of(other, place.runs).state[0] == "done"]
        raise UserError(
            f"{whole} is not finished ({': '.join(filter(None, (state, detail)))}); "
            f"finished are: {_listed(done) or 'none yet'}"
        )
    if "var" not in cell.chain or "tokens.tokenizer" not in cell.chain:
        raise UserError(f"{whole} trains no network that generates images; there is nothing to promote")
    return Finished(place, cell)


def require_name(name: str) -> str:
    """The name, if a model can have it. Raises `UserError` for another."""
    if not NAME.fullmatch(name) or name.endswith((".", " ")):
        raise UserError(
            f"--name {name!r} cannot be a model's name; give at most 120 letters, digits, spaces, any of . _ + = , - "
            "that begin with a letter or digit"
        )
    return name


def _whole(place: Place, name: str) -> str:
    return f"{place.study}/{place.preset}/{name}"


def _means(given: str, place: Place, cell: CellRecord) -> bool:
    return any(f"/{_whole(place, name)}".endswith(f"/{given}") for name in (cell.name, cell.variant))


def _listed(cells: Sequence[tuple[Place, CellRecord]]) -> str:
    names = [_whole(place, cell.name) for place, cell in cells]
    more = f", and {len(names) - LISTED} more; `python -m studies status STUDY` shows all" * (len(names) > LISTED)
    return ", ".join(names[:LISTED]) + more
