"""Figures: drawn from results alone, the same for the same results, and showing what was measured."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from analysis import gallery, pairs, plot_convergence, plot_sweep, real_images, style
from analysis.results import StudyResults
from fvar.config import DataConfig
from fvar.data import ImageSet, Split, open_dataset
from fvar.errors import UserError
from tests import fakes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return fakes.ablation(tmp_path_factory.mktemp("results"), seeds=2, unfinished=("no_dual",))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were about to be written."""
    figures: list[Figure] = []
    original = style.save

    def keep(figure: Figure, path: Path) -> list[Path]:
        figures.append(figure)
        return original(figure, path)

    monkeypatch.setattr(style, "save", keep)
    return figures


def xs(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_xdata()))


def ys(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_ydata()))


def sweep(results: Path, study: str, grid: dict[str, list[float]], seeds: int = 1) -> StudyResults:
    """A finished sweep over the cells of a grid (lists of equal length)."""
    cells = []
    for index, values in enumerate(zip(*grid.values(), strict=True)):
        for seed in range(seeds):
            stage = fakes.chain(f"{study}{index}", seed, rho_max=float(index + 1))
            fakes.finish(results, stage, quality=index / 10, seed=10 * index + seed)
            cells.append(fakes.cell(f"cell{index}", seed, stage, **dict(zip(grid, values, strict=True))))
    return fakes.write_cells(results, study, cells, title="Sweep")


# --------------------------------------------------------------------------------------------------------- convergence


def test_lines_are_means_over_seeds_and_bands_the_95_percent_interval(tmp_path: Path, drawn: list[Figure]) -> None:
    ablation = fakes.ablation(tmp_path, seeds=3)
    plot_convergence.draw(ablation)
    upper, lower = drawn[0].axes
    line = next(line for line in upper.get_lines() if line.get_label() == "FVAR (full)")
    by_seed = [[record["cross_entropy"] for record in cell.metrics("heldout")] for cell in ablation.variants()["full"]]
    means = [statistics.fmean(values) for values in zip(*by_seed, strict=True)]
    assert ys(line) == pytest.approx(means)
    assert xs(line) == list(range(0, fakes.STEPS + 1, 20))
    band = np.asarray(upper.collections[1].get_paths()[0].vertices)
    widest = max(statistics.stdev(values) for values in zip(*by_seed, strict=True))
    heights = [band[band[:, 0] == step, 1] for step in range(0, fakes.STEPS + 1, 20)]
    assert max(np.ptp(height) for height in heights) == pytest.approx(2 * 4.302653 * widest / 3**0.5)  # t(0.975, 2)
    assert ys(lower.get_lines()[0])[-1] == pytest.approx(100 * by_last(ablation, "baseline"))
    assert "bands: 95 % interval of the mean over 3 seeds" in lower.get_xlabel()


def test_two_seeds_have_no_interval_and_so_no_band(ablation: StudyResults, drawn: list[Figure]) -> None:
    plot_convergence.draw(ablation)
    assert not any(ax.collections for ax in drawn[0].axes)
    assert "95 %" not in drawn[0].axes[-1].get_xlabel()


def by_last(results: StudyResults, variant: str) -> float:
    return statistics.fmean(cell.metrics("heldout")[-1]["accuracy"] for cell in results.variants()[variant])


def test_title_names_study_preset_and_seeds_and_unevaluated_variants_are_left_out(
    ablation: StudyResults, drawn: list[Figure]
) -> None:
    plot_convergence.draw(ablation)
    assert drawn[0].get_suptitle() == "Table 2: ablation · preset smoke · 2 seeds"
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == [label for name, label in fakes.VARIANTS.items() if name != "no_dual"]


def test_scores_of_samples_get_a_panel_each_where_they_were_logged(tmp_path: Path, drawn: list[Figure]) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    results.cells[1].chain["var"].log_metrics(100, {"fid_2048": 150.0, "kid_2048": 0.1}, split="sampled")
    plot_convergence.draw(results)
    titles = [ax.get_title(loc="left") for ax in drawn[0].axes]
    assert titles[2:] == ["FID@2,048 of samples", "KID@2,048 of samples"]
    assert drawn[0].axes[2].get_lines()[0].get_label() == "FVAR (full)"


def test_non_finite_losses_leave_a_gap_not_a_crash(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    cells = results.variants()["full"]
    cells[0].chain["var"].log_metrics(300, {"cross_entropy": float("nan")}, split="heldout")
    assert 300 not in plot_convergence.curve(cells, "heldout", "cross_entropy")


def test_up_to_eight_variants_have_colours_apart_from_each_other_and_more_get_shades() -> None:
    assert len(set(style.colours(8))) == 8
    assert len(set(style.colours(16))) == 16


# ------------------------------------------------------------------------------------------------------- the same bytes


@pytest.mark.parametrize("module", [plot_convergence, gallery, pairs])
def test_the_same_results_give_the_same_files(ablation: StudyResults, module: ModuleType) -> None:
    before = {path.name: path.read_bytes() for path in module.draw(ablation)}
    assert {Path(name).suffix for name in before} == {".png", ".pdf"}
    assert {path.name: path.read_bytes() for path in module.draw(ablation)} == before


@pytest.mark.parametrize("module", [plot_convergence, gallery, pairs])
def test_a_figure_fits_a_paper_and_all_its_text_has_8_pt_or_more(
    ablation: StudyResults, drawn: list[Figure], module: ModuleType
) -> None:
    module.draw(ablation)
    assert drawn[0].get_figwidth() <= style.PAGE + 1e-6
    texts = [text for text in drawn[0].findobj(Text) if isinstance(text, Text) and text.get_text()]
    assert texts
    assert min(float(text.get_fontsize()) for text in texts) >= 8


def test_a_pdf_embeds_its_fonts_as_truetype_and_bears_no_date(ablation: StudyResults) -> None:
    pdf = plot_convergence.draw(ablation)[1].read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf


# ---------------------------------------------------------------------------------------------------------------- pairs


def test_var_stands_left_of_fvar_with_the_same_detail_of_both_enlarged(
    ablation: StudyResults, drawn: list[Figure]
) -> None:
    pairs.draw(ablation)
    archives = [np.load(ablation.variants()[name][0].chain["samples"].path / "samples.npz") for name in pairs.SIDES]
    left, right = drawn[0].axes[:2]
    assert left.get_position().x0 < right.get_position().x0
    for ax, archive in zip((left, right), archives, strict=True):
        whole, part = (np.asarray(image.get_array()) for image in ax.images)
        assert np.array_equal(whole, archive["arr_0"][0])
        top, start, side = pairs.detail(*(one["arr_0"][0] for one in archives))
        assert np.array_equal(part, whole[top : top + side, start : start + side])
    heads = [text.get_text() for text in drawn[0].texts]
    assert heads[:3] == ["class 0", "VAR (baseline)", "FVAR (full)"]


def test_a_detail_lies_where_both_images_vary() -> None:
    first, second = (np.zeros((32, 32, 3), np.uint8) for _ in range(2))
    first[:, ::2] = 255  # everywhere
    second[20:28:2, 12:20] = 255
    top, left, side = pairs.detail(first, second)
    assert (top, left, side) == (20, 12, 8)


def test_a_study_without_var_and_fvar_has_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(style.NothingToDraw, match="no samples of baseline and full"):
        pairs.draw(sweep(tmp_path, "sweep_psf_radius", {"rho_max": [0.0, 6.0]}))


def test_the_fingerprint_of_results_changes_with_metrics_scores_and_states_alone(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    seen = [results.fingerprint]
    plot_convergence.draw(results)
    assert results.fingerprint == seen[0]
    cell = results.cells[0]
    cell.chain["var"].log_metrics(300, {"cross_entropy": 4.0}, split="heldout")
    seen.append(results.fingerprint)
    (cell.chain["scores"].path / "scores.json").write_text("{}")
    seen.append(results.fingerprint)
    cell.chain["scores"].update(state="failed")
    seen.append(results.fingerprint)
    assert len(set(seen)) == 4


# -------------------------------------------------------------------------------------------------------------- gallery


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real images are kept; a test shall see none of another's."""
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))


def test_real_images_are_read_once_and_other_data_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, other = fakes.DATA, dataclasses.replace(fakes.DATA, split_seed=1)
    reads: list[DataConfig] = []

    def counted(config: DataConfig, split: Split) -> ImageSet:
        reads.append(config)
        return open_dataset(config, split)

    monkeypatch.setattr("fvar.data.open_dataset", counted)
    names, places, images = real_images.of_classes(data, "train", [0, 0, 3])
    again, _, kept = real_images.of_classes(data, "train", [0, 0, 3])
    assert len(reads) == 1
    assert again == names
    assert places == [0, 1, 2]
    assert np.array_equal(images, kept)
    assert not np.array_equal(images[0], images[1])
    real_images.of_classes(other, "train", [0, 0, 3])
    real_images.of_classes(data, "train", [0, 3])
    assert [real_images.numbered(data, "train", [7, 0]).shape for _ in range(2)] == [(2, 64, 64, 3)] * 2
    assert len(reads) == 4
    for path in (tmp_path / "cache" / "figures").iterdir():
        path.write_bytes(b"torn")
    assert np.array_equal(real_images.of_classes(data, "train", [0, 0, 3])[2], images)


def test_gallery_shows_real_images_first_then_the_very_samples_of_each_variant(
    ablation: StudyResults, drawn: list[Figure]
) -> None:
    gallery.draw(ablation)
    texts = [text.get_text().replace("\n", " ") for text in drawn[0].axes[0].texts]
    assert texts[:6] == ["real images", *(label for name, label in fakes.VARIANTS.items() if name != "no_dual")]
    assert texts[6:] == [
        "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion",
        "Symbols", "Travel & Places",
    ]  # fmt: skip
    shown = [np.asarray(image.get_array()) for image in drawn[0].axes[0].images]
    archive = np.load(ablation.cells[0].chain["samples"].path / "samples.npz")
    chosen = gallery.columns(archive["labels"])
    assert len(shown) == 6 * len(chosen)
    assert all(np.array_equal(a, b) for a, b in zip(shown[18:36], archive["arr_0"][chosen], strict=True))


def test_the_training_image_nearest_to_each_sample_stands_below_it(tmp_path: Path, drawn: list[Figure]) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    cell = results.variants()["full"][0]
    labels = np.load(cell.chain["samples"].path / "samples.npz")["labels"]
    nearest = (np.arange(len(labels)) * 7).astype(np.int64)
    np.savez(cell.chain["scores"].path / gallery.NEAREST_FILE, nearest=nearest, distance=np.ones(len(labels)))
    gallery.draw(results)
    texts = [text.get_text().replace("\n", " ") for text in drawn[0].axes[0].texts]
    row = texts.index("its nearest training images (FVAR (full))")
    assert texts[row - 1] == "FVAR (full)"
    shown = [np.asarray(image.get_array()) for image in drawn[0].axes[0].images]
    chosen = gallery.columns(labels)
    assert cell.scores_config is not None
    known = open_dataset(cell.scores_config.reference, "train").batch(nearest[chosen].tolist())
    expected = known.permute(0, 2, 3, 1).numpy()
    size = len(chosen)
    assert all(np.array_equal(a, b) for a, b in zip(shown[row * size : (row + 1) * size], expected, strict=True))


def test_columns_are_in_class_order_and_equally_many_per_class() -> None:
    labels = np.array([2, 0, 1, 2, 0, 1, 2, 0])
    assert gallery.columns(labels) == [1, 4, 2, 5, 0, 3]
    many = np.arange(5000) % 1000
    assert len(gallery.columns(many)) == gallery.COLUMNS
    assert sorted(many[gallery.columns(many)]) == list(many[gallery.columns(many)])


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_class_with_fewer_real_images_than_samples_leaves_places_empty(
    tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """Emoji of one class only, and `2 - missing` of those: the others are not in the reference at all."""
    results = fakes.ablation(tmp_path, seeds=1)
    emoji = open_dataset(fakes.DATA, "train")
    few = emoji.select((emoji.labels == 0).nonzero().flatten()[: 2 - missing].tolist())
    monkeypatch.setattr("fvar.data.open_dataset", lambda *_: few)
    gallery.draw(results)
    chosen = len(gallery.columns(np.load(results.cells[0].chain["samples"].path / "samples.npz")["labels"]))
    assert len(drawn[0].axes[0].images) == 6 * chosen + 2 - missing
    assert ("real images" in [text.get_text() for text in drawn[0].axes[0].texts]) == (missing < 2)


def test_a_drawing_that_fails_costs_a_line_and_the_others_are_made(tmp_path: Path) -> None:
    said: list[str] = []

    def broken() -> Path:
        raise IndexError("list index out of range\nand more")

    def nothing() -> Path:
        raise style.NothingToDraw("no sweep")

    drawings: style.Drawings = {
        "a.png": lambda: tmp_path,
        "b.png": broken,
        "c.png": nothing,
        "d.png": lambda: [tmp_path, tmp_path],
    }
    files, failed = style.draw_each(drawings, said.append)
    assert (files, failed) == ([tmp_path] * 3, ["b.png"])
    assert said == ["warning: b.png is not drawn: IndexError: list index out of range"]


def test_gallery_refuses_to_put_different_classes_in_one_column(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    path = results.cells[2].chain["samples"].path / "samples.npz"
    archive = np.load(path)
    np.savez(path, arr_0=archive["arr_0"], labels=archive["labels"][::-1])
    with pytest.raises(UserError, match="other classes in their places"):
        gallery.draw(results)


# --------------------------------------------------------------------------------------------------------------- sweeps


def test_a_sweep_of_one_number_is_a_curve_over_it(tmp_path: Path, drawn: list[Figure]) -> None:
    results = sweep(tmp_path, "sweep_psf_radius", {"rho_max": [0.0, 6.0, 12.0]}, seeds=2)
    plot_sweep.draw(results)
    ax = drawn[0].axes[0]
    assert xs(ax.get_lines()[0]) == [0.0, 6.0, 12.0]
    means = [statistics.fmean(cell.score("fid") or 0 for cell in cells) for cells in results.variants().values()]
    assert ys(ax.get_lines()[0]) == pytest.approx(means)
    assert ax.get_title(loc="left") == "FID@36 (lower is better)"


def test_a_sweep_of_two_numbers_is_a_map_and_the_best_cell_is_framed(tmp_path: Path, drawn: list[Figure]) -> None:
    grid = {"lambda_feat": [0.0, 1.0, 0.0, 1.0], "lambda_logit": [0.0, 0.0, 0.5, 0.5]}
    results = sweep(tmp_path, "sweep_lambda", grid)
    plot_sweep.draw(results)
    ax = drawn[0].axes[0]
    shown = [[f"{results.cells[row * 2 + column].score('fid'):.1f}" for column in (0, 1)] for row in (0, 1)]
    texts = {tuple(map(round, text.get_position())): text.get_text() for text in ax.texts}
    assert [[texts[column, row] for column in (0, 1)] for row in (0, 1)] == shown
    assert np.asarray(ax.images[0].get_array())[1][0] == pytest.approx(results.cells[2].score("fid"))
    best = min(range(4), key=lambda index: results.cells[index].score("fid") or 0)
    frame = ax.patches[-1]
    assert isinstance(frame, Rectangle)
    assert frame.get_xy() == (best % 2 - 0.5, best // 2 - 0.5)


def test_a_search_of_more_numbers_has_a_panel_for_each(tmp_path: Path, drawn: list[Figure]) -> None:
    grid = {"lambda_feat": [0.1, 1.0, 9.0], "lambda_logit": [0.5, 0.1, 1.0], "blocks": [1.0, 2.0, 1.0]}
    plot_sweep.draw(sweep(tmp_path, "search_distillation", grid))
    assert len(drawn[0].axes) == 6
    assert drawn[0].axes[0].get_xscale() == "log"


def test_a_study_that_varies_words_has_a_row_for_each(tmp_path: Path, drawn: list[Figure]) -> None:
    cells = []
    for rank, kernel in enumerate(("disk", "gaussian", "ideal")):
        for seed in range(3):
            stage = fakes.chain(kernel, seed, rho_max=float(rank))
            fakes.finish(tmp_path, stage, rank / 3, seed)
            cells.append(fakes.cell(kernel, seed, stage, f"FVAR, {kernel}", kernel=kernel))
    results = fakes.write_cells(tmp_path, "kernel", cells)
    assert plot_sweep.varied(results) == []  # no axis
    plot_sweep.draw(results)
    fid = drawn[0].axes[0]
    assert [text.get_text() for text in fid.get_yticklabels()] == ["FVAR, disk", "FVAR, gaussian", "FVAR, ideal"]
    scores = [cell.score("fid") for cell in results.variants()["ideal"]]
    assert [xs(line) for line in fid.get_lines() if ys(line) == [2, 2, 2]] == [scores]
    bars = fid.collections[0]
    assert isinstance(bars, LineCollection)
    assert len(bars.get_segments()) == 3  # an interval each


def test_scales_and_the_tokens_that_follow_from_them_are_one_axis(tmp_path: Path, drawn: list[Figure]) -> None:
    cells = []
    for states, tokens in ((2, 65), (3, 81), (4, 85)):
        stage = fakes.chain("full", 0, rho_max=float(states))
        fakes.finish(tmp_path, stage, states / 5, 0)
        cells.append(fakes.cell(f"K{states}", 0, stage, states=states, tokens=tokens))
    plot_sweep.draw(fakes.write_cells(tmp_path, "sweep_focus_states", cells))
    assert xs(drawn[0].axes[0].get_lines()[0]) == [2, 3, 4]


def test_two_methods_at_the_same_value_have_a_row_each(tmp_path: Path, drawn: list[Figure]) -> None:
    """As in study resolution: a curve over pixels would run from the baseline to FVAR and back."""
    cells = []
    for index, (name, pixels) in enumerate((name, pixels) for pixels in (32, 64) for name in ("baseline", "full")):
        stage = fakes.chain("full", index)
        fakes.finish(tmp_path, stage, 0.5, index)
        cells.append(fakes.cell(f"{name}-{pixels}", 0, stage, pixels=pixels))
    plot_sweep.draw(fakes.write_cells(tmp_path, "resolution", cells))
    labels = [label.get_text() for label in drawn[-1].axes[0].get_yticklabels()]
    assert labels == ["baseline-32", "full-32", "baseline-64", "full-64"]


def test_the_variants_of_table_2_are_no_sweep(tmp_path: Path) -> None:
    stages = [fakes.chain(name, 0) for name in ("full", "baseline")]
    cells = [
        fakes.cell(f"m{i}", 0, stage) | {"params": {"variant": ("full", "baseline")[i]}}
        for i, stage in enumerate(stages)
    ]
    with pytest.raises(UserError, match="no sweep to draw"):
        plot_sweep.draw(fakes.write_cells(tmp_path, "ablation_table2", cells))


# -------------------------------------------------------------------------------------------------------- command lines


@pytest.mark.parametrize("script", ["plot_convergence", "plot_sweep", "gallery", "pairs"])
def test_without_results_one_line_says_what_to_run_first(script: str, tmp_path: Path) -> None:
    command = [sys.executable, f"analysis/{script}.py", "ablation_table2", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "run `python -m studies.run ablation_table2 --preset smoke` first" in done.stderr


def test_a_figure_is_redrawn_from_results_alone_without_installing_the_package(ablation: StudyResults) -> None:
    """`-S` hides site-packages' editable install; the libraries are put back by their own folder."""
    path, pdf = plot_convergence.draw(ablation)
    before = path.read_bytes()
    path.unlink()
    libraries = str(Path(np.__file__).resolve().parents[1])
    command = [sys.executable, "-S", "analysis/plot_convergence.py", "--results", str(ablation.folder.parents[1])]
    environment = os.environ | {"PYTHONPATH": libraries}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(path), str(pdf)]
    assert path.read_bytes() == before
    with Image.open(path) as image:
        assert image.size[0] >= 1000


def test_a_name_from_the_command_line_is_never_a_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the name of a study or preset"):
        plot_convergence.main(["../runs", "--results", str(tmp_path)])


def test_a_study_without_evaluations_says_what_to_wait_for(tmp_path: Path) -> None:
    fakes.write_cells(tmp_path, "table1", [fakes.cell("full", 0, fakes.chain("full", 0))])
    for module, words in ((plot_convergence, "was evaluated yet"), (gallery, "has samples yet")):
        with pytest.raises(UserError, match=words):
            module.draw(StudyResults.read(tmp_path, "table1", "smoke"))
