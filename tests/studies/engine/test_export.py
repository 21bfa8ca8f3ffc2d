"""Results kept without weights: what is in them, where they are from, and that they draw the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from analysis import gallery, table
from analysis.cells import Place
from analysis.report import browser
from analysis.results import StudyResults
from analysis.style import Drawings
from fvar.errors import UserError
from fvar.machine import atomic
from studies.__main__ import main
from studies.ablation_table2 import STUDY
from studies.engine import export as export_module
from studies.engine import outputs
from tests import fakes


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two variants at two seeds with weights, commands and paths; the report is the table, the gallery and the page."""

    def report(results: StudyResults) -> dict[str, object]:
        return {"table.md": partial(table.write, results), "samples.png": partial(gallery.draw, results)}

    monkeypatch.setattr(outputs, "report", report)
    monkeypatch.setattr("fvar.machine.atomic.sync", lambda path: None)  # a busy disk takes its time
    monkeypatch.setattr(browser, "EACH", 1)
    folder, cells = tmp_path / "results", []
    for variant in ("baseline", "full"):
        for seed in range(2):
            stage = fakes.chain(variant, seed)
            fakes.finish(folder, stage, 0.5, seed)
            cells.append(fakes.cell(variant, seed, stage))
    fakes.write_cells(folder, "ablation_table2", cells)
    for run in (folder / "runs").iterdir():
        (run / "model.safetensors").write_bytes(b"weights")
        (run / "log").write_text(f"{run}\n")
        attempt = {"command": [f"{folder}/x"], "commit": "c0ffee" * 6, "host": "node7", "device": "cpu", "threads": 2}
        (run / "attempts.jsonl").write_text(json.dumps(attempt) + "\n")
    return folder


def export(results: Path, to: Path) -> int:
    return main(["export", "ablation_table2", "--results", str(results), "--to", str(to)])


def test_an_export_draws_the_same_and_holds_neither_weights_nor_logs_nor_paths(results: Path, tmp_path: Path) -> None:
    to = tmp_path / "reference"
    assert export(results, to) == 0
    kept = {path.relative_to(to) for path in to.rglob("*") if path.is_file()}
    assert {path.suffix for path in kept} == {".json", ".jsonl", ".npz", ".md", ".tex", ".csv", ".png", ".pdf", ".html"}
    place = Path("ablation_table2/smoke")
    for name in ("table.md", "table.tex", "table.csv", "samples.png", "samples.pdf", "index.html"):
        assert (to / place / name).read_bytes() == (results / place / name).read_bytes()
    for path in kept:
        if path.suffix not in (".npz", ".png", ".pdf"):
            assert str(tmp_path) not in (to / path).read_text(), path
    readme = (to / place / "README.md").read_text()
    assert "python -m studies.run ablation_table2 --preset smoke --seeds 2" in readme
    assert "c0ffeec0ff" in readme
    assert "node7" in readme

    (to / place / "table.md").unlink()
    (to / place / "samples.png").unlink()
    assert main(["report", "ablation_table2", "--results", str(to)]) == 0
    for name in ("table.md", "samples.png"):
        assert (to / place / name).read_bytes() == (results / place / name).read_bytes()


def test_of_the_samples_those_shown_are_kept_in_their_places(results: Path, tmp_path: Path) -> None:
    to = tmp_path / "reference"
    assert export(results, to) == 0
    (before, after) = (StudyResults.read(folder, "ablation_table2", "smoke") for folder in (results, to))
    for variant, cells in after.variants().items():
        (images, labels), (all_images, _) = gallery.read(cells[0]), gallery.read(before.variants()[variant][0])
        shown = gallery.columns(labels)
        np.testing.assert_array_equal(images[shown], all_images[shown])
        assert len(images) == fakes.COUNT
        assert not (cells[1].chain["samples"].path / "samples.npz").exists()  # figures show the first seed


@pytest.mark.parametrize(("seed", "known", "all_kept"), [(0, True, False), (0, False, True), (1, True, True)])
def test_all_samples_are_kept_where_a_report_shows_others(
    results: Path, tmp_path: Path, seed: int, known: bool, all_kept: bool
) -> None:
    shutil.copytree(results, tmp_path / "again")
    assert export(tmp_path / "again", tmp_path / "plain") == 0
    images, _ = gallery.read(StudyResults.read(tmp_path / "plain", "ablation_table2", "smoke").variants()["full"][0])
    place = next(place for place, image in enumerate(images) if image.any() == known)

    def report(results: StudyResults) -> Drawings:
        def write() -> list[Path]:
            image = gallery.read(results.variants()["full"][seed])[0][place]
            atomic.write_text(results.folder / "sum.md", str(image.sum()))
            return [results.folder / "sum.md"]

        return {"sum.md": write}

    to, own = tmp_path / "reference", replace(STUDY, report=report)
    export_module.export(Place(results, "ablation_table2", "smoke"), to, own, print)
    kept = [cell.chain["samples"].path / "samples.npz" for cell in StudyResults.read(to, own.name, "smoke").cells]
    assert all(path.exists() for path in kept) == all_kept
    assert (to / "ablation_table2" / "smoke" / "sum.md").exists()


def test_what_would_be_drawn_otherwise_is_not_exported(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dated(results: StudyResults) -> dict[str, object]:
        def write() -> list[Path]:
            atomic.write_text(results.folder / "clock.md", str(results.folder))
            return [results.folder / "clock.md"]

        return {"clock.md": write}

    monkeypatch.setattr(outputs, "report", dated)
    with pytest.raises(UserError, match=r"would draw another clock\.md than the original"):
        export(results, tmp_path / "reference")
    assert list((tmp_path / "reference").iterdir()) == []


def test_an_export_replaces_the_one_before_it(results: Path, tmp_path: Path) -> None:
    to = tmp_path / "reference"
    assert export(results, to) == 0
    cells = [fakes.cell("full", 0, fakes.chain("full", 0, rho_max=6.0))]
    fakes.finish(results, fakes.chain("full", 0, rho_max=6.0), 0.5, 0)
    fakes.write_cells(results, "ablation_table2", cells)
    assert export(results, to) == 0
    assert {path.name for path in (to / "runs").iterdir()} == set(cells[0]["chain"])  # type: ignore[call-overload]


def test_a_study_without_results_and_a_folder_of_other_results_are_refused(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder that studies are run in"):
        export(results, results)
    (tmp_path / "other" / "runs" / "var-0").mkdir(parents=True)
    (tmp_path / "other" / "runs" / "var-0" / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match="is a folder that studies are run in"):
        export(results, tmp_path / "other")
    for cell in StudyResults.read(results, "ablation_table2", "smoke").cells:
        cell.chain["scores"].update(state="failed", error="ValueError: no images")
    with pytest.raises(UserError, match="no cell that is done"):
        export(results, tmp_path / "reference")


def test_what_is_not_done_is_exported_as_it_stands(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    StudyResults.read(results, "ablation_table2", "smoke").cells[0].chain["scores"].update(state="failed")
    assert export(results, tmp_path / "reference") == 0
    assert "not done, and exported so: baseline/seed0" in capsys.readouterr().err
    table = (tmp_path / "reference" / "ablation_table2" / "smoke" / "table.md").read_text()
    assert "1 of 2 seeds, failed" in table
