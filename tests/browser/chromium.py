"""Debian's chromium, driven over the WebDriver protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--window-size=1600,1000"]
PATIENCE = 120  # seconds until a page must show what it should


class Browser:
    """One session of a headless chromium."""

    def __init__(self, session: str) -> None:
        self.session = session  # its address

    def open(self, address: str) -> None:
        ask("POST", f"{self.session}/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns that runs in the page."""
        return ask("POST", f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str) -> Any:
        """Likewise, of a script that hands its result to its last argument, `arguments[0]`."""
        return ask("POST", f"{self.session}/execute/async", {"script": script, "args": []})

    def look_like(self, width: int, dark: bool = False, height: int = 900) -> None:
        """Show pages at this width in px, in a light or dark scheme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def press(self, *keys: str) -> None:
        """Press keys, one after another, on whatever has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        ask("POST", f"{self.session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def complaints(self) -> list[str]:
        """What the console got since the last look."""
        return [entry["message"] for entry in ask("POST", f"{self.session}/se/log", {"type": "browser"})]

    def picture(self, path: Path, whole: bool = True) -> None:
        """Write the whole page as PNG, or what is in view: for the rest, chromium lays the page out anew."""
        shot = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(shot["data"]))

    def _devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return ask("POST", f"{self.session}/goog/cdp/execute", {"cmd": command, "params": parameters})


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own; skips the test where chromium is not installed."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: apt-get install chromium chromium-driver")
    port = free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}/session"
    session = ""
    try:
        wait_for(lambda: connects(port))
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = ask("POST", base, {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        yield Browser(f"{base}/{session}")
    finally:
        if session:
            ask("DELETE", f"{base}/{session}", None)
        driver.terminate()
        driver.wait(30)


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
