"""A study's page in a real browser: nothing in the console, nothing for axe-core to find, keys and narrow screens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from analysis.report import front, page
from tests import fakes
from tests.browser.chromium import Browser, browsing

pytestmark = pytest.mark.browser

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")  # 4.14.1, MPL 2.0
FIND = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(
  (found) => done(found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`)));
"""
LOOKS = [(width, dark) for width in (380, 1280) for dark in (False, True)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of a study's page, with failures, bands and films, and of the front page."""
    results = fakes.ablation(tmp_path_factory.mktemp("results"), seeds=3, unfinished=("no_dual",))
    frames = np.zeros((2, 3, 64, 64, 3), np.uint8)
    np.savez(results.cells[0].chain["samples"].path / "films.npz", arr_0=frames, labels=np.array([0, 1]))
    study = page.write(results)[0]
    return {"study": study.as_uri(), "front": front.write(results.folder.parents[1])[0].as_uri()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("name", ["study", "front"])
@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_pages_have_no_console_error_no_finding_of_axe_and_fit_the_screen(
    browser: Browser, pages: dict[str, str], name: str, width: int, dark: bool
) -> None:
    browser.look_like(width, dark)
    browser.open(pages[name])
    assert browser.complaints() == []
    browser.run(AXE)
    assert browser.run_async(FIND) == []
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)"
    )


def test_charts_are_drawn_with_a_line_per_variant_that_a_box_hides(browser: Browser, pages: dict[str, str]) -> None:
    browser.look_like(1280)
    browser.open(pages["study"])
    drawn = "return [...document.querySelectorAll('.plot canvas')].map((canvas) => canvas.toDataURL())"
    before = browser.run(drawn)
    assert len(before) == 2
    browser.run("const box = document.querySelector('.legend input'); box.focus()")
    browser.press(" ")
    after = browser.run(drawn)
    assert all(first != second for first, second in zip(before, after, strict=True))


def test_a_heading_sorts_by_keyboard_and_says_so(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(pages["study"])
    column = (
        "return [...document.querySelector('table.sortable').tBodies[0].rows].map((row) => row.cells[3].dataset.key)"
    )
    browser.run("document.querySelectorAll('table.sortable thead tr:last-child button')[3].focus()")
    browser.press("\ue007")  # Enter
    rising = [float(key) for key in browser.run(column) if key is not None]
    assert rising == sorted(rising)
    browser.press("\ue007")
    falling = [float(key) for key in browser.run(column) if key is not None]
    assert falling == sorted(rising, reverse=True)
    assert browser.run(column)[-1] is None  # what was not measured stays last
    assert browser.run("return document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_the_sample_browser_shows_one_class_and_goes_on_by_arrow_keys(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(pages["study"])
    assert browser.run("return [...document.querySelectorAll('.class-group')].filter((g) => !g.hidden).length") == 1
    browser.run("document.querySelector('.class-group:not([hidden]) .zoom').focus()")
    browser.press("\ue007")
    assert browser.run("return document.querySelectorAll('dialog[open] img').length") == 5  # a finished variant each
    first = browser.run("return document.getElementById('enlarged-what').textContent")
    browser.press("\ue014")  # right
    assert browser.run("return document.getElementById('enlarged-what').textContent") != first
    browser.press("\ue00c")  # Escape
    assert not browser.run("return document.getElementById('enlarged').open")
    assert browser.run("return document.activeElement.className") == "zoom"
