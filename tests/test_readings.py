"""READINGS.md and docs/paper.md tell the truth: every symbol, study and switch that they name exists."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from studies.study import STUDIES

ROOT = Path(__file__).parents[1]
READINGS = (ROOT / "READINGS.md").read_text()
PAPER = (ROOT / "docs" / "paper.md").read_text()
EQUATIONS = range(1, 14)


def rows() -> list[list[str]]:
    """The table of equations, sections and tables."""
    table = PAPER.partition("## Equations, sections and tables")[2].partition("## Numbers")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| in the paper")]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def symbol(cell: str) -> str:
    """The dotted path of a link to the API reference, such as [`optics.disk_psf`](api/fvar.focus.md#...)."""
    found = re.fullmatch(r"\[`([\w.]+)`\]\(api/([\w.]+)\.md#[\w.]+\)", cell)
    assert found, cell
    return f"{found[2]}.{found[1]}"


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
    _, _, link, study, _ = row
    assert resolve(symbol(link)) is not None
    assert study == "-" or study.strip("`") in STUDIES


@pytest.mark.parametrize("row", [row for row in rows() if row[0].startswith("Eq.")], ids=lambda row: row[0])
def test_an_equation_stands_by_its_number_where_it_is_computed(row: list[str]) -> None:
    documented = resolve(symbol(row[2])).__doc__ or ""
    assert re.search(rf"{re.escape(row[0])}(?![0-9]|-)", documented), f"{row[2]} does not name {row[0]}"


def test_every_switch_is_a_setting() -> None:
    """The last column of the first table names fields such as `pyramid.schedule`."""
    from fvar import config

    parts = {
        name.removesuffix("Config").lower(): getattr(config, name) for name in dir(config) if name.endswith("Config")
    }
    switches = [line.rsplit("|", 2)[1] for line in READINGS.splitlines() if line.startswith("| ")]
    named = [name for cell in switches for name in re.findall(r"`([a-z]+\.[a-z_]+)`", cell)]
    assert len(named) > 10
    for name in named:
        part, _, key = name.partition(".")
        assert key in {field.name for field in dataclasses.fields(parts[part])}, name
