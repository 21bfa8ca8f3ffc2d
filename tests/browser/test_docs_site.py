"""The documentation in a browser: nothing is fetched from elsewhere, no complaint, no page is wider than a phone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Browser, browsing

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
OPENED = ("index", "tour", "your-variant", "paper", "run-directory", "design", "READINGS", "api/fvar.focus")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("width", [380, 1280])
def test_pages_open_from_files_alone(width: int, site: Path, browser: Browser) -> None:
    browser.look_like(width)
    for name in OPENED:
        browser.open(f"file://{site}/{name}.html")
        assert browser.complaints() == [], name
        fetched = browser.run("return performance.getEntriesByType('resource').map(each => each.name)")
        assert [each for each in fetched if not each.startswith(("file:", "data:"))] == [], name
        assert browser.run("return document.documentElement.scrollWidth") <= width, name
        empty = "return [...document.images].filter(each => !each.naturalWidth).map(each => each.src)"
        assert browser.run(empty) == [], name
