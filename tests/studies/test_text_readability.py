"""The readability study: whose tokenizers it reads, and that its tables and pictures say what was measured."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis import style
from analysis.plot_readability import Readings, printable, views
from analysis.results import StudyResults
from analysis.style import NothingToDraw, draw_each
from fvar.config import RuntimeConfig, TokenizerConfig
from fvar.machine import atomic
from fvar.rundir import RunDir
from studies.__main__ import main
from studies.engine import outputs
from studies.presets import PRESETS, Preset
from studies.study import Cell, Context, record, study
from studies.text_readability import STUDY, TEXT_STEPS, markdown, readable_from, report

SIZES = (8, 16)
SCALES = 4


@pytest.fixture(params=PRESETS)
def row(request: pytest.FixtureRequest) -> Preset:
    return PRESETS[request.param]


def cells(row: Preset, seeds: int = 1) -> dict[str, Cell]:
    return {cell.name: cell for cell in STUDY.cells(Context(STUDY, row, seeds, dry=True))}


def tokenizer(cell: Cell) -> TokenizerConfig:
    config = cell.stage.inputs["tokenizer"].config
    assert isinstance(config, TokenizerConfig)
    return config


# ---------------------------------------------------------------------------------------------------------------- cells


def test_the_tokenizers_of_table_2_are_read_not_trained_again(row: Preset) -> None:
    table2 = study("ablation_table2")
    wanted = {
        cell.variant: cell.stage.inputs["samples"].inputs["var"].inputs["tokens"].inputs["tokenizer"].name
        for cell in table2.cells(Context(table2, row, dry=True))
    }
    found = cells(row)
    assert found["var/seed0"].stage.inputs["tokenizer"].name == wanted["baseline"]
    assert found["fvar/seed0"].stage.inputs["tokenizer"].name == wanted["full"]


def test_on_text_they_differ_in_images_and_steps_alone(row: Preset) -> None:
    found = cells(row)
    for name in ("var", "fvar"):
        plain, text = tokenizer(found[f"{name}/seed0"]), tokenizer(found[f"{name}-text/seed0"])
        assert text.data.dataset == "text"
        assert text.train.steps == max(plain.train.steps, TEXT_STEPS)
        train = dataclasses.replace(text.train, steps=plain.train.steps, eval_every=plain.train.eval_every)
        assert dataclasses.replace(text, data=plain.data, train=train) == plain


def test_a_seed_is_one_of_the_tokenizers_training(row: Preset) -> None:
    found = cells(row, seeds=2)
    assert len({cell.stage.name for cell in found.values()}) == 8
    for name in ("var", "fvar-text"):
        first, second = (tokenizer(found[f"{name}/seed{seed}"]) for seed in (0, 1))
        assert dataclasses.replace(second, train=first.train) == first
        assert (first.train.seed, second.train.seed) == (0, 1)


def test_on_text_already_there_is_no_second_pair() -> None:
    assert set(cells(PRESETS["smoke"].on("text"))) == {"var/seed0", "fvar/seed0"}


# --------------------------------------------------------------------------------------------------------------- report


def rate(kind: str, scale: int, size: int, seed: int) -> float:
    """Larger type is read better, the third view well, a tokenizer's last scale half as often as its others."""
    if kind == "original":
        return 0.0
    if kind == "view":
        return 0.05 if scale == 3 and size == 16 else 0.9
    return (0.5 if scale == SCALES else 1.0) - size / 100 + seed / 50


def finish(results: Path, cell: Cell) -> None:
    """What the stage of a cell leaves behind."""
    run = RunDir.create(results / "runs", cell.stage, RuntimeConfig())
    kinds = [("original", 0), *(("reconstruction", k) for k in range(1, SCALES + 1))]
    if not cell.variant.startswith("var"):
        kinds += [("view", k) for k in range(1, SCALES)]
    rows = [
        {"size": size, "picture": kind, "scale": k, "words": 6, "characters": 24, "errors": 1, "spread": 0.02}
        | {"value": rate(kind, k, size, cell.seed)}
        for size in SIZES
        for kind, k in kinds
    ]
    read = {"original": "Word", "view": "$w字_", "reconstruction": ""}
    examples = [
        {"size": size, "text": "word", "picture": kind, "scale": k, "read": read[kind]}
        for size in SIZES
        for kind, k in kinds
    ]
    body = {"ocr": "an OCR", "image_size": 64, "rates": rows, "examples": examples}
    atomic.write_json(run.path / "readability.json", body)
    pictures = {
        f"{size}/{kind}/{k}": np.full((size, 3 * size, 3), 200, np.uint8) for size in SIZES for kind, k in kinds
    }
    np.savez(run.path / "words.npz", **pictures)  # type: ignore[arg-type]
    run.update(state="done")


def finished(results: Path, seeds: int = 1, but: str = "") -> StudyResults:
    """The study at smoke, every cell done but those of one variant."""
    ctx = Context(STUDY, PRESETS["smoke"], seeds, results)
    made = list(STUDY.cells(ctx))
    record(ctx, made)
    for cell in made:
        if cell.variant != but:
            finish(results, cell)
    return ctx.read()


def test_tables_hold_the_rates_of_all_scales_and_of_each(tmp_path: Path) -> None:
    results = finished(tmp_path)
    text = markdown(results, Readings.of(results))
    assert "| 16 px | 0.0 ± 2.0 | 34.0 ± 2.0 | 34.0 ± 2.0 | 34.0 ± 2.0 | 34.0 ± 2.0 |" in text
    assert "| FVAR, learned on text | 84.0 ± 2.0 | 84.0 ± 2.0 | 84.0 ± 2.0 | 34.0 ± 2.0 |" in text
    assert "| focused views L_k themselves | none | none | 16 px |  |" in text
    assert "the standard error over words" in text
    assert f"VAR, learned on emoji, {PRESETS['smoke'].tokenizer_train.steps} steps" in text
    assert text.count("focused views L_k themselves") == 2  # once a table: they are the pyramid's, not a tokenizer's


def test_several_seeds_give_mean_and_deviation(tmp_path: Path) -> None:
    results = finished(tmp_path, seeds=2)
    found = Readings.of(results)["fvar"].rates[("reconstruction", SCALES), 16]
    assert found.mean == pytest.approx(0.35)
    assert found.n == 2
    assert found.sd == pytest.approx(0.02 / 2**0.5)
    assert "the sample standard deviation over seeds" in markdown(results, Readings.of(results))


def test_a_size_is_readable_only_if_all_larger_ones_are(tmp_path: Path) -> None:
    readings = Readings.of(finished(tmp_path))["fvar"]
    assert readable_from(readings, ("original", 0)) == "8 px"
    assert readable_from(readings, ("view", 3)) == "16 px"
    assert readable_from(readings, ("view", 1)) == "none"
    assert readable_from(readings, ("view", SCALES)) == ""
    key = ("original", 0), 16
    readings.rates[key] = dataclasses.replace(readings.rates[key], mean=0.5)
    assert readable_from(readings, ("original", 0)) == "none"


def test_report_writes_tables_and_pictures_and_the_command_draws_them_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = finished(tmp_path)
    files, failed = draw_each(report(results), pytest.fail)
    figures = [f"{name}.{suffix}" for name in ("readability", "strip", "clarity") for suffix in ("png", "pdf")]
    assert [file.name for file in files] == ["table.md", "table.csv", *figures]
    assert failed == []
    sizes = {file.name: Image.open(file).size for file in files if file.suffix == ".png"}
    assert {round(width / 300, 6) for width, _ in sizes.values()} == {style.PAGE}  # 300 dpi
    with open(results.folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * len(SIZES) * (1 + SCALES) + 2 * len(SIZES) * (SCALES - 1)
    assert {row["variant"] for row in rows} == {"var", "fvar", "var-text", "fvar-text"}
    (results.folder / "table.md").unlink()
    assert main(["report", "text_readability", "--results", str(tmp_path)]) == 0
    assert str(results.folder / "table.md") in capsys.readouterr().out
    assert (results.folder / "table.md").exists()
    page = (results.folder / "index.html").read_text()
    assert "FVAR, learned on emoji" in page
    assert "Share of characters misread" in page


def test_what_is_not_done_is_named_and_what_is_done_is_shown(tmp_path: Path) -> None:
    results = finished(tmp_path, but="var")
    failed = RunDir.create(tmp_path / "runs", next(iter(cells(PRESETS["smoke"]).values())).stage, RuntimeConfig())
    failed.update(state="failed", error="UserError: the OCR is not installed")
    files = outputs.write(Context(STUDY, PRESETS["smoke"], results=tmp_path), pytest.fail)
    text = files[0].read_text()
    assert "VAR, learned on emoji, seed 0, is failed" in text
    assert "the OCR is not installed" in text
    assert "| FVAR, learned on emoji |" in text
    assert results.cells[0].variant == "var"


def test_nothing_is_drawn_before_a_cell_is_done(tmp_path: Path) -> None:
    ctx = Context(STUDY, PRESETS["smoke"], results=tmp_path)
    record(ctx, STUDY.cells(ctx))
    assert outputs.write(ctx, pytest.fail) == []
    with pytest.raises(NothingToDraw, match="nothing of text_readability was read yet"):
        report(ctx.read())["table.md"]()


def test_views_are_found_where_a_pyramid_has_them(tmp_path: Path) -> None:
    found = Readings.of(finished(tmp_path))
    assert views(found) is found["fvar"]
    assert views({"var": found["var"]}) is None
    assert found["var"].last == ("reconstruction", SCALES)


@pytest.mark.parametrize(("read", "shown"), [(" word ", "word"), ("", "(nothing)"), ("$w字", "$w□"), ("é", "é")])
def test_readings_are_shown_in_letters_that_the_figures_have(read: str, shown: str) -> None:
    assert printable(read) == shown


def test_settings_of_the_study_reach_its_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from studies.run import main as run

    command = ["text_readability", "--dry-run", "--results", str(tmp_path), "--only", "fvar"]
    assert run([*command, "--set", "readability.words=5", "--set", "tokenizer.train.steps=7"]) == 0
    assert "1 cells" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
