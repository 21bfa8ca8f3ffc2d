"""READINGS.md tells the truth about where things are: every symbol, study and switch it names exists."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from studies.study import STUDIES

TEXT = (Path(__file__).parents[1] / "READINGS.md").read_text()
EQUATIONS = range(1, 14)


def rows() -> list[list[str]]:
    """The table of equations, sections and tables."""
    table = TEXT.partition("## Where it is computed")[2]
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| in the paper")]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def resolve(path: str) -> Any:
    """The object a dotted path names."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"{path} names nothing")


def test_every_equation_has_its_row() -> None:
    assert [row[0] for row in rows() if row[0].startswith("Eq.")] == [f"Eq. {number}" for number in EQUATIONS]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_what_a_row_names_exists(row: list[str]) -> None:
    _, _, symbol, study, _ = row
    assert resolve(symbol.strip("`")) is not None
    assert study == "-" or study.strip("`") in STUDIES


@pytest.mark.parametrize("row", [row for row in rows() if row[0].startswith("Eq.")], ids=lambda row: row[0])
def test_an_equation_stands_by_its_number_where_it_is_computed(row: list[str]) -> None:
    documented = resolve(row[2].strip("`")).__doc__ or ""
    assert re.search(rf"{re.escape(row[0])}(?![0-9]|-)", documented), f"{row[2]} does not name {row[0]}"


def test_every_switch_is_a_setting() -> None:
    """The last column of the first table names fields such as `pyramid.schedule`."""
    from fvar import config

    parts = {
        name.removesuffix("Config").lower(): getattr(config, name) for name in dir(config) if name.endswith("Config")
    }
    first = TEXT.partition("## Where it is computed")[0]
    switches = [line.rsplit("|", 2)[1] for line in first.splitlines() if line.startswith("| ")]
    named = [name for cell in switches for name in re.findall(r"`([a-z]+\.[a-z_]+)`", cell)]
    assert len(named) > 10
    for name in named:
        part, _, key = name.partition(".")
        assert key in {field.name for field in dataclasses.fields(parts[part])}, name
