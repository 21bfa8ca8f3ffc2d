"""What a study leaves for people: table, figures and MLflow, drawn from run directories and drawn again any time."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from analysis.results import StudyResults
from analysis.style import Drawings, draw_each
from fvar.errors import spared
from fvar.machine import atomic
from studies.study import Context, Study

STAMP = ".outputs.json"
SYNC_SECONDS = 60.0  # MLflow is brought up to date at most once in this while stages run
ROOT = Path(__file__).resolve().parents[2]


def write(ctx: Context, say: Callable[[str], None]) -> list[Path]:
    """Write what the study shows, the table first; nothing where no cell is done yet.

    What was drawn from the same results is left alone: importing the drawing libraries alone takes seconds. What fails
    costs a drawing and a line, and is tried again next time.
    """
    if ctx.study.outputs:
        return draw_each(ctx.study.outputs(ctx), say)[0]
    results = ctx.read()
    if not any(cell.state[0] == "done" for cell in results.cells):
        return []
    files, drawn = written(ctx.folder), _read(ctx.folder / STAMP)
    fresh = drawn.get("fingerprint") == results.fingerprint and not drawn.get("failed")
    if not fresh or not all(file.exists() for file in files):
        return draw(results, ctx.study, say)[0]
    return files


def draw(results: StudyResults, study: Study, say: Callable[[str], None]) -> tuple[list[Path], list[str]]:
    """Write table and figures of some results, and record which files they are.

    Returns the files, and the names of those that failed.
    """
    files, failed = draw_each((study.report or report)(results), say)
    body = {"fingerprint": results.fingerprint, "files": [file.name for file in files], "failed": failed}
    with spared("the figures will be drawn again next time", say):
        atomic.write_json(results.folder / STAMP, body)
    return files, failed


def written(folder: Path) -> list[Path]:
    """The files that `write` last left in a study's folder."""
    return [folder / Path(name).name for name in _read(folder / STAMP).get("files", [])]


def report(results: StudyResults) -> Drawings:
    """The table of a study of samples, and the figures that its results are enough for."""
    from analysis import gallery, pairs, plot_convergence, plot_sweep, table

    return {
        "table.md": partial(table.write, results),
        "sweep.png": partial(plot_sweep.draw, results),
        "convergence.png": partial(plot_convergence.draw, results),
        "samples.png": partial(gallery.draw, results),
        "pairs.png": partial(pairs.draw, results),
    }


def track(ctx: Context, say: Callable[[str], None]) -> None:
    """Bring MLflow up to date. It is a projection: whatever it fails at costs a line, never the study."""
    with spared("MLflow is not up to date", say):
        from studies.tracking.sync import sync

        results = ctx.read()
        if results.cells:
            sync(ctx.results, results, written(ctx.folder))


class Tracker:
    """Brings MLflow up to date while stages run, in a process of its own: the driver never waits for it."""

    def __init__(self, results: Path, every: float = SYNC_SECONDS) -> None:
        self.results = results
        self.every = every
        self._last = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def due(self) -> bool:
        """Whether the last time is long enough ago."""
        return time.monotonic() - self._last >= self.every

    def start(self) -> None:
        """Start it, unless it still runs."""
        self._last = time.monotonic()
        if self._process is not None and self._process.poll() is None:
            return
        command = [sys.executable, "-m", "studies", "sync", "--results", str(self.results.resolve())]
        nothing = subprocess.DEVNULL
        with contextlib.suppress(OSError):  # the end of the study brings it up to date, and says where that fails
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
            )

    def wait(self) -> None:
        """Wait for it to end: two at once would write the same runs."""
        if self._process is not None:
            self._process.wait()


def _read(path: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return body
