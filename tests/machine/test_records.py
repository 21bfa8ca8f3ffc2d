"""Small files that a crash or an editor has spoiled: never a traceback, never taken on trust."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import standing
from fvar.config import RuntimeConfig, Stage, VarConfig
from fvar.job import JobRecord
from fvar.machine import records
from fvar.rundir import RunDir, Status, read_status

SPOILT = [
    b"", b"\x89PNG\r\n\xff\xfe\x00", b"null", b"[]", b'"done"', b"7", b"[" * 100_000, b'{"state": "ru', b"{1: 2}",
]  # fmt: skip
WRONG: list[dict[str, Any]] = [
    {"state": "finished"}, {"state": ["done"]}, {"state": None}, {"step": "7"}, {"step": 1.5}, {"step": True},
    {"loss": "nan"}, {"seconds": None}, {"updated": float("nan")}, {"eta": float("inf")}, {"note": 7}, {"host": {}},
]  # fmt: skip


@pytest.mark.parametrize("content", [*SPOILT, *(json.dumps(body).encode() for body in WRONG)])
def test_a_spoilt_status_reads_as_waiting_and_says_so_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status.json").write_bytes(content)
    status = read_status(tmp_path)
    assert status.state == "waiting"
    assert status.note.startswith(f"{tmp_path}/status.json ")
    assert status.note.endswith("repeating the study's command runs it again")
    assert "\n" not in status.note
    assert standing.of_stage(tmp_path).state == "waiting"


@pytest.mark.parametrize("content", [*SPOILT, b'{"job_id": 7}', b'{"cluster": null}', b'{"submitted": "now"}'])
def test_a_spoilt_job_is_no_job(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "job.json").write_bytes(content)
    assert JobRecord.read_in(tmp_path) is None
    assert standing.of_stage(tmp_path).state == "waiting"


def test_what_a_newer_version_added_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "done", "mood": "fine", "seconds": 3}')
    assert read_status(tmp_path) == Status("done", seconds=3)


def test_a_stage_with_a_spoilt_status_can_be_run_again(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, Stage(VarConfig()), RuntimeConfig())
    (run.path / "status.json").write_bytes(b"\xff")
    run.update(state="running", note="")
    assert run.status.state == "running"


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())
fields = st.sampled_from([field.name for field in dataclasses.fields(Status)]) | st.text(max_size=5)


@given(st.dictionaries(fields, values))
def test_whatever_an_object_holds_a_record_has_its_types_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, body: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "record.json"
    path.write_text(json.dumps(body))
    try:
        status = records.read(Status, path)
    except records.Damaged:
        return
    assert status is not None
    assert isinstance(status.state, str)
    assert isinstance(status.step, int)
    assert status.loss is None or isinstance(status.loss, int | float)
    assert isinstance(status.note, str)
