"""Draws docs/floors.svg from the import contracts of pyproject.toml: what may import what.

python .ci/floors.py            after a contract changed; tests/test_docs.py fails until it was done
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "floors.svg"
WIDTH, MARGIN, FLOOR, GAP, TITLE = 880, 16, 34, 6, 30
MOST = 6  # rooms of a floor that are drawn by name
HOUSES = {  # title and colours of wall and room
    "studies": ("studies: what to run", "#fdf1e3", "#f6c98d"),
    "analysis": ("analysis: tables, figures and pages, from results alone", "#eef3e6", "#c3d7a4"),
    "fvar": ("fvar: the science", "#e8eef8", "#a9c1e8"),
}


def floors(contracts: Sequence[dict[str, object]]) -> dict[str, list[list[str]]]:
    """By house, top down: the rooms of each floor, without the house's name."""
    found: dict[str, list[list[str]]] = {}
    for house in HOUSES:
        named = [contract for contract in contracts if contract["name"] == f"The floors of {house}"]
        layers = named[0]["layers"] if named else []
        assert isinstance(layers, list)
        found[house] = [
            [room.strip(" ()").removeprefix(f"{house}.") for room in layer.replace(":", "|").split("|")]
            for layer in layers
        ]
    return found


def svg(contracts: Sequence[dict[str, object]]) -> str:
    """The picture: houses one above the other, floors of rooms in them."""
    parts, top = [], MARGIN
    for house, rows in floors(contracts).items():
        title, wall, room = HOUSES[house]
        height = TITLE + len(rows) * (FLOOR + GAP) + GAP
        parts.append(_box(MARGIN, top, WIDTH - 2 * MARGIN, height, wall))
        parts.append(_text(MARGIN + 12, top + 20, title, weight="bold", anchor="start"))
        y = top + TITLE
        for row in rows:
            names = row if len(row) <= MOST else [f"one file per study: {row[0]}, {row[1]}, ... {row[-1]}"]
            wide = (WIDTH - 2 * MARGIN - 24 - (len(names) - 1) * GAP) / len(names)
            for number, name in enumerate(names):
                x = MARGIN + 12 + number * (wide + GAP)
                parts += [_box(x, y, wide, FLOOR, room), _text(x + wide / 2, y + 22, name)]
            y += FLOOR + GAP
        top += height + GAP
    body = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + MARGIN - GAP}" role="img" '
    head += 'font-family="sans-serif" font-size="15">\n<title>Which part of fvar may import which</title>'
    return f'{head}\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="4" fill="{fill}"/>'


def _text(x: float, y: float, text: str, weight: str = "normal", anchor: str = "middle") -> str:
    place = f'x="{x:.0f}" y="{y:.0f}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text {place} fill="#1c1c1c">{escape(text)}</text>'


def contracts() -> list[dict[str, object]]:
    """Those of the checkout."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    found: list[dict[str, object]] = tools["importlinter"]["contracts"]
    return found


if __name__ == "__main__":
    PICTURE.write_text(svg(contracts()))
