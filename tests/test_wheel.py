"""The wheel, installed in a fresh environment: it holds what it needs, and works in a folder that is no checkout.

What fvar depends on comes from the environment of these tests, by a .pth file: installing it anew takes minutes and
gigabytes, and says nothing of the wheel but that its metadata name what pyproject.toml does, which is looked at here.
fvar itself is not found that way: pip's editable installations are .pth files, too, which Python does not follow twice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import fvar
from tests import shortened

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fvar", "analysis", "studies")
READ = {  # what the code reads beside itself
    "analysis/published.csv",
    "analysis/report/assets/uPlot.LICENSE",
    "analysis/report/assets/uPlot.iife.min.js",
    "analysis/report/assets/uPlot.min.css",
    *(f"analysis/report/templates/{path.name}" for path in (ROOT / "analysis/report/templates").iterdir()),
    *(f"fvar/data/emoji/{path.name}" for path in (ROOT / "fvar/data/emoji").iterdir()),
    "fvar/data/words.txt",
    "studies/profiles/a100.toml",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools takes over what an earlier build left in the folder."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "build", "results", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, folder / "source")
    (made,) = folder.glob("fvar-*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    interpreter = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    pip("--python", interpreter, "install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    return interpreter


def pip(*words: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run(python: Path, cwd: Path, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "FVAR_PLUGINS")}
    done = subprocess.run([python, *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_it_holds_the_packages_what_they_read_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith("fvar-")}
    code = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert names == code | READ


def test_it_says_what_it_is_and_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        found = message_from_string(archive.read(name).decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [need for need in found.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert found["Version"] == fvar.__version__
    assert {need.replace(" ", "") for need in asked} == set(project["dependencies"])


def test_away_from_a_checkout_table_2_is_planned_run_and_reported(python: Path, tmp_path: Path) -> None:
    place = run(python, tmp_path, "-c", "import fvar, studies, analysis; print(fvar.__file__, studies.__file__)")
    assert all(Path(path).is_relative_to(python.parents[1]) for path in place.split())
    assert "6 cells" in run(python, tmp_path, "-m", "studies.run", "ablation_table2", "--dry-run")
    assert list(tmp_path.iterdir()) == []

    out = run(python, tmp_path, "-m", "studies.run", "ablation_table2", *shortened.ARGUMENTS)
    assert "6 of 6 cells done" in out
    (folder,) = (tmp_path / "results" / "ablation_table2").iterdir()
    assert "cited FID" in (folder / "table.md").read_text()
    assert "uPlot" in (folder / "index.html").read_text()
    assert (tmp_path / "results" / "mlflow.db").exists()

    before = {path.name: path.read_bytes() for path in folder.glob("table.*")}
    run(python, tmp_path, "-m", "studies", "report", "ablation_table2", "--preset", folder.name)
    assert {path.name: path.read_bytes() for path in folder.glob("table.*")} == before
    assert "6 done" in run(python, tmp_path, "-m", "studies", "status")
