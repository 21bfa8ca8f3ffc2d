"""What a person sees in MLflow's pages, in a real browser (Debian's chromium, driven over the WebDriver protocol)."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studies.tracking import sync as tracking
from tests import fakes

pytestmark = pytest.mark.browser

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--window-size=1600,1000"]
PATIENCE = 120  # seconds until a page must show what it should


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
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: apt-get install chromium chromium-driver")
    port = free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}/session"
    session = ""
    try:
        wait_for(lambda: connects(port))
        options = {"args": [*FLAGS, f"--user-data-dir={tmp_path}"]}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        session = ask("POST", base, {"capabilities": wanted})["sessionId"]
        shown: list[str] = []

        def read(address: str) -> str:
            if shown != [address]:
                ask("POST", f"{base}/{session}/url", {"url": address})
                shown[:] = [address]
            script = {"script": "return document.body.innerText", "args": []}
            return str(ask("POST", f"{base}/{session}/execute/sync", script))

        yield read
    finally:
        if session:
            ask("DELETE", f"{base}/{session}", None)
        driver.terminate()
        driver.wait(30)


def test_every_cell_of_table_2_is_a_run_on_the_page(site: str, read_page: Callable[[str], str]) -> None:
    names = ["baseline", "full", "no_refocusing", "gaussian", "no_teacher", "no_dual"]

    def all_shown() -> bool:
        text = read_page(f"{site}/#/experiments/1/runs")
        return all(re.search(rf"\b{name}/seed0", text) for name in names)

    wait_for(all_shown, lambda: read_page(f"{site}/#/experiments/1/runs"))


def ask(method: str, address: str, body: dict[str, Any] | None) -> Any:
    """One WebDriver command; its value."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read())["value"]


def wait_for(condition: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s; instead: {explain()[:2000]}"
        time.sleep(0.5)


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
