"""Searches and grids as studies: over made-up results, one round of the driver at a time."""

from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
import sys
import threading
import wsgiref.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.report import facts
from analysis.results import StudyResults
from fvar.config import RuntimeConfig, SamplesConfig
from fvar.errors import UserError
from fvar.job import JobRecord
from fvar.rundir import RunDir, Status, read_status
from studies import presets, search_distillation, search_pyramid, search_tokenizer, search_training
from studies.engine import preflight
from studies.engine.search.definition import Search
from studies.engine.search.record import row
from studies.engine.search.space import Uniform, require_inside
from studies.engine.settings import Settings, option
from studies.run import main
from studies.study import Cell, Context, Options, record
from studies.tracking import describe
from studies.variants import chain
from tests import fakes
from tests.studies.test_run import ROOT, toys
from tests.studies.toy import stage as toy

__all__ = ["toys"]
SEARCHES = [module.SEARCH for module in (search_distillation, search_pyramid, search_tokenizer, search_training)]


def drive(ctx: Context, ends: int, fail: tuple[str, ...] = (), die: tuple[str, ...] = ()) -> list[Cell]:
    """One round of the driver: ask the study for cells, record them, and let up to `ends` open ones end."""
    cells = list(ctx.study.cells(ctx))
    record(ctx, cells)
    for cell in cells:
        run = RunDir.create(ctx.results / "runs", cell.stage, RuntimeConfig())
        if not ends or run.status.state != "waiting" or cell.pruned:
            continue
        ends -= 1
        var = next(stage for stage in cell.stage.chain() if stage.kind == "var")
        trained = RunDir.open(ctx.results / "runs" / var.name)
        if cell.name in fail:
            trained.update(state="failed", error="ValueError: diverged")
        elif cell.name in die:
            JobRecord("slurm", ended="out of memory").write(trained)
            trained.update(state="failed", error="out of memory")
        else:
            fakes.finish(ctx.results, cell.stage, quality=1 / cell.params["lambda_feat"], seed=0)
    return cells


@pytest.fixture
def ctx(tmp_path: Path, blank_optuna: bytes) -> Context:
    return context(tmp_path, blank_optuna)


def context(results: Path, blank: bytes, **options: Any) -> Context:
    (results / "optuna.db").write_bytes(blank)
    small = replace(presets.PRESETS["smoke"], sampling=SamplesConfig(count=fakes.COUNT))
    made = Context(
        search_distillation.STUDY, small, results=results, width=2, options=Options(**{"trials": 8, **options})
    )
    assert made.study.prepare
    return made.study.prepare(made)


def trials(ctx: Context) -> dict[int, dict[str, Any]]:
    """What search.json says, by number."""
    found = json.loads((ctx.folder / "search.json").read_text())["trials"]
    return {trial["number"]: trial for trial in found}


def test_eight_trials_run_two_at_a_time_and_share_their_tokenizers(ctx: Context) -> None:
    for _ in range(6):
        cells = drive(ctx, ends=2)
        open_now = [cell for cell in ctx.read().cells if cell.state[0] == "waiting"]
        assert len(open_now) <= 2
    assert [cell.name for cell in cells] == [f"trial{number:03d}" for number in range(8)]
    assert len({cell.stage.name for cell in cells}) == 8
    assert len([path for path in (ctx.results / "runs").iterdir() if path.name.startswith("tokenizer")]) == 2


def test_scores_reach_optuna_and_a_failed_trial_does_not_stop_the_search(ctx: Context) -> None:
    for _ in range(7):
        drive(ctx, ends=2, fail=("trial002",))
    told, results = trials(ctx), {cell.name: cell for cell in ctx.read().cells}
    assert len(told) == 8
    assert told[2]["state"] == "failed"
    assert "diverged" in told[2]["reason"]
    done = [trial for trial in told.values() if trial["state"] == "done"]
    assert len(done) == 7
    assert all(trial["values"] == [results[trial["cell"]].score("kid")] for trial in done)


def test_a_trial_whose_job_died_goes_on_as_another_trial_once(ctx: Context) -> None:
    for _ in range(10):
        cells = drive(ctx, ends=2, die=("trial000", "trial001"))
    told = trials(ctx)
    again = {trial["again_of"]: trial for trial in told.values() if trial["again_of"] is not None}
    assert set(again) == {0, 1}
    assert [told[number]["state"] for number in (0, 1)] == ["failed"] * 2
    assert all(trial["params"] == told[number]["params"] for number, trial in again.items())
    assert all(trial["state"] == "done" for trial in again.values())
    assert len(told) == 8 + 2
    assert {cell.name for cell in cells} == {f"trial{number:03d}" for number in range(2, 10)}


def test_a_tokenizer_that_failed_stops_the_search_instead_of_failing_every_trial(ctx: Context) -> None:
    (first, *_) = drive(ctx, ends=0)
    tokenizer = RunDir.open(ctx.results / "runs" / next(first.stage.chain()).name)
    tokenizer.update(state="failed", error="ValueError: broke")
    for _ in range(3):
        assert len(drive(ctx, ends=0)) == 2
    assert {trial["state"] for trial in trials(ctx).values()} == {"running"}


def test_settings_of_the_command_reach_every_trial(tmp_path: Path, blank_optuna: bytes) -> None:
    """A trial's score is looked for where the changed stages put it."""
    settings = Settings.parse(["var.train.steps=7"])
    ctx = replace(context(tmp_path, blank_optuna), changed=settings.apply)
    (cell, _) = settings.apply(list(ctx.study.cells(ctx)))
    record(ctx, [cell])
    fakes.finish(tmp_path, cell.stage, 0.5, 0)
    list(ctx.study.cells(ctx))
    assert trials(ctx)[0]["state"] == "done"


def test_running_trials_are_pruned_by_what_their_training_logs(tmp_path: Path, blank_optuna: bytes) -> None:
    ctx = context(tmp_path, blank_optuna, pruner="median", trials=9)
    assert ctx.study.stirred
    for _ in range(3):
        drive(ctx, ends=2)
    (poor, good) = [cell for cell in drive(ctx, ends=0) if ctx.result(cell).state[0] == "waiting"]
    for cell, loss in ((poor, 9.0), (good, 1.0)):
        var = next(stage for stage in cell.stage.chain() if stage.kind == "var")
        RunDir.open(tmp_path / "runs" / var.name).log_metrics(40, {"cross_entropy": loss}, split="heldout")
    assert ctx.study.stirred(ctx)
    assert not ctx.study.stirred(ctx)
    cells = {cell.name: cell for cell in ctx.study.cells(ctx)}
    record(ctx, cells.values())
    assert "by median at step 40, with 9" in cells[poor.name].pruned
    assert not cells[good.name].pruned
    states = {cell.name: cell.state for cell in ctx.read().cells}
    assert states[poor.name] == ("pruned", cells[poor.name].pruned)
    assert len([name for name, (state, _) in states.items() if state == "waiting"]) == 2  # another one was asked for


def get(app: Any, path: str) -> tuple[str, bytes]:
    """What a WSGI application answers: status and body."""
    environment: dict[str, Any] = {"PATH_INFO": path}
    wsgiref.util.setup_testing_defaults(environment)
    statuses: list[str] = []
    body = b"".join(app(environment, lambda status, headers, *_: statuses.append(status)))
    return statuses[0], body


def test_optuna_dashboard_lists_the_search_with_its_figures_and_table(ctx: Context) -> None:
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    drive(ctx, ends=2)
    list(ctx.study.cells(ctx))
    table, figure = ctx.folder / "trials.md", ctx.folder / "search_history.png"
    assert ctx.study.publish
    for picture in (b"first", b"second"):  # drawn again, a figure takes the place of the earlier one
        table.write_text(f"# The best of {picture.decode()}")
        figure.write_bytes(picture)
        ctx.study.publish(ctx, [table, figure])
    app = wsgi(f"sqlite:///{ctx.results}/optuna.db", FileSystemArtifactStore(ctx.results / "optuna-artifacts"))
    (listed,) = json.loads(get(app, "/api/studies")[1])["study_summaries"]
    assert listed["study_name"].startswith("search_distillation/smoke@")
    shown = json.loads(get(app, f"/api/studies/{listed['study_id']}")[1])
    assert [trial["state"] for trial in shown["trials"]] == ["Complete", "Complete", "Running", "Running"]
    assert shown["note"]["body"] == "# The best of second"
    (artifact,) = shown["artifacts"]
    assert get(app, f"/artifacts/{listed['study_id']}/{artifact['artifact_id']}") == ("200 OK", b"second")


def test_the_command_that_makes_a_search_again_is_kept_without_a_password(tmp_path: Path) -> None:
    storage = "postgresql://u:secret@h/db"
    options = Options(trials=32, pruner="median", objectives=("score", "hours"), storage=storage)
    assert options.words() == ("--trials", "32", "--pruner", "median", "--objectives", "score,hours")


def test_a_dry_run_opens_no_store(tmp_path: Path) -> None:
    ctx = Context(search_distillation.STUDY, presets.PRESETS["paper"], results=tmp_path / "results", dry=True)
    assert len(list(ctx.study.cells(ctx))) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("preset", presets.ROWS, ids=lambda preset: preset.name)
@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
def test_every_search_starts_from_the_preset_itself_and_ends_of_its_space_are_valid(
    search: Search, preset: presets.Preset, tmp_path: Path
) -> None:
    """So that a search after the ablation starts with a finished cell."""
    ctx = Context(search.study(), preset, results=tmp_path, dry=True)
    space, points = search.space(preset), search.first(preset)
    require_inside(space, points)
    assert next(iter(ctx.study.cells(ctx))).stage == chain(preset, "full", 0)
    for end in (0, -1):
        point = {
            name: (axis.low, axis.high)[end] if isinstance(axis, Uniform) else axis.options[end]
            for name, axis in space.items()
        }
        stage = search._cell(ctx, 0, point).stage
        assert stage.signature != chain(preset, "full", 0).signature


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
def test_the_best_as_a_preset_s_row_and_its_set_options_give_the_trial_s_very_stage(
    search: Search, tmp_path: Path
) -> None:
    smoke = presets.PRESETS["smoke"]
    ctx = Context(search.study(), smoke, results=tmp_path, dry=True)
    point = dict(search.first(smoke)[0])
    for name, axis in search.space(smoke).items():
        point[name] = (axis.low + axis.high) / 2 if isinstance(axis, Uniform) else axis.options[-1]
    wanted = search._cell(ctx, 0, point).stage
    settings = search.settings(smoke, point)
    text, _, left = row("smoke", 7, settings).partition("  # and ")
    made = eval(text, {"replace": replace, "PRESETS": presets.PRESETS})  # what a user pastes into presets.py
    assert made.name == "smoke-trial007"
    rest = Settings.parse(word for word in shlex.split(left) if word != "--set")
    whole = Settings.parse(option(path, value) for path, value in settings.items())
    for preset, options in ((made, rest), (whole.on_preset(smoke), whole)):
        (cell,) = options.apply([Cell("full", "", 0, {}, chain(preset, "full", 0))])
        assert cell.stage.signature == wanted.signature


def test_a_second_driver_is_refused_before_it_asks_or_tells_anything(
    tmp_path: Path, blank_optuna: bytes, toys: None
) -> None:
    (tmp_path / "optuna.db").write_bytes(blank_optuna)
    with (
        preflight.driver_lock(tmp_path / "search_training" / "smoke"),
        pytest.raises(UserError, match="is being driven by"),
    ):
        main(["search_training", "--trials", "2", "--results", str(tmp_path)])
    with sqlite3.connect(tmp_path / "optuna.db") as store:
        assert store.execute("SELECT count(*) FROM trials").fetchone() == (0,)


def test_a_store_that_goes_away_on_the_way_is_waited_for_and_nothing_is_lost(
    tmp_path: Path, blank_optuna: bytes, toys: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("studies.database.PATIENCE", "studies.engine.search.store.PATIENCE"):
        monkeypatch.setattr(place, 0.1)
    (tmp_path / "optuna.db").write_bytes(blank_optuna)
    held = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None, check_same_thread=False)

    def holding(path: Path, *, echo: bool = False) -> Status:
        """The store is held from the end of the first trial's training on, for a while."""
        done = toy.execute(path, echo=echo)
        if path.name.startswith("var-") and not list(tmp_path.glob("runs/scores-*/attempts")):
            held.execute("BEGIN EXCLUSIVE")
            threading.Timer(2.0, held.execute, ["ROLLBACK"]).start()
        return done

    monkeypatch.setattr("fvar.run.execute", holding)
    assert main(["search_training", "--trials", "2", "--pruner", "median", "--results", str(tmp_path)]) == 0
    assert "not now: the search's store" in capsys.readouterr().out
    (file,) = (tmp_path / "search_training").glob("*/search.json")
    assert [trial["state"] for trial in json.loads(file.read_text())["trials"]] == ["done", "done"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search_training", "--sampler", "tppe"], ["unknown sampler", "tpe"]),
        (["search_training", "--pruner", "medan"], ["unknown pruner", "median", "hyperband", "wilcoxon"]),
        (["search_training", "--pruner", "median", "--objectives", "score,hours"], ["2 objectives"]),
        (["search_training", "--objectives", "fid"], ["unknown objective", "score"]),
        (["search_training", "--storage", "postgresql+psycopg9://127.0.0.1:1/x"], ["cannot be used"]),
        (["search_training", "--storage", "sqlite:////no/such/folder/x.db"], ["unable to open"]),
        (["search_pyramid", "--pruner", "median"], ["draws none", "--set var.curve.every=STEPS"]),
        (["search_training", "--grid", "var.train.lr=1"], ["--grid means nothing to search_training"]),
        (["ablation_table2", "--sampler", "tpe"], ["--sampler means nothing to ablation_table2"]),
        (["search_training", "--parallel", "-1"], ["--parallel must be at least 0"]),
        (["grid"], ["add --grid KIND.PATH=VALUE,VALUE"]),
        (["grid", "--grid", "var.train.lrr=1,2"], ["unknown key in VarConfig.train", "'lr'", "warmup"]),
        (["grid", "--grid", "vars.train.lr=1,2"], ["unknown first part", "var"]),
        (["grid", "--grid", "var.train.lr"], ["write KIND.PATH=VALUE,VALUE"]),
        (["grid", "--grid", "var.train.lr=1,1"], ["a value twice"]),
        (["grid", "--grid", "var.train.lr=1", "--grid", "var.train.lr=2"], ["a setting twice"]),
        (["grid", "--variant", "ful", "--grid", "var.train.lr=1,2"], ["unknown variant", "full"]),
        (["grid", "--variant", "baseline", "--grid", "var.teacher.blocks=1,2"], ["no stage of this study"]),
    ],
)
def test_a_wrong_command_is_one_line_and_submits_nothing(arguments: list[str], says: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        main([*arguments, "--results", str(tmp_path / "results")])
    for words in says:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "results").glob("runs/*"))


def test_such_a_command_ends_with_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "studies.run", "search_training", "--sampler", "tppe", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_grid_is_every_combination_and_named_after_what_varies(tmp_path: Path, toys: None) -> None:
    settings = ("var.distill.lambda_feat=0.5,1", "tokenizer.train.lr=1e-4", "var.train.lr=1e-4,3e-4")
    grid = [word for setting in settings for word in ("--grid", setting)]
    assert main(["grid", "--variant", "full", *grid, "--seeds", "2", "--results", str(tmp_path)]) == 0
    (folder,) = (tmp_path / "grid").iterdir()
    assert folder.name.startswith("smoke-full-lambda_feat+tokenizer.train.lr+var.train.lr-")
    results = StudyResults.read(tmp_path, "grid", folder.name)
    assert results.title == "FVAR (full) over lambda_feat and tokenizer.train.lr and var.train.lr"
    assert len(results.cells) == 2 * 2 * 2
    typed = facts.command(facts.record(results))
    assert typed.endswith("--variant full " + " ".join(grid))
    assert describe.command(facts.record(results)).endswith(" ".join(grid))
    assert results.cells[0].name == "lambda_feat=0.5+tokenizer.train.lr=1e-4+var.train.lr=1e-4/seed0"
    assert results.references == (results.cells[0].variant,)
    values = {(c.params["lambda_feat"], c.params["var.train.lr"]) for c in results.cells}
    assert values == {(0.5, 1e-4), (0.5, 3e-4), (1, 1e-4), (1, 3e-4)}
    trained = {c.chain["var"].config.train.lr for c in results.cells}  # type: ignore[attr-defined]
    assert trained == {1e-4, 3e-4}


def test_values_within_brackets_stay_together(tmp_path: Path) -> None:
    from studies.grid import Varied

    assert Varied.parse("tokenizer.pyramid.patch_nums=[1,2,4],[2,4]").values == ("[1,2,4]", "[2,4]")


def test_a_field_of_the_preset_can_be_set(tmp_path: Path, toys: None) -> None:
    arguments = ["ablation_table2", "--only", "full", "--set", "preset.alias_vocab=32", "--results", str(tmp_path)]
    assert main(arguments) == 0
    sizes = {
        RunDir.open(path).config.quantiser.vocab_size  # type: ignore[attr-defined]
        for path in (tmp_path / "runs").glob("tokenizer-*")
    }
    assert sizes == {512, 32}
    assert all(read_status(path).state == "done" for path in (tmp_path / "runs").glob("scores-*"))
