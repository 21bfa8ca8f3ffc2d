"""A table on a narrow terminal leaves columns out; it never cuts a number."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from studies.engine.live import Row, table

ROWS = (
    Row("no_refocusing/seed0", "running", "tokenizer", "120/240", "0.1234", "40", "1:02", "", "checkpoint 400 damaged"),
    Row("full/seed0", "failed", "var", "20/200", "5.43", "12", "", "", "ValueError: x"),
)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_every_number_that_is_shown_is_whole_and_every_row_one_line(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(table(ROWS, "Table 2", width))
    text = out.getvalue()
    assert "120/240" in text
    assert "20/200" in text
    assert "running" in text
    assert ("0.1234" in text) == (" loss " in text)
    assert all(len(line) <= width for line in text.splitlines())
    assert len(text.rstrip().splitlines()) == 6


def test_a_wide_terminal_shows_all() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(table(ROWS, "Table 2", 200))
    assert all(text in out.getvalue() for row in ROWS for text in row)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_long_names_beside_long_notes_cut_neither_states_nor_steps(width: int) -> None:
    row = Row("a_variant_of_a_long_name/seed0", "interrupted", "tokenizer", "1200/2400", "0.1234", note="a note " * 9)
    out = io.StringIO()
    Console(file=out, width=width).print(table([row], "Table 2", width))
    assert "interrupted" in out.getvalue()
    assert "1200/2400" in out.getvalue()
    assert all(len(line) <= width for line in out.getvalue().splitlines())


def test_a_status_shows_notes_to_their_end() -> None:
    out = io.StringIO()
    Console(file=out, width=60).print(
        table([Row("full/seed0", "failed", note="word " * 20 + "end")], "", 60, whole=True)
    )
    assert "end" in out.getvalue()
