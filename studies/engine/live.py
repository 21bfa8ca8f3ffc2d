"""What a driver shows while it works: a live table on a terminal, one line per event anywhere else."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from analysis import standing
from analysis.standing import State
from fvar.machine import troubles
from fvar.rundir import Status
from studies.engine.nodes import Node
from studies.study import Cell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMNS = ("cell", "state", "stage", "step", "loss", "images/s", "ETA", "GPU h", "")
COLOURS = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "ready": "blue",
    "failed": "bold red",
    "blocked": "red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "pruned": "magenta",
}
ORDER = ("failed", "blocked", "cancelled", "interrupted", "running", "queued", "ready", "waiting", "pruned", "done")
MANY = 200  # rows above which a drawn table is slow
LEFT_OUT = ("GPU h", "images/s", "loss", "stage", "ETA", "")  # in this order, where a terminal is narrow
NAME, NOTE = 18, 12  # columns that a cell's name and its note are sure to get
ECHO = 4  # columns kept free beside the live table: a terminal writes ^C after it, and must not begin a line for that
HEARTBEAT = 30.0  # seconds between two lines about the same running stage without a terminal


class Row(NamedTuple):
    """One line of the live table, as text."""

    cell: str
    state: str
    stage: str = ""
    step: str = ""
    loss: str = ""
    rate: str = ""
    eta: str = ""
    gpu_hours: str = ""  # spent so far; the column is left out where no row has any
    note: str = ""


def row(
    name: str, chain: Sequence[str], states: Mapping[str, State], statuses: Mapping[str, Status], pruned: str = ""
) -> Row:
    """A cell's line: the stage that stops it or moves it, and how far that is. `chain` names its run directories.

    A stage without a state is done: nobody looks above a finished one. `pruned` says why a search gave the cell up.
    """
    state, stage = standing.of_cell({stage: states.get(stage, "done") for stage in chain})
    if pruned and state != "done":
        return Row(name, "pruned", note=pruned)
    status = statuses.get(stage, Status())
    if state in ("done", "waiting"):
        return Row(name, state, note=_first_note(chain, states, statuses) if state == "waiting" else "")
    return Row(
        name,
        state,
        stage.partition("-")[0],
        f"{status.step}/{status.steps}" if status.steps else "",
        "" if status.loss is None else f"{status.loss:.4g}",
        "" if status.rate is None else f"{status.rate:.0f}",
        "" if status.eta is None else duration(status.eta),
        note=standing.last_line(status.error) if state in ("failed", "blocked") else status.note,
    )


def _first_note(chain: Sequence[str], states: Mapping[str, State], statuses: Mapping[str, Status]) -> str:
    """What a stage that has not begun has to say: that its status cannot be read."""
    notes = (statuses[stage].note for stage in chain if states.get(stage) == "waiting" and stage in statuses)
    return next(filter(None, notes), "")


def _columns(rows: Sequence[Row], width: int) -> dict[int, int]:
    """Which columns fit a terminal with their numbers whole, and how wide they are; a long name and a note may be cut.

    The note gives way to the name as far as `NOTE`, then the name to the note.
    """
    shown = [i for i, heading in enumerate(COLUMNS) if heading != "GPU h" or any(line.gpu_hours for line in rows)]
    widths = [max(len(text) for text in column) for column in zip(COLUMNS, *rows, strict=True)]
    name, note = 0, len(COLUMNS) - 1
    least = [*widths]
    least[name], least[note] = min(widths[name], NAME), min(widths[note], NOTE)

    def spare() -> int:
        """What is left of the line: the drawn table has three columns between any two, and one at either end."""
        return width - sum(least[i] + 3 for i in shown) + 1

    for heading in LEFT_OUT:
        if spare() >= 0:
            break
        shown = [i for i in shown if COLUMNS[i] != heading]
    least[name] = max(1, least[name] + min(0, spare()))  # on the narrowest, the name gives way to numbers
    for index in (name, note):
        if index in shown:
            least[index] += max(0, min(spare(), widths[index] - least[index]))
    return {i: least[i] for i in shown}


def table(rows: Iterable[Row], title: str = "", width: int = 0, whole: bool = False) -> Table:
    """The rows as a rich table, for a terminal of `width` columns (0: of this one).

    One line per row, so that a live view knows its height; with `whole` notes take as many as they need.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    rows = list(rows)
    shown = _columns(rows, width or shutil.get_terminal_size().columns)
    for index, columns in shown.items():
        heading = COLUMNS[index]
        right = heading in ("step", "loss", "images/s", "ETA", "GPU h")
        folded = whole and heading == ""
        drawn.add_column(
            heading,
            justify="right" if right else "left",
            overflow="fold" if folded else "ellipsis",
            no_wrap=not folded,
            width=columns,
        )
    for line in rows:
        colour = COLOURS.get(line.state, "")
        texts = [escape(text) for text in line]
        texts[1] = f"[{colour}]{line.state}[/]" if colour else line.state
        drawn.add_row(*(texts[index] for index in shown))
    return drawn


def show(rows: Sequence[Row], title: str) -> None:
    """Print the table: in colour on a terminal; as plain columns elsewhere, and where drawing it would take long."""
    if sys.stdout.isatty() and len(rows) <= MANY:
        from rich.console import Console

        Console().print(table(rows, title, whole=True))
        return
    lines = [COLUMNS, *rows]
    used = [index for index, heading in enumerate(COLUMNS) if any(line[index] for line in lines[1:]) or not heading]
    widths = {index: max(len(line[index]) for line in lines) for index in used}
    print(title)
    for line in lines:
        print("  ".join(line[index].ljust(widths[index]) for index in used).rstrip())


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class View:
    """Shows cells and stages of a scheduler; reads statuses from disk itself, so it also moves while inline trains."""

    def __init__(self, title: str, out: TextIO | None = None) -> None:
        self.title = title
        self.out = out or sys.stdout  # kept, since a stage that runs inline redirects sys.stdout to its log
        self.terminal = self.out.isatty()
        self.nodes: Mapping[str, Node] = {}
        self._chains: dict[str, list[str]] = {}  # cell -> run directories, inputs first
        self._pruned: dict[str, str] = {}  # cell -> why a search gave it up
        self._users: dict[str, list[str]] = {}  # run directory -> cells
        self._console: Console | None = None
        self.started = time.monotonic()
        self._said: dict[str, float] = {}
        self._findings: list[str] = []

    def follow(self, cells: Iterable[Cell]) -> None:
        """Show these cells."""
        cells = list(cells)
        self._pruned = {cell.name: cell.pruned for cell in cells if cell.pruned}
        self._chains = {cell.name: [stage.name for stage in cell.stage.chain()] for cell in cells}
        self._users = {}
        for name, chain in self._chains.items():
            for stage in chain:
                self._users.setdefault(stage, []).append(name)

    def report(self, findings: Iterable[str]) -> None:
        """Show what has been found so far; without a terminal, say what is new of it."""
        before, self._findings = self._findings, list(findings)
        for line in self._findings:
            if not self.terminal and line not in before:
                self.say(line)

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Keep the view up to date from a thread of its own."""
        if self.terminal:
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self.out)
            with Live(console=self._console, get_renderable=self._table, refresh_per_second=2):
                yield
            return
        finished = threading.Event()
        thread = threading.Thread(target=self._beat, args=(finished,), name="view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()

    def say(self, text: str) -> None:
        """One line; on a terminal the table moves down for it. A full disk that holds the output ends no study."""
        if self._console:
            self._console.print(text, markup=False, highlight=False)
            return
        try:
            print(f"[{duration(time.monotonic() - self.started)}] {text}", file=self.out, flush=True)
        except OSError as error:
            if not troubles.passing(error):
                raise

    def changed(self, node: Node, before: State) -> None:
        """A stage went from one state to another."""
        long_ago = node.state == "done" and before == "waiting"
        if self.terminal or long_ago or node.state in ("ready", "waiting"):
            return
        users = self._users.get(node.run.name, [])
        shared = f" (for {len(users)} cells)" if len(users) > 1 else f" ({users[0]})" if users else ""
        reason = f": {node.reason}" if node.reason else ""
        if node.state == "done":
            reason = f" in {duration(node.status.seconds)}" if node.status.seconds else ""
            reason += f"; {node.status.note}" if node.status.note else ""
        self.say(f"{node.state:9} {node.run.name}{shared}{reason}")

    def _rows(self) -> Iterator[Row]:
        nodes = dict(self.nodes)
        states = {name: node.shown for name, node in nodes.items()}
        statuses = {name: node.run.status if node.state == "running" else node.status for name, node in nodes.items()}
        for name, chain in self._chains.items():
            yield row(name, chain, states, statuses, self._pruned.get(name, ""))

    def _table(self) -> Table:
        from rich.markup import escape

        rows = list(self._rows())
        title = f"{self.title} · {duration(time.monotonic() - self.started)}"
        room = (self._console.height if self._console else 24) - 6 - len(self._findings)
        if len(rows) > room:  # what needs eyes first
            title += f" · {len(rows)} cells, {sum(line.state == 'done' for line in rows)} done"
            rows = sorted(rows, key=lambda line: ORDER.index(line.state))[:room]
        drawn = table(rows, title, self._console.width - ECHO if self._console else 0)
        drawn.caption, drawn.caption_justify = escape("\n".join(self._findings)) or None, "left"
        return drawn

    def _beat(self, finished: threading.Event) -> None:
        while not finished.wait(1.0):
            for name, node in dict(self.nodes).items():
                if node.state != "running":
                    continue
                if time.monotonic() - self._said.setdefault(name, time.monotonic()) < HEARTBEAT:
                    continue
                self._said[name] = time.monotonic()
                line = row(name, [name], {name: "running"}, {name: node.run.status})
                facts = {
                    "step": line.step,
                    "loss": line.loss,
                    "images/s": line.rate,
                    "ETA": line.eta,
                    "note:": line.note,
                }
                self.say(f"running   {name} {', '.join(f'{key} {value}' for key, value in facts.items() if value)}")
