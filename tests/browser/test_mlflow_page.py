"""What a person sees in MLflow's pages, in a real browser (Debian's chromium, driven over the WebDriver protocol).

Pictures of the pages are left in build/screenshots.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from studies.__main__ import main as studies
from studies.tracking import describe
from studies.tracking import sync as tracking
from tests import fakes
from tests.browser.chromium import Browser, browsing, free_port, wait_for
from tests.studies.tracking.stores import client, runs
from tests.studies.tracking.trained import chain, train

if TYPE_CHECKING:
    from mlflow.entities import Run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
MODEL = "toys-smoke-full"
MODE = "workflowType=machine_learning"  # MLflow's pages are those of language models otherwise
LINES = "return document.querySelectorAll('.scatterlayer .trace, .parcoords-line-layer, .parcoords').length"
LINKS = "return [...document.querySelectorAll('a')].map((link) => link.href)"
TIDY = "document.querySelectorAll('[aria-label=Close]').forEach((button) => button.click())"  # what MLflow advertises
HEADINGS = """
    const place = (cell) => cell.getBoundingClientRect().left;  // the grid's elements are in an order of their own
    const cells = [...document.querySelectorAll('[role=columnheader]')].sort((a, b) => place(a) - place(b));
    return cells.map((cell) => cell.innerText.trim())
"""


@dataclass(frozen=True)
class Site:
    """`python -m studies ui` over a finished study of six variants and a promoted cell of another study."""

    address: str
    runs: dict[str, Run]  # of the six variants, by name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    results = tmp_path_factory.mktemp("results")
    study = fakes.ablation(results, seeds=1)
    with open(study.cells[1].chain["var"].path / "system.jsonl", "a") as file:
        for number, percent in enumerate((20, 90, 60)):
            file.write(json.dumps({"time": 1.8e9 + 10 * number, "cpu_utilization_percentage": percent}) + "\n")
    tracking.sync(results, study)
    train(results, chain(0), 0)
    fakes.write_cells(results, "toys", [fakes.cell("full", 0, chain(0))], title="Toys")
    studies(["promote", "toys/smoke/full/seed0", "--name", MODEL, "--results", str(results)])
    found = runs(client(results))
    port = free_port()
    command = [sys.executable, "-m", "studies", "ui", "--results", str(results), "--port", str(port)]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert ui.stdout
        assert ui.stdout.readline() == "starting MLflow ...\n"
        assert f"127.0.0.1:{port}" in ui.stdout.readline()
        yield Site(f"http://127.0.0.1:{port}", found)
    finally:
        ui.send_signal(signal.SIGTERM)
        assert ui.wait(60) == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        found.look_like(1600, height=1500)
        yield found


def show(browser: Browser, address: str, name: str, *words: str, drawn: int = 0, linked: str = "") -> None:
    """Open a page and keep a picture of it, once it says all these words, has `drawn` lines or more, and a link."""
    text, looks = "", 0

    def complete() -> bool:
        nonlocal text, looks
        browser.run(TIDY)  # after which pages draw anew
        text = str(browser.run("return document.body.innerText"))
        lines = int(browser.run(LINES))
        links = list(browser.run(LINKS))
        there = all(word in text for word in words) and lines >= drawn and any(linked in link for link in links)
        looks = looks + 1 if there else 0
        return looks == 4

    browser.open(f"{address}{'&' if '?' in address else '?'}{MODE}")
    try:
        wait_for(complete, lambda: text)
    finally:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        browser.picture(SCREENSHOTS / f"mlflow-{name}.png", whole=False)


def test_the_list_opens_with_variant_seed_preset_scores_and_state(site: Site, browser: Browser) -> None:
    cells = [f"{variant}/seed0" for variant in fakes.VARIANTS]
    show(browser, describe.page(site.address, "1").replace(f"{MODE}&", ""), "list", *cells, "variant", "FID", "KID")
    headings = [text for text in browser.run(HEADINGS) if text]
    first = [headings.index(name) for name in ("variant", "seed", "preset", "FID", "KID", "state")]
    assert first == sorted(first)


def test_six_variants_are_compared_on_one_page(site: Site, browser: Browser) -> None:
    names = [f"{variant}/seed0" for variant in fakes.VARIANTS]
    ids = json.dumps([site.runs[name].info.run_id for name in names])
    address = f'{site.address}/#/compare-runs?runs={ids}&experiments=["1"]'
    show(browser, address, "compare", "Comparing 6 Runs", *names, drawn=1)


def test_a_stages_run_shows_its_curves_and_the_load_of_its_machine(site: Site, browser: Browser) -> None:
    run = f"{site.address}/#/experiments/1/runs/{site.runs['var full/seed0'].info.run_id}"
    show(
        browser,
        f"{run}/model-metrics",
        "curves",
        *(f"({key})" for key in ("heldout/accuracy", "train/cross_entropy", "train/lr")),
    )
    show(browser, f"{run}/system-metrics", "load", "cpu_utilization_percentage", drawn=1)
    show(browser, run, "stage", "python -m fvar.run")


def test_a_promoted_model_shows_its_card_its_tags_and_its_signature(site: Site, browser: Browser) -> None:
    show(browser, f"{site.address}/#/models", "models", MODEL)
    words = ("small preset", "FID", "full/seed0", "class")
    show(browser, f"{site.address}/#/models/{MODEL}/versions/1", "model", *words, linked="/runs/")
