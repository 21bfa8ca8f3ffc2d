"""Looking at large studies, and at cells in every state."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from analysis import cells
from analysis.cells import Place
from analysis.results import CellResult
from fvar.config import RuntimeConfig
from fvar.errors import UserError
from fvar.rundir import RunDir, Status
from studies.__main__ import main as look
from studies.engine import commands
from studies.engine.live import View, duration, row
from studies.engine.nodes import Node
from studies.presets import preset
from studies.run import main
from studies.study import Cell
from studies.variants import chain
from tests.counting import files_opened
from tests.studies.test_run import ROOT, toys  # noqa: F401


def large_study(results: Path, count: int) -> None:
    """cells.json and statuses as a half-finished study leaves them."""
    entries = []
    for number in range(count):
        names = [f"{kind}-{number:016x}" for kind in ("tokenizer", "tokens", "var", "samples", "scores")]
        entries.append({"name": f"cell{number}", "variant": f"cell{number}", "chain": names})
        for name in names:
            (results / "runs" / name).mkdir(parents=True)
            state = "done" if number % 2 else "waiting"
            (results / "runs" / name / "status.json").write_text(json.dumps({"state": state, "step": 1, "steps": 1}))
    folder = results / "big" / "smoke"
    folder.mkdir(parents=True)
    (folder / "cells.json").write_text(json.dumps({"title": "Big", "cells": entries}))


def test_status_opens_one_file_per_finished_cell_and_three_per_stage_of_others(tmp_path: Path) -> None:
    large_study(tmp_path, 40)
    with files_opened() as opened:
        rows = list(commands.status_rows(cells.read(Place(tmp_path, "big", "smoke"))))
    assert [line.state for line in rows].count("done") == 20
    found = Counter(Path(path).parent.name for path in opened if "runs" in Path(path).parts)
    looked_at = {f"scores-{number:016x}": 1 for number in range(1, 40, 2)}
    for number in range(0, 40, 2):  # status, lock and job
        looked_at |= {f"{kind}-{number:016x}": 3 for kind in ("tokenizer", "tokens", "var", "samples", "scores")}
    assert found == looked_at
    assert len(opened) == len(list(found.elements())) + 1  # and cells.json


def test_a_cell_is_queued_once_a_job_was_submitted_for_it(tmp_path: Path) -> None:
    large_study(tmp_path, 4)
    record = {"cluster": "slurm", "job_id": "7_0"}
    (tmp_path / "runs" / f"var-{0:016x}" / "job.json").write_text(json.dumps(record))
    (tmp_path / "runs" / f"var-{2:016x}" / "job.json").write_text(json.dumps({**record, "job_id": ""}))
    rows = commands.status_rows(cells.read(Place(tmp_path, "big", "smoke")))
    assert [line.state for line in rows] == ["queued", "done", "waiting", "done"]


def test_status_needs_neither_torch_nor_tables(tmp_path: Path) -> None:
    large_study(tmp_path, 2)
    code = (
        "import sys; from studies.__main__ import main; "
        f"main(['status', 'big', '--results', {str(tmp_path)!r}]); "
        "heavy = {'torch', 'mlflow', 'optuna', 'pandas', 'matplotlib', 'submitit'} & sys.modules.keys(); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "cell1" in done.stdout


def test_unknown_study_and_cell_are_answered_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no study yet"):
        cells.find(tmp_path, "big", "smoke")
    large_study(tmp_path, 2)
    with pytest.raises(UserError, match="did you mean 'big --preset smoke'"):
        cells.find(tmp_path, "bigg", "smoke")
    with pytest.raises(UserError, match="valid: cell0, cell1"):
        cells.read(cells.find(tmp_path, "big", "smoke")).select(["cell7"])


@pytest.mark.parametrize("command", ["gc", "status"])
def test_a_mistyped_results_folder_is_not_taken_for_an_empty_one(tmp_path: Path, command: str) -> None:
    with pytest.raises(UserError, match="there is no results folder"):
        look([command, "--results", str(tmp_path / "resluts")])


def test_a_kind_that_cannot_be_recomputed_is_said_before_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="did you mean 'tokenizer'"):
        main(["ablation_table2", "--dry-run", "--results", str(tmp_path), "--recompute", "tokenizr"])
    assert capsys.readouterr().out == ""


def test_a_study_is_found_without_its_preset_where_there_is_only_one(tmp_path: Path) -> None:
    large_study(tmp_path, 1)
    (tmp_path / "big" / "smoke").rename(tmp_path / "big" / "small-1f0c3a")
    assert cells.find(tmp_path, "big").preset == "small-1f0c3a"
    with pytest.raises(UserError, match="did you mean 'big --preset small-1f0c3a'"):
        cells.find(tmp_path, "big", "smoke")


def test_cancelled_cell_stays_so_until_retried_and_spares_what_others_share(
    tmp_path: Path,
    toys: None,  # noqa: F811
) -> None:
    from studies.__main__ import main as studies

    where = ["--results", str(tmp_path)]
    main(["ablation_table2", "--only", "baseline", *where])
    assert studies(["cancel", "ablation_table2", "full", *where]) == 0  # nothing was made for it yet
    main(["ablation_table2", "--only", "gaussian", *where])
    found = cells.read(Place(tmp_path, "ablation_table2", "smoke"))
    victim = found.select(["gaussian"])[0].chain[-1]
    (tmp_path / "runs" / victim / "status.json").unlink()
    assert studies(["cancel", "ablation_table2", "gaussian", *where]) == 0
    assert main(["ablation_table2", "--only", "gaussian", *where]) == 1
    assert studies(["retry", "ablation_table2", *where]) == 0
    assert main(["ablation_table2", "--only", "gaussian", *where]) == 0


# ------------------------------------------------------------------------------------------------------------ live view


def test_row_shows_the_stage_that_moves() -> None:
    statuses = {"var-b": Status("running", step=30, steps=300, loss=5.4321, rate=88.2, eta=61)}
    line = row(
        "full/seed0", ["tokenizer-a", "var-b", "scores-c"], {"var-b": "running", "scores-c": "waiting"}, statuses
    )
    assert (line.state, line.stage, line.step, line.loss) == ("running", "var", "30/300", "5.432")
    assert (line.rate, line.eta) == ("88", "1:01")


def test_row_of_a_blocked_cell_shows_the_error_above_it() -> None:
    statuses = {"tokenizer-a": Status("failed", error="Traceback\nValueError: broken")}
    line = row("full", ["tokenizer-a", "var-b"], {"tokenizer-a": "failed", "var-b": "blocked"}, statuses)
    assert (line.state, line.stage, line.note) == ("blocked", "tokenizer", "ValueError: broken")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3661, "1:01:01")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_events_are_plain_lines() -> None:
    out = io.StringIO()
    view = View("title", out)
    view.follow([Cell("full", "FVAR", 0, {}, chain(preset("smoke"), "full", 0))])
    with view.showing():
        view.say("hello")
    assert out.getvalue() == "[0:00] hello\n"


def test_warning_of_a_stage_reaches_a_driver_without_a_terminal(tmp_path: Path) -> None:
    stage = next(iter(chain(preset("smoke"), "baseline", 0).chain()))
    run = RunDir.create(tmp_path, stage, RuntimeConfig())
    run.update(state="done", seconds=3.0, note="checkpoint 75 is damaged; continued from 35")
    out = io.StringIO()
    View("title", out).changed(Node(stage, run, None, state="done", status=run.status), "running")
    assert out.getvalue() == f"[0:00] done      {run.name} in 0:03; checkpoint 75 is damaged; continued from 35\n"


def test_a_full_disk_under_the_output_costs_lines_and_never_the_study() -> None:
    out = open("/dev/full", "w")  # noqa: SIM115
    View("title", out).say("x" * 100_000)
    with pytest.raises(OSError, match="No space left"):
        print("what others write", file=out, flush=True)
    with contextlib.suppress(OSError):
        out.close()


@pytest.mark.parametrize("name", ["../up", "a//b", "", "a b", "/abs", "a/../b"])
def test_cell_names_with_path_characters_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="cell name"):
        Cell(name or " ", "label", 0, {}, chain(preset("smoke"), "full", 0), name=name or " ")


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"null", b"[1]", b'{"fid": 7}', None])
def test_damaged_scores_are_told_in_one_line_with_what_heals_them(tmp_path: Path, content: bytes | None) -> None:
    stage = chain(preset("smoke"), "full", 0)
    run = RunDir.create(tmp_path, stage, RuntimeConfig())
    run.update(state="done")
    if content is not None:
        (run.path / "scores.json").write_bytes(content)
    found = CellResult("a", "a", "a", 0, {}, {"scores": run.name}, tmp_path, (run.name,))
    with pytest.raises(UserError, match=r"scores\.json .*--recompute scores$"):
        found.score("fid")
