"""`python -m studies.run` and `python -m studies` as commands, over toy stages: whole studies without training."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fvar.config import data_of
from fvar.errors import DataChanged, UserError
from fvar.rundir import RunDir, Status, read_status
from studies.engine import commands, outputs, preflight
from studies.run import main
from tests.studies.toy import stage as toy

ROOT = Path(__file__).resolve().parents[2]
TOY_PATH = os.pathsep.join(map(str, (ROOT / "tests" / "studies" / "toy", ROOT)))


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy stages in this process; neither MLflow nor figures, which have tests of their own."""
    monkeypatch.setattr("fvar.run.execute", toy.execute)
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)  # a busy disk takes its time
    monkeypatch.setattr(outputs.Tracker, "start", lambda *_: None)
    monkeypatch.setattr(outputs, "report", lambda results: {})
    monkeypatch.setattr(preflight, "require_buildable", lambda stages: None)


def start(results: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A driver in a process (and session) of its own."""
    command = [sys.executable, "-c", QUIET_DRIVER, "ablation_table2", "--results", str(results), *arguments]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": TOY_PATH, "TOY_SECONDS": "0.02"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=results.parent,
    )


QUIET_DRIVER = """
from fvar.errors import run_main
from studies.engine import outputs, preflight
from studies import run
outputs.Tracker.start = lambda self, say: None
outputs.report = lambda results: {}
preflight.require_buildable = lambda stages: None
run_main(run.main)
"""


def runs(results: Path) -> list[Path]:
    return [path for path in (results / "runs").glob("*-*") if (path / "config.json").exists()]


def working(results: Path) -> int:
    """Stages at work now."""
    return sum(RunDir.open(path).locked for path in runs(results))


def steps(path: Path) -> list[int]:
    return [int(line) for line in (path / "steps").read_text().split()]


# ---------------------------------------------------------------------------------------------------------- the command


def test_dry_run_plans_without_torch_and_without_writing(tmp_path: Path) -> None:
    code = (
        "import sys; from studies.run import main; "
        f"main(['ablation_table2', '--dry-run', '--results', {str(tmp_path / 'none')!r}]); "
        "heavy = {'torch', 'mlflow', 'optuna', 'pandas', 'matplotlib', 'submitit'} & sys.modules.keys(); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "6 cells, 29 distinct stages (37 without sharing), 29 of them to run" in done.stdout
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("preset", ["smoke", "small", "paper"])
@pytest.mark.parametrize(
    "study",
    [
        "ablation_table2",
        "table1",
        "table1_512",
        "sweep_psf_radius",
        "sweep_lambda",
        "search_distillation",
        "text_readability",
    ],
)
def test_every_study_plans_at_every_preset(
    study: str, preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([study, "--preset", preset, "--seeds", "2", "--dry-run", "--results", str(tmp_path)]) == 0
    assert f"preset {preset}:" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["ablation_table3"], ["ablation_table2", "table1"]),
        (["ablation_table2", "--preset", "smok"], ["smoke", "small", "paper"]),
        (["ablation_table2", "--cluster", "cloud"], ["inline", "local", "slurm"]),
        (["ablation_table2", "--only", "ful"], ["full", "baseline", "no_dual"]),
        (["ablation_table2", "--data", "emojis"], ["emoji", "cifar10", "folder"]),
        (["ablation_table2", "--set", "data.dataset=mnist"], ["emoji", "cifar10"]),
        (["ablation_table2", "--set", "var.train.stepz=3"], ["steps", "batch_size"]),
        (["ablation_table2", "--set", "vars.train.steps=3"], ["var", "tokenizer", "slurm"]),
        (["ablation_table2", "--set", "slurm.partitoin=gpu"], ["partition", "gres"]),
        (["../etc"], ["ablation_table2"]),
        (["ablation_table2", "--seeds", "0"], ["--seeds"]),
        (["ablation_table2", "--preset", "paper"], ["--data folder:/path"]),
        (["ablation_table2", "--data", "folder:/no/such/place"], ["/no/such/place is not a folder"]),
        (["ablation_table2", "--profile", "none.toml"], ["name a file, or one that comes with fvar: a100"]),
    ],
)
def test_wrong_command_is_answered_in_one_line_with_what_is_valid(
    arguments: list[str], names: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "studies.run", *arguments, "--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for name in names:
        assert name in done.stderr
    assert not list((tmp_path / "results").glob("runs/*"))


def pets(root: Path, says: str) -> Path:
    """Toy stages read nothing, so any files are a data set; as many of them as a batch of smoke's has."""
    (root / "pets" / "cat").mkdir(parents=True)
    for number in range(8):
        (root / "pets" / "cat" / f"{number}.png").write_text(f"{says} {number}")
    return root / "pets"


def over(results: Path, data: Path, *arguments: str) -> int:
    return main(
        ["ablation_table2", "--only", "baseline", "--results", str(results), "--data", f"folder:{data}", *arguments]
    )


def test_other_images_have_a_table_of_their_own_and_the_same_ones_elsewhere_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    results, first, second = tmp_path / "results", pets(tmp_path / "a", "one"), pets(tmp_path / "b", "two")
    assert over(results, first) == over(results, second) == 0
    labels = sorted(path.name for path in (results / "ablation_table2").iterdir())
    assert len(labels) == 2
    assert all(label.startswith("smoke-pets-") for label in labels)
    titles = {json.loads((results / "ablation_table2" / name / "cells.json").read_text())["title"] for name in labels}
    assert len(titles) == 2
    assert commands.unreferenced(results) == []  # `gc` keeps the models of both
    made = len(runs(results))
    moved = (tmp_path / "a").rename(tmp_path / "elsewhere") / "pets"
    monkeypatch.setattr("fvar.run.execute", lambda path, **_: pytest.fail("trained again"))
    assert over(results, moved) == 0
    assert len(runs(results)) == made
    assert {data.root for path in runs(results) for data in data_of(RunDir.open(path).config)} == {
        str(moved),
        str(second),
    }


def test_images_that_change_while_a_study_runs_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: None
) -> None:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("studies.engine.driver.LOOK_SHARE", 0.0)
    results, data = tmp_path / "results", pets(tmp_path, "one")

    def changing(path: Path, *, echo: bool = False) -> Status:
        (data / "cat" / "0.png").write_text("two")
        return toy.execute(path, echo=echo)

    monkeypatch.setattr("fvar.run.execute", changing)
    with pytest.raises(DataChanged, match="pets changed since this was planned"):
        over(results, data)
    assert sum(read_status(path).state == "done" for path in runs(results)) == 1
    monkeypatch.setattr("fvar.run.execute", toy.execute)
    assert over(results, data) == 0  # as another data set
    assert len(list((results / "ablation_table2").glob("smoke-pets-*"))) == 2


def test_cells_of_other_data_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: None) -> None:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    results, data = tmp_path / "results", pets(tmp_path, "one")
    over(results, data)
    (file,) = results.glob("ablation_table2/*/cells.json")
    before = file.read_text().replace('"content": "', '"content": "0')
    file.write_text(before)
    with pytest.raises(UserError, match="holds cells of other data"):
        over(results, data)
    assert file.read_text() == before


def test_images_named_by_a_setting_are_identified_by_their_content_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: None
) -> None:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    results, data = tmp_path / "results", pets(tmp_path, "one")
    settings = ["--set", "data.dataset=folder", "--set", f"data.root={data}"]
    command = ["ablation_table2", "--only", "baseline", "--results", str(results), *settings]
    for says in ("one", "two"):
        (data / "cat" / "0.png").write_text(says)
        assert main(command) == 0
    assert len(list((results / "ablation_table2").glob("smoke-pets-*"))) == 2
    assert all(data.content for path in runs(results) for data in data_of(RunDir.open(path).config))


def test_results_folder_that_cannot_be_written_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: None
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("fvar.run.execute", lambda path: pytest.fail("trained"))
    with pytest.raises(Exception, match="cannot write to the results folder"):
        main(["ablation_table2", "--results", str(tmp_path / "file" / "results")])


def test_too_little_room_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: None) -> None:
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(Exception, match=r"will write about .* GiB .* are free"):
        main(["ablation_table2", "--results", str(tmp_path)])
    assert not (tmp_path / "runs").exists()


def test_six_variants_share_tokenizers_and_repeating_runs_nothing(
    tmp_path: Path, toys: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablation_table2", "--results", str(tmp_path)]) == 0
    kinds = sorted(path.name.partition("-")[0] for path in runs(tmp_path))
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "tokenizer": 5,
        "tokens": 6,
        "var": 6,
        "samples": 6,
        "scores": 6,
    }
    assert "6 of 6 cells done" in capsys.readouterr().out
    assert main(["ablation_table2", "--results", str(tmp_path)]) == 0
    assert all((path / "attempts").read_text().count("\n") == 1 for path in runs(tmp_path))


@pytest.mark.parametrize(("study", "cells", "tokenizers"), [("sweep_psf_radius", 7, 14), ("sweep_lambda", 16, 2)])
def test_sweeps_run_to_their_end(study: str, cells: int, tokenizers: int, tmp_path: Path, toys: None) -> None:
    assert main([study, "--results", str(tmp_path)]) == 0
    kinds = [path.name.partition("-")[0] for path in runs(tmp_path)]
    assert (kinds.count("scores"), kinds.count("tokenizer")) == (cells, tokenizers)


def test_search_runs_its_trials_on_one_pair_of_tokenizers_and_goes_on_where_it_was(tmp_path: Path, toys: None) -> None:
    assert main(["search_distillation", "--trials", "3", "--results", str(tmp_path)]) == 0
    first = set(runs(tmp_path))
    assert main(["search_distillation", "--trials", "8", "--results", str(tmp_path)]) == 0
    kinds = [path.name.partition("-")[0] for path in runs(tmp_path)]
    assert first < set(runs(tmp_path))
    assert (kinds.count("scores"), kinds.count("tokenizer"), kinds.count("tokens")) == (8, 2, 2)
    assert all((path / "attempts").read_text().count("\n") == 1 for path in runs(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="torch is safe to fork on Linux only")
def test_stages_of_this_machine_start_with_torch_imported_once_one_has_followed_another(tmp_path: Path) -> None:
    local = "--only", "baseline", "--cluster", "local", "--jobs", "1"
    driver = start(tmp_path / "results", *local, TOY_STEPS="4", TOY_SECONDS="1")
    said, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, said
    attempts = [(path / "attempts").read_text() for path in runs(tmp_path / "results")]
    forked = [line.split()[1] == "True" for _, line in sorted((int(text.split()[0]), text) for text in attempts)]
    assert len(forked) == 5
    assert not any(forked[:2])  # the second starts beside the server
    assert forked[-1]


def test_only_runs_one_variant_but_records_all_cells(tmp_path: Path, toys: None) -> None:
    assert main(["ablation_table2", "--only", "no_teacher", "--results", str(tmp_path)]) == 0
    assert len(runs(tmp_path)) == 5
    cells = json.loads((tmp_path / "ablation_table2" / "smoke" / "cells.json").read_text())["cells"]
    assert len(cells) == 6


def test_changed_settings_go_to_a_folder_of_their_own(tmp_path: Path, toys: None) -> None:
    arguments = ["ablation_table2", "--only", "baseline", "--results", str(tmp_path)]
    assert main([*arguments, "--set", "train.steps=7", "--set", "slurm.time=1:00:00"]) == 0
    (folder,) = (tmp_path / "ablation_table2").iterdir()
    assert folder.name.startswith("smoke-")
    body = json.loads((folder / "cells.json").read_text())
    assert body["settings"] == ["train.steps=7"]
    assert body["title"].endswith("with train.steps=7")  # no table passes for the preset's
    trained = [RunDir.open(path).config for path in runs(tmp_path) if path.name.startswith(("var", "tokenizer"))]
    assert [config.train.steps for config in trained] == [7, 7]  # type: ignore[attr-defined]


def test_failure_ends_with_its_log_and_status_one_and_retry_undoes_it(
    tmp_path: Path, toys: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from studies.__main__ import main as studies

    where = ["--results", str(tmp_path)]
    monkeypatch.setenv("TOY_FAIL", "samples")
    assert main(["ablation_table2", "--only", "full", "--only", "baseline", *where]) == 1
    shown = capsys.readouterr().out
    assert "ValueError: the toy broke" in shown
    assert "python -m studies retry ablation_table2" in shown
    monkeypatch.delenv("TOY_FAIL")
    assert main(["ablation_table2", "--only", "full", *where]) == 1  # never retried blindly
    assert studies(["status", "ablation_table2", *where]) == 1
    assert studies(["logs", "ablation_table2", "full", *where]) == 0
    assert "the toy broke" in capsys.readouterr().out
    assert studies(["retry", "ablation_table2", "full", *where]) == 0
    assert main(["ablation_table2", "--only", "full", *where]) == 0


def test_commands_find_cells_and_leave_named_runs_alone(
    tmp_path: Path, toys: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from studies.__main__ import main as studies

    where = ["--results", str(tmp_path)]
    main(["ablation_table2", *where])
    assert studies(["status", "ablation_table2", *where]) == 0
    assert studies(["list", *where]) == 0
    assert "started at: smoke" in capsys.readouterr().out
    assert studies(["diff", "ablation_table2", "full", "no_teacher", *where]) == 0
    assert "var.teacher: " in capsys.readouterr().out
    main(["ablation_table2", "--only", "full", "--set", "var.train.steps=9", *where])
    changed = next((tmp_path / "ablation_table2").glob("smoke-*"))
    (changed / "cells.json").unlink()
    before = set(runs(tmp_path))
    studies(["gc", *where])
    assert set(runs(tmp_path)) == before  # only told
    studies(["gc", "--delete", *where])
    assert len(runs(tmp_path)) == 29
    assert len(before) > 29


@pytest.mark.parametrize("study", ["ablation_table2", "search_distillation"])
@pytest.mark.parametrize("damage", [b"\xff\x00", b"null", b'{"cells": [{"name": 7}]}'])
def test_repeating_the_command_heals_a_damaged_cells_json(
    study: str, damage: bytes, tmp_path: Path, toys: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from studies.__main__ import main as studies

    command = [study, "--trials", "2", "--only", "*", "--results", str(tmp_path)]
    assert main(command) == 0
    file = tmp_path / study / "smoke" / "cells.json"
    before = file.read_bytes()
    file.write_bytes(damage)
    capsys.readouterr()
    for look in (["status", study], ["gc", "--delete"]):  # what nobody can read may name anything
        with pytest.raises(UserError, match=f"cells.json.* repeat .* python -m studies.run {study} --preset smoke$"):
            studies([*look, "--results", str(tmp_path)])
    assert studies(["status", "--results", str(tmp_path)]) == 2
    assert f"{study} --preset smoke: {file}" in capsys.readouterr().out
    assert main(command) == 0
    assert file.read_bytes() == before
    assert all((path / "attempts").read_text().count("\n") == 1 for path in runs(tmp_path))


def test_second_driver_is_told_who_drives(tmp_path: Path) -> None:
    first = start(tmp_path / "results", TOY_STEPS="200")
    try:
        lock = tmp_path / "results" / "ablation_table2" / "smoke" / "driver.lock"
        wait_until(lambda: lock.exists() and lock.read_text() != "")
        second = start(tmp_path / "results")
        said, _ = second.communicate(timeout=200)
        assert second.returncode == 2
        assert f"process {first.pid} on" in said
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


# ---------------------------------------------------------------------------------------------------- killed, continued


def wait_until(condition: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_inline_driver_killed_three_times_continues_to_the_same_end(tmp_path: Path) -> None:
    results, chance = tmp_path / "results", random.Random(0)
    for _ in range(3):
        driver = start(results, "--only", "full")
        before = sum(len(steps(path)) for path in runs(results) if (path / "steps").exists())
        goal = before + chance.randint(1, 4)
        wait_until(lambda goal=goal: sum(len(steps(p)) for p in runs(results) if (p / "steps").exists()) >= goal)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
    last = start(results, "--only", "full")
    said, _ = last.communicate(timeout=200)
    assert last.returncode == 0, said
    for path in runs(results):
        assert read_status(path).state == "done"
        assert sorted(set(steps(path))) == [0, 1, 2]
        assert len(steps(path)) <= 3 + 3  # a kill repeats one step at most


def test_local_jobs_outlive_a_killed_driver_and_are_attached_again(tmp_path: Path) -> None:
    results = tmp_path / "results"
    arguments = ("--only", "baseline", "--cluster", "local", "--jobs", "2")
    driver = start(results, *arguments, TOY_STEPS="60")
    wait_until(lambda: [p for p in runs(results) if read_status(p).state == "running"])
    os.kill(driver.pid, signal.SIGKILL)  # the driver alone
    driver.wait()
    left = working(results)
    second = start(results, *arguments, TOY_STEPS="60")
    said, _ = second.communicate(timeout=200)
    driver.communicate()
    assert left == 1
    assert second.returncode == 0, said
    for path in runs(results):
        assert steps(path) == list(range(60)), path
        assert (path / "attempts").read_text().count("\n") == 1, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_local_keeps_its_limit_and_ends_its_jobs_when_stopped(tmp_path: Path, number: int) -> None:
    results = tmp_path / "results"
    driver = start(results, "--cluster", "local", "--jobs", "2", TOY_STEPS="400")
    wait_until(lambda: working(results) >= 2)
    most = 0
    for _ in range(40):
        time.sleep(0.05)
        most = max(most, working(results))
    driver.send_signal(number)
    said, _ = driver.communicate(timeout=200)
    assert most == 2
    assert driver.returncode == 130, said
    assert "repeat the same command" in said
    assert working(results) == 0
    assert {read_status(p).state for p in runs(results)} <= {"waiting", "interrupted"}


@pytest.mark.parametrize("name", ["100%j %A%a%t", 'a:b it\'s "odd"', "q?x#y%20[z]*\ntwo"])
def test_a_local_study_runs_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    results = tmp_path / "home" / name
    results.mkdir(parents=True)
    arguments = ["--cluster", "local", "--jobs", "2", "--only", "baseline"]
    driver = start(results, *arguments, TOY_SECONDS="0", FVAR_CACHE=str(tmp_path / "cache"))
    output = driver.communicate(timeout=240)[0]
    assert driver.returncode == 0, output
    assert {read_status(path).state for path in runs(results)} == {"done"}
    assert all(list((path / "submitit").glob("*_0_log.out")) for path in runs(results))
    assert [path.name for path in results.parent.iterdir()] == [name]
