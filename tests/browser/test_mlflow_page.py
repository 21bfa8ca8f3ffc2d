"""What a person sees in MLflow's pages, in a real browser (Debian's chromium, driven over the WebDriver protocol)."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studies.tracking import sync as tracking
from tests import fakes
from tests.browser.chromium import browsing, free_port, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `python -m studies ui` over a finished six-variant study."""
    results = tmp_path_factory.mktemp("results")
    tracking.sync(results, fakes.ablation(results, seeds=1))
    port = free_port()
    command = [sys.executable, "-m", "studies", "ui", "--results", str(results), "--port", str(port)]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert ui.stdout
        assert ui.stdout.readline() == "starting MLflow ...\n"
        assert f"127.0.0.1:{port}" in ui.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        ui.send_signal(signal.SIGTERM)
        assert ui.wait(60) == 0


@pytest.fixture
def read_page(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Opens an address in chromium; called again with it, gives the page's text as it is by then."""
    with browsing(tmp_path) as browser:
        shown: list[str] = []

        def read(address: str) -> str:
            if shown != [address]:
                browser.open(address)
                shown[:] = [address]
            return str(browser.run("return document.body.innerText"))

        yield read


def test_every_cell_of_table_2_is_a_run_on_the_page(site: str, read_page: Callable[[str], str]) -> None:
    names = ["baseline", "full", "no_refocusing", "gaussian", "no_teacher", "no_dual"]

    def all_shown() -> bool:
        text = read_page(f"{site}/#/experiments/1/runs")
        return all(re.search(rf"\b{name}/seed0", text) for name in names)

    wait_for(all_shown, lambda: read_page(f"{site}/#/experiments/1/runs"))
