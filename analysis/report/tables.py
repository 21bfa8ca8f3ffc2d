"""The tables of a page: the grids of a study of samples, or the pipe tables of one that writes a table of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.render import Grid

CITED = "Cited"
NUMBER = re.compile(r"[-−+]?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Cell:
    """A text of a table; `key` sorts it as a number, "" where it has none."""

    text: str
    key: str
    bold: bool
    cited: bool


def cells(grid: Grid) -> list[list[Cell]]:
    """The rows of a grid, with what sorting and setting them apart needs."""
    cited = cited_columns(grid)
    return [[_cell(text, cited[index]) for index, text in enumerate(row)] for row in grid.rows]


def cited_columns(grid: Grid) -> list[bool]:
    """Which columns hold published numbers, not ours."""
    names = [name for name, width in grid.groups for _ in range(width)]
    return [name == CITED for name in names] or [False] * len(grid.headings)


def _cell(text: str, cited: bool) -> Cell:
    bold = re.fullmatch(r"\*\*(.*)\*\*", text)
    plain = bold[1] if bold else text
    number = NUMBER.match(plain.removeprefix("< "))
    return Cell(plain, number[0].replace(",", "").replace("−", "-") if number else "", bool(bold), cited)


def read(path: Path) -> tuple[list[Grid], list[str]]:
    """The pipe tables of a Markdown file as grids, and its other lines, but for its title, as sentences."""
    if not path.exists():
        return [], []
    grids: list[Grid] = []
    texts: list[str] = []
    title = ""
    lines = path.read_text(encoding="utf-8").splitlines()
    for block in _blocks(lines):
        if block[0].startswith("|"):
            headings, _, *rows = [_row(line) for line in block] if len(block) > 1 else [_row(block[0]), []]
            grids.append(Grid(title, headings, rows, left=1))
            title = ""
        elif block[0].startswith("#"):
            title = block[0].lstrip("# ") if not block[0].startswith("# ") else ""
        else:
            texts += [line.removeprefix("- ").strip() for line in block]
    return grids, texts


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Neighbouring lines of one kind: of a table, a heading, or text; blank lines end a block."""
    block: list[str] = []
    for line in [*lines, ""]:
        same = bool(block) and line[:1] not in ("", "#") and (line[:1] == "|") == (block[0][:1] == "|")
        if block and (not same or block[0].startswith("#")):
            yield block
            block = []
        if line.strip():
            block.append(line)


def _row(line: str) -> list[str]:
    return [text.strip().replace("\\|", "|") for text in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
