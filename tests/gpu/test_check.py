"""The GPU check runs from end to end, here on a processor at toy sizes, and stops in order when its time has come."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fvar.errors import UserError
from tests.gpu import check, measure, table

ROW = {"part": "step-d16", "seconds": 0.25, "spread": [0.24, 0.26], "first_seconds": 1.0, "images_per_second": 256.0}


@pytest.mark.timeout(2400)  # a minute, where nothing else is computed
def test_the_whole_of_it_runs_at_toy_sizes(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--tiny", "--minutes", "160", "--name", "here", "--out", str(tmp_path)]
    assert check.main(arguments) == 0
    report = json.loads((tmp_path / "here.json").read_text())
    assert report["left_out"] == report["failed"] == []
    assert list(report["tests"]) == ["passed"]
    bench = measure.Bench(measure.TOY, torch.device("cpu"))
    cases = [(part, case.name) for part in measure.TOY.parts for case in bench.cases(part)]
    assert [(row["part"], row["case"]) for row in report["measured"]] == cases
    assert not any(row["mfu"] or row["peak_bytes"] for row in report["measured"])  # nobody knows a CPU's
    assert report["table2"]["finished"]
    assert report["table2"]["stages_done"] == 5
    assert [len(seconds) for seconds in report["table2"]["took"].values()] == [1] * 5
    assert "measures nothing" in (tmp_path / "here.md").read_text()


def test_without_a_gpu_it_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees no GPU"):
        check.main([])
    with pytest.raises(UserError, match="add --tiny"):
        check.main(["--device", "cpu"])
    with pytest.raises(UserError, match="checkout"):
        check.main(["--device", "cpu", "--tiny", "--original", "/nowhere"])


def test_the_shares_fit_into_eight_minutes() -> None:
    parts = ["tests", *(part.partition("-")[0] for part in measure.Sizes().parts), "table2"]
    assert sum(check.SHARES[part] for part in parts) <= 8 * 60 - 30


def test_a_part_that_is_late_is_stopped_with_all_it_started_and_what_it_said_is_kept() -> None:
    sleeper = "import subprocess, sys; print('one', flush=True); subprocess.run(['sleep', '600'])"
    started = time.monotonic()
    outcome = check.run_until(started + 2, [sys.executable, "-c", sleeper], {})
    assert outcome.said == "one\n"
    assert outcome.status is None
    assert outcome.seconds < 2 + check.GRACE + 60


def test_what_a_part_leaves_over_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []

    def run_until(deadline: float, *_: object) -> check.Outcome:
        ends.append(deadline - now + check.GRACE)
        return check.Outcome("", 0, 1.0)

    now = time.monotonic()
    mine = check.Check("cpu", measure.TOY, True, deadline=now)
    monkeypatch.setattr(check, "run_until", run_until)
    mine.part("step", ["a", "b"])
    mine.part("sampling", ["a", "b"])
    assert ends == pytest.approx([check.SHARES["step"], check.SHARES["step"] + check.SHARES["sampling"]])


def test_what_was_not_reached_and_what_failed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = check.Check("cpu", measure.TOY, True)
    lines = [
        {"case": measure.REFERENCE, "left_out": "out of memory"},
        {"case": "student", "failed": "ValueError: no"},
        {"case": "shared teacher", **{key: value for key, value in ROW.items() if key != "part"}},
    ]
    said = {"step-d2": check.Outcome("noise\n" + "\n".join(map(json.dumps, lines)), None, 1.0)}
    crash = check.Outcome("Aborted (core dumped)\n", -6, 1.0)
    monkeypatch.setattr(check.Check, "part", lambda self, kind, command: said.get(command[1], crash))
    rows = mine.timings(measure.TOY.parts)
    assert [(row["part"], row["case"]) for row in rows] == [("step-d2", "shared teacher")]
    assert f"step-d2: {measure.REFERENCE} (out of memory)" in mine.left_out
    assert "step-d2: separate teacher (out of time)" in mine.left_out
    assert "sampling-d2: bf16 (its process ended: Aborted (core dumped))" in mine.left_out
    assert "step-d2: student (ValueError: no)" in mine.failed
    assert f"sampling-d2: {measure.REFERENCE} (its process ended: Aborted (core dumped))" in mine.failed


def test_a_failing_test_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "tests/gpu/test_device.py::test_a[x y] PASSED [ 50%]\ntests/gpu/test_device.py::test_b FAILED [100%]\n"
    monkeypatch.setattr(check.Check, "part", lambda *_: check.Outcome(said, 1, 1.0))
    mine = check.Check("cpu", measure.TOY, True)
    assert mine.tests() == {"passed": 1, "failed": 1}
    assert mine.failed == ["test test_b"]


def test_the_table_divides_by_the_rivals_of_the_same_part() -> None:
    made = {"mfu": 0.412, "peak_bytes": 3 << 30}
    rows: list[dict[str, Any]] = [
        {**ROW, **made, "case": measure.REFERENCE, "seconds": 0.5},
        {**ROW, **made, "case": "student"},
        {**ROW, "mfu": None, "peak_bytes": None, "case": measure.CODING},
        {**ROW, **made, "part": "step-d24", "case": "student"},
        {**ROW, **made, "part": "compiled-d16", "case": "student, compiled", "seconds": 0.125},
    ]
    report = {
        "device": "NVIDIA X", "toy": False, "commit": "abc", "torch": "2.13", "cuda": "13.0", "date": "2026-01-01",
        "seconds": 300.0, "batch": 64, "tests": {"passed": 12}, "measured": rows, "failed": [],
        "table2": {"seconds": 80.0, "stages_done": 3, "finished": True, "took": {"var": [30.0, 50.0], "tokens": [4.0]}},
        "left_out": ["step-d24: original (out of memory)"],
    }  # fmt: skip
    text = table.text(report)
    assert "| student | 250.0 | 4.0 | 1.0 | 256.0 | 2.00 |  | 41.2% | 3.0 |" in text
    assert f"| {measure.CODING} | 250.0 | 4.0 | 1.0 | 256.0 |  |  |  |  |" in text
    assert "| student | 250.0 | 4.0 | 1.0 | 256.0 |  |  | 41.2% | 3.0 |" in text
    assert "| student, compiled | 125.0 | 8.0 | 1.0 | 256.0 | 4.00 |  | 41.2% | 3.0 |" in text  # those of its depth
    assert "3 stages in 80 s (var: 2 of 40 s; tokens: 1 of 4 s)" in text
    assert "- step-d24: original (out of memory)" in text
    assert "measures nothing" not in text
