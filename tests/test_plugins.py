"""Stage kinds of one's own: declared in a module, run by the same engine, shown in the same tables."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from analysis import table
from fvar import config, plugins
from fvar.errors import UserError
from fvar.rundir import RunDir
from studies.engine import outputs, preflight
from studies.engine.backends import sbatch
from studies.engine.backends.snapshot import snapshot
from studies.engine.profile import Profile, Resources
from studies.run import main
from studies.study import names, study

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = "docs.examples.classifier_study"
TOY = """
from dataclasses import dataclass
from typing import ClassVar

from analysis.metrics import Metric
from fvar.config import Stage, StageConfig
from fvar.plugins import StageKind
from studies.study import Cell, Study


@dataclass(frozen=True)
class HalfConfig(StageConfig):
    kind: ClassVar[str] = "half"
    REVISION: ClassVar[int] = 1
    of: float = 1.0


@dataclass(frozen=True)
class SumConfig(StageConfig):
    kind: ClassVar[str] = "sum"
    REVISION: ClassVar[int] = 1
    more: float = 0.0
    seed: int = 0


def halve(run):
    (run.path / "half").write_text(str(run.config.of / 2))


def add(run):
    calls = run.path / "calls"
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    total = float((run.input("half").path / "half").read_text()) + run.config.more + run.config.seed
    return {"total": total, "wild": float("nan")}


def cells(ctx):
    for variant, more in {"full": 0.0, "more": 1.0}.items():
        for seed in range(ctx.seeds):
            stage = Stage(SumConfig(more, seed), {"half": Stage(HalfConfig(3.0))})
            yield Cell(variant, variant, seed, {"more": more}, stage)


STAGES = (StageKind(HalfConfig, halve), StageKind(SumConfig, add, {"half": "half"}, ("total", "wild")))
STUDY = Study("sums", "Sums", cells, columns=(Metric("total", "Total", 1, "higher"), Metric("wild", "Wild", 1)))
"""


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes a plugin module that can be imported; whatever is registered is forgotten afterwards."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    registries: list[dict[str, Any]] = [plugins.KINDS, plugins.MODULES, config.PLUGINS, config.STAGE_CONFIGS]
    before = [dict(registry) for registry in registries]
    written: list[str] = []

    def write(name: str, text: str = TOY, *edits: tuple[str, str]) -> str:
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        (folder / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for registry, known in zip(registries, before, strict=True):
        registry.clear()
        registry.update(known)
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MLflow, figures and a process that builds networks: they have tests of their own."""
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)  # a busy disk takes its time
    monkeypatch.setattr(outputs.Tracker, "start", lambda *_: None)
    monkeypatch.setattr(outputs, "report", lambda results: {"table.md": partial(table.write, results)})
    monkeypatch.setattr(preflight, "require_buildable", lambda stages: None)


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop(plugins.VARIABLE, None)
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=250
    )


# -------------------------------------------------------------------------------------------------- the worked example


def test_the_example_ablates_scikit_learns_classifier_to_its_table_with_intervals(tmp_path: Path) -> None:
    assert len((ROOT / "docs/examples/classifier_study.py").read_text().splitlines()) < 60
    results = tmp_path / "results"
    arguments = ("--plugin", EXAMPLE, "--seeds", "3", "--only", "full", "--only", "narrow", "--cluster", "local")
    done = command("studies.run", "digits", *arguments, "--results", str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 cells done" in done.stdout
    assert "| narrow | 3 |" in done.stdout  # a difference from three pairs
    with open(results / "digits/smoke/table.csv", newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    for variant in ("full", "narrow"):
        cells = json.loads((results / "digits/smoke/cells.json").read_text())["cells"]
        own = [results / "runs" / cell["chain"][-1] for cell in cells if cell["variant"] == variant]
        found = [json.loads((path / "scores.json").read_text())["accuracy"]["value"] for path in own]
        assert float(rows[variant]["accuracy_mean"]) == pytest.approx(statistics.mean(found))
        half = 4.302652729911275 * statistics.stdev(found) / 3**0.5  # Student's t, 2 degrees of freedom
        assert float(rows[variant]["accuracy_half"]) == pytest.approx(half)
    assert float(rows["full"]["accuracy_mean"]) > 0.9
    with sqlite3.connect(results / "mlflow.db") as store:
        logged = {key for (key,) in store.execute("select distinct key from metrics")}
    assert {"accuracy", "log_loss", "train/loss"} <= logged
    assert (results / "digits/smoke/index.html").read_text().count(f"--plugin {EXAMPLE}") == 1

    without = command("studies", "diff", "digits", "full", "narrow", "--results", str(results))
    assert (without.returncode, without.stderr.count("\n")) == (2, 1)
    assert f"add --plugin {EXAMPLE}" in without.stderr


# ------------------------------------------------------------------------------------------------------- in the engine


@pytest.mark.usefixtures("quiet")
def test_its_stages_are_shared_resumed_and_recomputed_like_fvars_own(
    declare: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sums", "--plugin", declare("toy_sums"), "--results", str(tmp_path / "r")]
    assert main([*arguments, "--seeds", "2"]) == 0
    assert main([*arguments, "--seeds", "3"]) == 0
    runs = [RunDir.open(path.parent) for path in (tmp_path / "r" / "runs").glob("*/config.json")]
    assert sorted(run.kind for run in runs) == ["half"] + ["sum"] * 6
    assert {(run.path / "calls").read_text() for run in runs if run.kind == "sum"} == {"x"}
    table = capsys.readouterr().out
    assert "| full | 3 seeds | 2.5 ± 2.5 |" in table  # 1.5, 2.5, 3.5
    assert "Wild is blank: it is nan." in table
    assert main([*arguments, "--seeds", "3", "--recompute", "half"]) == 0
    assert len(list((tmp_path / "r" / "runs").glob("*.replaced-1"))) == 7


@pytest.mark.usefixtures("quiet")
def test_an_identity_is_the_configuration_and_the_revision_and_not_the_module(
    declare: Callable[..., str], tmp_path: Path
) -> None:
    plugins.load([declare("toy_sums")])
    first = config.Stage(config.STAGE_CONFIGS["half"]())
    assert first.signature == config.signature(config.STAGE_CONFIGS["half"](), {})
    run = RunDir.create(tmp_path, first, config.RuntimeConfig())
    assert json.loads((run.path / "config.json").read_text())["plugin"] == "toy_sums"
    assert run.signature == first.signature


@pytest.mark.usefixtures("quiet")
def test_settings_are_changed_by_set_and_seeds_added_until_separated(
    declare: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sums", "--plugin", declare("toy_sums"), "--results", str(tmp_path / "r")]
    assert main([*arguments, "--set", "half.of=9"]) == 0
    assert "4.5" in capsys.readouterr().out
    assert main([*arguments, "--until", "separated", "--max-seeds", "4"]) == 0
    assert "Total" in capsys.readouterr().out


@pytest.mark.usefixtures("quiet")
def test_a_cell_that_lacks_what_its_stage_needs_is_refused(declare: Callable[..., str], tmp_path: Path) -> None:
    name = declare("toy_sums", TOY, ('{"half": Stage(HalfConfig(3.0))}', "{}"))
    with pytest.raises(UserError, match=r"'sum' needs half \(half\), and a cell gives it nothing"):
        main(["sums", "--plugin", name, "--results", str(tmp_path / "r"), "--dry-run"])


@pytest.mark.usefixtures("quiet")
def test_numbers_that_were_not_declared_fail_the_stage(
    declare: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = declare("toy_sums", TOY, ('("total", "wild")', '("total",)'))
    assert main(["sums", "--plugin", name, "--results", str(tmp_path / "r")]) == 1
    assert "declares the numbers total, and its run returned total, wild" in capsys.readouterr().out


SEARCH = """
from studies.engine.search.definition import Search
from studies.engine.search.space import Uniform

COLUMNS = (Metric("total", "Total", 1, "higher"),)
SEARCH = Search(
    "sums",
    "Sums, searched",
    lambda preset: {"more": Uniform(0.0, 4.0)},
    lambda preset: [{"more": 1.0}],
    lambda preset, point: {"sum.more": point["more"]},
    base=lambda preset: Stage(SumConfig(), {"half": Stage(HalfConfig(3.0))}),
    columns=COLUMNS,
)
STUDY = SEARCH.study()
"""


@pytest.mark.usefixtures("quiet")
def test_a_search_proposes_its_cells_and_is_told_their_numbers(
    declare: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, tail = TOY.split("def cells(ctx):")
    stages = tail[tail.index("STAGES = ") : tail.index("STUDY = ")]
    name = declare("toy_sums", f"{head}{stages}{SEARCH}")
    assert main(["sums", "--plugin", name, "--results", str(tmp_path / "r"), "--trials", "3"]) == 0
    assert "3 of 3 cells done" in capsys.readouterr().out
    scores = [json.loads(path.read_text()) for path in (tmp_path / "r" / "runs").glob("sum-*/scores.json")]
    found = sorted(score["total"]["value"] for score in scores)
    assert 2.5 in found  # the first point, 3/2 + 1
    told = json.loads((tmp_path / "r" / "sums" / "smoke" / "search.json").read_text())
    scale = told["objectives"][0]["scale"]
    assert sorted(scale * trial["values"][0] for trial in told["trials"]) == pytest.approx(found)
    assert scale < 0  # Optuna minimises, and here higher is better


# ------------------------------------------------------------------------------------------------------ on the cluster


def test_jobs_of_a_cluster_find_the_module_as_it_was_and_load_it(
    declare: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = declare("toy_sums")
    plugins.load([name])
    code = snapshot(ROOT, tmp_path / "code", plugins.sources())
    assert (code / "toy_sums.py").read_text() == TOY
    asked: dict[str, object] = {}

    def sbatch_(*words: str) -> str:
        asked["script"] = Path(words[-1]).read_text()
        return "17"

    monkeypatch.setattr(sbatch, "call", sbatch_)
    stage = config.Stage(config.STAGE_CONFIGS["half"]())
    run = RunDir.create(tmp_path / "runs", stage, config.RuntimeConfig())
    sbatch.submit(tmp_path / "slurm" / "wave", [run.path], Resources(), code)
    script = str(asked["script"])
    exports = [line for line in script.splitlines() if line.startswith("export ")]
    shutil.rmtree(tmp_path / "plugins")  # a later edit, at its worst
    job = "\n".join([*exports, f'{sys.executable} -m fvar.run "{run.path}"'])
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FVAR_PLUGINS"))}
    done = subprocess.run(
        ["bash", "-c", job], cwd=tmp_path / "slurm" / "wave", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (run.path / "half").read_text() == "0.5"
    (attempt,) = run.attempts()
    assert attempt["plugin"] == name


def test_the_whole_package_of_a_module_is_copied_and_a_folder_without_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declare: Callable[..., str]
) -> None:
    for package, code in (("mylab", True), ("loose", False)):
        (tmp_path / package / "sub").mkdir(parents=True)
        (tmp_path / package / "sub" / "toy.py").write_text(TOY.replace('"half"', f'"{package}"', 1))
        (tmp_path / package / "weights.bin").write_bytes(b"x")
        if code:
            (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "MODULES", {})
    for name in ("mylab.sub.toy", "loose.sub.toy"):
        monkeypatch.setitem(plugins.MODULES, name, plugins._imported(name))
    monkeypatch.setenv(plugins.VARIABLE, "mylab.sub.toy,loose.sub.toy")
    found = {str(place) for place in plugins.sources()}
    assert found == {"mylab/__init__.py", "mylab/weights.bin", "mylab/sub/toy.py", "loose/sub/toy.py"}
    assert plugins.folders() == [str(tmp_path)]


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("from studies.study", "from studies.stduy"), "toy_sums does not import: ModuleNotFoundError"),
        (('kind: ClassVar[str] = "half"', 'kind: ClassVar[str] = "var"'), "stage kind 'var' exists already"),
        (('kind: ClassVar[str] = "half"', 'kind: ClassVar[str] = "train"'), "must name its kind"),
        (("@dataclass(frozen=True)\nclass Half", "class Half"), "HalfConfig must be a frozen dataclass"),
        (("@dataclass(frozen=True)\nclass Half", "@dataclass\nclass Half"), "non-frozen dataclass"),
        (("HalfConfig(StageConfig)", "HalfConfig"), "HalfConfig must extend fvar.config.StageConfig"),
        (("StageKind(HalfConfig, halve)", "StageKind(HalfConfig)"), "missing 1 required positional argument: 'run'"),
        (("StageKind(HalfConfig, halve)", "StageKind(HalfConfig, None)"), "'half' has no run"),
        (('REVISION: ClassVar[int] = 1\n    of', "of"), "HalfConfig must say which revision"),
        (("STAGES = (", "STAGES = (HalfConfig, "), "STAGES must hold"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_plugin_is_said_in_one_line(
    declare: Callable[..., str], edit: tuple[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=r"^plugin toy_sums") as raised:
        plugins.load([declare("toy_sums", TOY, edit)])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "half" not in plugins.KINDS


def test_two_plugins_of_one_kind_or_one_study_are_refused(declare: Callable[..., str]) -> None:
    first, second = declare("toy_sums"), declare("toy_more")
    with pytest.raises(UserError, match="plugins toy_sums and toy_more both declare the stage kind 'half'"):
        plugins.load([first, second])
    assert names()[-1] == "sums"
    plugins.load([declare("toy_third", "from toy_sums import STUDY")])
    with pytest.raises(UserError, match="the study 'sums' exists already"):
        study("sums")


@pytest.mark.parametrize("name", ["no_such_module", "docs/examples/classifier_study.py", "json"])
def test_a_command_refuses_what_is_not_a_plugin_in_one_line(name: str) -> None:
    for words in (("studies.run", "digits", "--dry-run"), ("studies", "list")):
        done = command(*words, "--plugin", name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert name in done.stderr


def test_a_stage_kind_must_not_be_called_like_a_setting_of_profiles(declare: Callable[..., str]) -> None:
    plugins.load([declare("toy_sums", TOY, ('kind: ClassVar[str] = "half"', 'kind: ClassVar[str] = "time"'))])
    with pytest.raises(UserError, match="'time', which profiles call a setting"):
        Profile.read(ROOT / "slurm" / "loopback.toml")


def test_an_installed_package_names_its_modules_by_an_entry_point(
    declare: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare("toy_sums")
    installed = tmp_path / "plugins" / "mylab-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[fvar.stages]\nsums = toy_sums\n")
    plugins.load()
    assert "sums" in names()
    assert plugins.asked() == []
