"""cells.json: written and read by one module, and answered in one line when it is damaged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from analysis import cells
from analysis.cells import CellRecord, Place, StudyRecord
from fvar.errors import UserError

CHAIN = tuple(f"{kind}-0123456789abcdef" for kind in ("tokenizer", "tokens", "var", "samples", "scores"))
GOOD = {"name": "full/seed0", "variant": "full", "chain": list(CHAIN)}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, "ablation_table2", "smoke")


def test_what_is_written_is_read(place: Place) -> None:
    cell = CellRecord("full/seed1", "full", "FVAR (full)", 1, {"rho_max": 12.0}, CHAIN)
    record = StudyRecord(place, "Table 2, with train.steps=7", (cell,), ("train.steps=7",), {"name": "smoke"})
    cells.write(record)
    assert cells.read(place) == record
    assert cells.started(place.results) == [place]
    assert cell.stages == {"scores": CHAIN[-1]}


def test_every_field_is_described_where_the_file_is_written(place: Place) -> None:
    cells.write(StudyRecord(place, "", (CellRecord("full", "full", "", 0, {}, CHAIN),)))
    body = json.loads(place.file.read_text())
    assert cells.__doc__
    assert all(f'"{key}": ' in cells.__doc__ for key in {**body, **body["cells"][0]})


def test_what_may_be_left_out_is(place: Place) -> None:
    place.folder.mkdir(parents=True)
    place.file.write_text(json.dumps({"cells": [GOOD]}))
    (cell,) = cells.read(place).cells
    assert dataclasses.astuple(cell) == ("full/seed0", "full", "full", 0, {}, CHAIN, "")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\x89PNG\r\n\xff\xfe\x00", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"null", "holds null instead of a JSON object"),
        (b"[1, 2]", r"holds \[1, 2\] instead of a JSON object"),
        (b"{}", "has no 'cells'"),
        (b'{"cells": {}}', "has a wrong 'cells'"),
        (b'{"cells": [7]}', "cell 1 is not a JSON object"),
        (b'{"cells": [], "title": null}', "has a wrong 'title'"),
        (b'{"cells": [], "settings": [7]}', "settings has something other than text"),
        *(
            (json.dumps({"cells": [GOOD, GOOD | change]}).encode(), complaint)
            for change, complaint in (
                ({"name": None}, "cell 2 has a wrong 'name'"),
                ({"seed": "0"}, "cell 2 has a wrong 'seed'"),
                ({"params": []}, "cell 2 has a wrong 'params'"),
                ({"chain": "scores-0"}, "cell 2 has a wrong 'chain'"),
                ({"chain": []}, "where the name of a run directory belongs"),
                ({"chain": [None]}, "cell 2 has something other than text"),
                ({"chain": ["../../etc/passwd-0"]}, "where the name of a run directory belongs"),
            )
        ),
    ],
)
def test_a_damaged_file_is_named_in_one_line_with_what_heals_it(place: Place, content: bytes, complaint: str) -> None:
    place.folder.mkdir(parents=True)
    place.file.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        cells.read(place)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(place.file))
    assert message.endswith("python -m studies.run ablation_table2 --preset smoke")


def test_run_directories_are_not_taken_for_studies(tmp_path: Path) -> None:
    (tmp_path / "runs" / CHAIN[0]).mkdir(parents=True)
    (tmp_path / "runs" / CHAIN[0] / "cells.json").write_text("{}")
    (tmp_path / "mlflow.db").write_text("")
    assert cells.started(tmp_path) == []
    assert cells.started(tmp_path / "nowhere") == []
