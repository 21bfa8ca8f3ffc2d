"""Every study to its end over real stages: two cells of each, at a preset that computes in seconds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis import style
from analysis.report import page
from studies import spectral
from studies.engine import outputs
from studies.presets import PRESETS
from studies.run import main
from studies.study import STUDIES, Context, study

pytestmark = pytest.mark.timeout(1800)
SMOKE = PRESETS["smoke"]
SMALL = replace(  # which studies may make larger and smaller, deeper and shallower
    SMOKE,
    data=replace(SMOKE.data, image_size=16),
    pyramid=replace(SMOKE.pyramid, patch_nums=(1, 2)),
    autoencoder=replace(SMOKE.autoencoder, ch=8, ch_mult=(1, 1, 1, 1), z_channels=8),
    tokenizer_train=replace(SMOKE.tokenizer_train, steps=2, eval_every=2, eval_images=8),
    transformer=replace(SMOKE.transformer, depth=2, width=64, heads=2),  # M-VAR's state needs heads of 32
    var_train=replace(SMOKE.var_train, steps=2, eval_every=2, eval_images=8),
    sampling=replace(SMOKE.sampling, count=9),
    scoring=replace(SMOKE.scoring, reference_count=9),
    readability=replace(SMOKE.readability, words=2),
    speed_batches=(1, 2),
)
SEARCH = ["--trials", "2", "--pruner", "none"]
ONE_VARIANT = ("wiener", "sweep_focus_states")  # at this size
GRID = ["--grid", "var.distill.lambda_feat=0.5,1"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all studies, which share tokenizers and networks as they do at every preset."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images of two classes: coding a data set is most of a study this short."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("sky", "sea"):
        (folder / name).mkdir()
        for index in range(24):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smoke preset at 16 px and two steps, coarse pictures, and no MLflow."""
    monkeypatch.setitem(PRESETS, "smoke", SMALL)
    monkeypatch.setitem(style.STYLE, "savefig.dpi", 50)
    monkeypatch.setattr(outputs.Tracker, "start", lambda self, say: None)
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)
    tiny = spectral.Settings(
        emoji_per_class=1, emoji_side=64, chart_side=64, rho_max=(12,), sweep_s=(4,), sweep_rho_over_s=(0.6,)
    )
    monkeypatch.setattr(spectral, "Settings", lambda: tiny)


def two(name: str) -> list[str]:
    """What keeps a study to two cells: the first two of its variants, or all it has."""
    if name == "grid":
        return GRID
    if study(name).adaptive:
        return SEARCH
    found = study(name).cells(Context(study(name), PRESETS["smoke"], dry=True))
    variants = list(dict.fromkeys(cell.variant for cell in found if not cell.optional))[:2]
    return [word for variant in variants for word in ("--only", variant)]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_to_its_table_figures_and_page(
    name: str, results: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--results", str(results), "--data", f"folder:{photos}", *two(name)]) == 0
    shown = capsys.readouterr().out
    assert "look next at:" in shown
    assert "warning" not in shown
    if study(name).outputs:
        return
    done = re.search(r"(\d+) of (\d+) cells done", shown)
    assert done
    assert done[1] == done[2]
    assert int(done[1]) == 2 or name in ONE_VARIANT
    (folder,) = (results / name).iterdir()
    drawn = json.loads((folder / outputs.STAMP).read_text())
    assert drawn["failed"] == []
    assert {"table.md", page.FILE} <= set(drawn["files"])
    assert all((folder / file).stat().st_size for file in drawn["files"])
