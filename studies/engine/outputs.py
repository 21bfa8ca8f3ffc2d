"""What a study leaves for people: table, figures and MLflow, drawn from run directories and drawn again any time."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from analysis.cells import Place
from analysis.report.facts import PRICE
from analysis.results import StudyResults
from analysis.style import Drawings, draw_each
from fvar.errors import one_line, spared
from fvar.machine import atomic, records
from studies.study import Context, Study

STAMP = ".outputs.json"
SYNC_SECONDS = 60.0  # MLflow is brought up to date at most once in this while stages run
LAST_SYNC_SECONDS = 600.0  # that a study waits for MLflow at its end
ROOT = Path(__file__).resolve().parents[2]


def write(ctx: Context, say: Callable[[str], None]) -> list[Path]:
    """Write what the study shows, the table first; nothing where no cell is done yet.

    What was drawn from the same results is left alone: importing the drawing libraries alone takes seconds. What fails
    costs a drawing and a line, and is tried again next time.
    """
    if ctx.study.outputs:
        return draw_each(ctx.study.outputs(ctx.results), say)[0]
    results = ctx.read()
    if not any(cell.state[0] == "done" for cell in results.cells):
        return []
    files, drawn = written(ctx.folder), _read(ctx.folder / STAMP)
    fresh = drawn.get("fingerprint") == results.fingerprint and not drawn.get("failed")
    if not fresh or not all(file.exists() for file in files):
        return draw(results, ctx.study, say)[0]
    return files


def draw(
    results: StudyResults, study: Study, say: Callable[[str], None], price: float = PRICE
) -> tuple[list[Path], list[str]]:
    """Write table, figures and page of some results, and record which files they are.

    Returns the files, and the names of those that failed. `price` is that of a GPU hour.
    """
    from analysis.report import page

    if study.outputs:
        return draw_each(study.outputs(results.folder.parents[1]), say)
    drawings = dict((study.report or report)(results))
    if drawings:  # the page shows the others, so it comes last
        drawings[page.FILE] = partial(page.write, results, price, own_table=study.report is not None)
    files, failed = draw_each(drawings, say)
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


class Tracker:
    """Brings MLflow up to date with one study, in a process of its own: the driver never waits for it while stages run.

    MLflow is a projection: whatever it fails at costs a line, never the study.
    """

    def __init__(self, place: Place, uri: str = "", every: float = SYNC_SECONDS) -> None:
        self.place = place
        self.uri = uri
        self.every = every
        self._last = time.monotonic()
        self._process: subprocess.Popen[str] | None = None
        self._complaint = ""

    @property
    def due(self) -> bool:
        """Whether the last time is long enough ago."""
        return time.monotonic() - self._last >= self.every

    def start(self, say: Callable[[str], None]) -> None:
        """Start it, unless it still runs; say what the last one failed at, once."""
        self._last = time.monotonic()
        if self._process is not None and self._process.poll() is None:
            return
        self._look(say)
        command = [sys.executable, "-m", "studies", "sync", self.place.study, "--preset", self.place.preset]
        command += ["--results", str(self.place.results.resolve()), *(["--tracking-uri", self.uri] if self.uri else [])]
        nothing = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=nothing,
                stdout=nothing,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            say(f"warning: MLflow is not up to date: {one_line(error)}")

    def conclude(self, say: Callable[[str], None]) -> None:
        """Bring it up to date once more and wait for that, but not for ever."""
        deadline = time.monotonic() + LAST_SYNC_SECONDS
        for once_more in (False, True):
            if once_more:
                self.start(say)
            if self._process is None:
                continue
            try:
                self._process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._process.kill()
                say("warning: MLflow is not up to date: it took too long; `python -m studies sync` goes on with it")
                return
        self._look(say)

    def _look(self, say: Callable[[str], None]) -> None:
        """Say what a sync that has ended failed at, where the one before did not fail at the same."""
        if self._process is None or self._process.stderr is None:
            return
        lines = self._process.stderr.read().strip().splitlines() if self._process.returncode else []
        complaint = lines[-1].removeprefix("error: ") if lines else ""
        if complaint and complaint != self._complaint:
            say(f"warning: MLflow is not up to date: {complaint}; the next sync catches up")
        self._complaint = complaint
        self._process = None


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(records.Damaged):
        return records.read_object(path) or {}
    return {}
