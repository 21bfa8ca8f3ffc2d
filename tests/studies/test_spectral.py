"""The study `spectral`: its finding follows the measurements, whatever they say."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from analysis import plot_aliasing, spectral_finding, style
from fvar.errors import UserError
from studies import spectral

TINY = spectral.Settings(
    emoji_per_class=1, emoji_side=64, chart_side=64, rho_max=(0, 12), sweep_s=(4,), sweep_rho_over_s=(0.3, 0.6, 0.9)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measured study, without its figures: drawing them takes longer than measuring."""
    results = tmp_path_factory.mktemp("results")
    drawings = spectral.run(results, TINY, say=lambda line: None)
    assert next(iter(drawings)) == "README.md"
    for name in drawings.keys() - plot_aliasing.FIGURES.keys():
        drawings[name]()
        assert (results / "spectral" / name).stat().st_size
    return results / "spectral"


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_recipe_is_measured_at_every_scale_of_both_shapes(folder: Path) -> None:
    table = rows(folder / "aliasing.csv")
    emoji = [row for row in table if row["images"] == "emoji"]
    assert {row["recipe"] for row in emoji} == {
        *("decimate", "area", "bicubic", "ideal", "gaussian", "disk", "disk_pixel")
    }
    assert {(row["K"], row["k"]) for row in emoji} == {("4", str(k)) for k in (1, 2, 3)} | {
        ("10", str(k)) for k in range(1, 10)
    }
    # Without defocus the pyramid is decimation; the ideal low-pass leaves next to nothing to fold.
    for row in table:
        if (row["rho_max"] == "0" and row["recipe"] != "disk_pixel") or row["recipe"] == "ideal":
            plain = next(
                r
                for r in table
                if r["recipe"] == "decimate" and all(r[key] == row[key] for key in ("images", "K", "k"))
            )
            if row["recipe"] == "ideal":
                assert float(row["aliasing"]) < 0.5 * float(plain["aliasing"]), row
            else:
                assert float(row["aliasing"]) == pytest.approx(float(plain["aliasing"]), rel=1e-5)


def test_the_residual_is_taken_apart_at_every_scale_that_blurs(folder: Path) -> None:
    table = [row for row in rows(folder / "residual.csv") if row["images"] == "emoji" and row["recipe"] == "disk"]
    assert [(row["K"], row["k"]) for row in table] == [
        *(("4", str(k)) for k in range(1, 4)),
        *(("10", str(k)) for k in range(1, 10)),
    ]
    assert all(0 < float(row["folded"]) < 1 for row in table if row["folded"])
    assert "## What the alias residual A_k holds" in (folder / "README.md").read_text()


def test_what_was_measured_is_not_measured_again(folder: Path) -> None:
    before = (folder / "aliasing.csv").stat().st_mtime_ns
    spectral.run(folder.parent, TINY, say=pytest.fail)
    assert (folder / "aliasing.csv").stat().st_mtime_ns == before


def test_the_finding_follows_the_measurements(folder: Path, tmp_path: Path) -> None:
    """The same study with a disk that never helps finds that it never helps."""
    shutil.copy(folder / "residual.csv", tmp_path)
    for name in ("aliasing.csv", "crossover.csv"):
        table = rows(folder / name)
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(table[0]))
            writer.writeheader()
            for row in table:
                writer.writerow(row | ({"aliasing": "0.99"} if row["recipe"] == "disk" else {}))
    before, after = spectral_finding.finding(folder), spectral_finding.finding(tmp_path)
    assert "not in the range swept" in after
    assert "VAR's area filter in 0 of" in after
    assert "VAR's area filter in 0 of" not in before


def test_the_level_is_where_the_curves_cross() -> None:
    def row(recipe: str, ratio: float, aliasing: float) -> dict[str, str]:
        return {"images": "a", "s": "4.0", "recipe": recipe, "rho_over_s": str(ratio), "aliasing": str(aliasing)}

    sweep = [row("area", 0, 0.2), row("disk", 0.4, 0.4), row("disk", 0.6, 0.0), row("disk", 0.8, 0.1)]
    assert spectral_finding.crossing(sweep, "a", 4, "disk") == pytest.approx(0.5)
    assert spectral_finding.crossing([row("area", 0, 0.2), row("disk", 0.4, 0.4)], "a", 4, "disk") is None


def test_figures_need_measurements_and_say_which_command_makes_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m studies\.run spectral"):
        plot_aliasing.draw(tmp_path)


@pytest.mark.slow
def test_all_figures_are_drawn_from_the_files_alone(folder: Path) -> None:
    drawn = {path.name for path in plot_aliasing.draw(folder)}
    assert {Path(name).with_suffix(".png").name for name in drawn if name.endswith(".pdf")} <= drawn
    assert sorted(name for name in drawn if name.endswith(".png")) == [
        "aliasing_K10.png",
        "aliasing_K4.png",
        "crossover.png",
        "otf.png",
        "spectra.png",
        "strip.png",
    ]
    widths = {Image.open(folder / name).width / 300 for name in drawn if name.endswith(".png")}  # 300 dpi
    assert {round(width, 6) for width in widths} == {style.PAGE}


def test_the_figure_script_runs_as_a_file_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, plot_aliasing.__file__, "--results", "nowhere"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 2
    assert "python -m studies.run spectral" in run.stderr


def test_the_study_is_known_without_torch() -> None:
    code = "import sys, studies.spectral; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
