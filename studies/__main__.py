"""Look at studies and tidy up after them; `python -m studies.run` runs them.

    python -m studies list
    python -m studies status ablation_table2 --watch
    python -m studies logs ablation_table2 full -f
    python -m studies diff ablation_table2 full baseline
    python -m studies report ablation_table2 --html
    python -m studies export ablation_table2 --preset desk --to results/reference
    python -m studies retry ablation_table2
    python -m studies promote full/seed0 --name emoji
    python -m studies claims

Exit status: 0, or 1 where `status` finds failed cells or `report` could not draw a figure, or 2 for a wrong command.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc as collector
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import cells
from analysis.cells import Place, StudyRecord
from fvar import plugins
from fvar.errors import UserError, run_main
from studies import tracked
from studies.engine import commands
from studies.engine.asking import ask
from studies.engine.backends import factory
from studies.engine.live import show
from studies.engine.profile import DEFAULT, Profile
from studies.study import names, study

if TYPE_CHECKING:
    from rich.table import Table

COMPLETION = """Completion in the shell: eval "$(python -m studies.completion bash)", or zsh."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    plugins.load(arguments.plugin)
    handler = {
        "list": list_studies,
        "status": status,
        "logs": logs,
        "diff": diff,
        "report": report,
        "export": export,
        "retry": retry,
        "cancel": cancel,
        "gc": gc,
        "ui": tracked.ui,
        "sync": tracked.sync,
        "promote": tracked.promote,
        "claims": claims,
    }[arguments.command]
    return handler(arguments)


def list_studies(arguments: argparse.Namespace) -> int:
    if arguments.names:
        print("\n".join(names()))
        return 0
    width, places = max(map(len, names())), cells.started(arguments.results)
    for name in names():
        presets = [place.preset for place in places if place.study == name]
        started = f"   started at: {', '.join(presets)}" if presets else ""
        print(f"{name:<{width}}   {study(name).title}{started}")
    return 0


def status(arguments: argparse.Namespace) -> int:
    if not arguments.study:
        return _overview(arguments.results)
    recorded = _recorded(arguments)
    if arguments.watch:
        _watch(arguments)
    bill = commands.spent(recorded)
    found, silent = ask(recorded.place.runs, commands.standings(recorded))
    rows = list(commands.status_rows(recorded, bill, found))
    show(rows, recorded.title)
    if silent:
        print(silent)
    if old := recorded.outdated():
        print(f"computed by older code ({'; '.join(old)}): the study's command computes these and what follows anew")
    if total := sum(bill.values()):
        print(f"{total:.3g} GPU hours spent, each stage counted once")
    return 1 if any(line.state in ("failed", "blocked", "cancelled") for line in rows) else 0


def _watch(arguments: argparse.Namespace) -> None:
    """The table, again and again, until Ctrl-C."""
    from rich.live import Live

    from studies.engine.live import table

    def now() -> Table:
        recorded = _recorded(arguments)
        found, silent = ask(recorded.place.runs, commands.standings(recorded))
        title = recorded.title + (f" · {silent}" if silent else "")
        return table(commands.status_rows(recorded, commands.spent(recorded), found), title)

    with contextlib.suppress(KeyboardInterrupt), Live(now(), auto_refresh=False) as live:
        while True:
            time.sleep(2.0)
            live.update(now(), refresh=True)


def _overview(results: Path) -> int:
    from collections import Counter

    _require_there(results)
    unread = 0
    for place in cells.started(results):
        try:
            recorded = cells.read(place)
        except UserError as error:  # of one study; the others can be shown
            print(f"{place}: {error}")
            unread += 1
            continue
        counts = Counter(line.state for line in commands.status_rows(recorded))
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        print(f"{place}: {len(recorded.cells)} cells, {states}")
    return 2 if unread else 0


def logs(arguments: argparse.Namespace) -> int:
    recorded = _recorded(arguments)
    if arguments.grep:
        found = False
        for line in commands.search_logs(recorded, arguments.grep):
            print(line)
            found = True
        return 0 if found else 1
    if not arguments.cell:
        raise UserError("name a cell whose log to show, or search all logs by --grep PATTERN")
    path = commands.log_file(recorded, arguments.cell, arguments.stage)
    others = [kind for kind in commands.logged(recorded, arguments.cell) if not path.parent.name.startswith(f"{kind}-")]
    print(f"--- {path}" + (f"   (--stage {' or '.join(others)} for another)" if others else ""), file=sys.stderr)
    commands.follow(path, functools.partial(print, flush=True), arguments.follow)
    return 0


def diff(arguments: argparse.Namespace) -> int:
    first = _recorded(arguments)
    second = cells.read(cells.find(arguments.results, arguments.study, arguments.with_preset or arguments.preset))
    print("\n".join(commands.compare((first, arguments.cell), (second, arguments.other))))
    return 0


def report(arguments: argparse.Namespace) -> int:
    from analysis.style import draw_each

    if arguments.all == bool(arguments.study):
        raise UserError("name one study, or --all: python -m studies report STUDY")
    if arguments.all:
        places = cells.started(arguments.results)
        if not places:
            raise UserError(f"{arguments.results} holds no study yet; `python -m studies.run STUDY` starts one")
    else:
        places = [cells.find(arguments.results, arguments.study, arguments.preset)]
    say = functools.partial(print, file=sys.stderr)
    files: list[Path] = []
    failed: list[str] = []
    for place in places:
        try:
            drawn, lost = _report(place, arguments, say)
        except UserError as error:
            if not arguments.all:
                raise
            say(f"warning: {place} is not drawn: {error}")  # the others can be
            drawn, lost = [], [str(place)]
        files, failed = files + drawn, failed + lost
    if arguments.all:
        from analysis.report import front

        drawn, lost = draw_each({"index.html": functools.partial(front.write, arguments.results)}, say)
        files, failed = files + drawn, failed + lost
    print("\n".join(map(str, files)) or "there is nothing to draw yet")
    return 1 if failed else 0


def _report(place: Place, arguments: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Path], list[str]]:
    """Draw what a study shows, or its page alone; the files, and the names of those that failed."""
    from analysis.report import page
    from analysis.results import StudyResults
    from analysis.style import draw_each
    from studies.engine import outputs

    plugins.require(cells.read(place).plugin, f"the study {place.study}")

    asked = study(place.study)

    def write() -> list[Path]:
        return page.write(StudyResults.at(place), arguments.price, own_table=asked.report is not None)

    if arguments.html:
        if asked.outputs:
            raise UserError(f"{place.study} keeps no runs, so it has no page; leave --html out")
        return draw_each({f"{place}: {page.FILE}": write}, say)
    return outputs.draw(StudyResults.at(place), asked, say, arguments.price)


def export(arguments: argparse.Namespace) -> int:
    from studies.engine.export import export as write

    place = cells.find(arguments.results, arguments.study, arguments.preset)
    plugins.require(cells.read(place).plugin, f"the study {place.study}")
    say = functools.partial(print, file=sys.stderr, flush=True)
    print("\n".join(map(str, write(place, arguments.to, study(place.study), say))))
    return 0


def retry(arguments: argparse.Namespace) -> int:
    changed = commands.retry(_recorded(arguments), arguments.cells)
    print("\n".join(f"may run again: {name}" for name in changed) or "nothing failed or was cancelled")
    if changed:
        print("now repeat your `python -m studies.run` command")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    backends = factory(arguments.results, Profile.read(arguments.profile))
    stopped = commands.cancel(_recorded(arguments), arguments.cells, backends)
    print("\n".join(f"cancelled: {name}" for name in stopped) or "nothing is left to cancel")
    return 0


def gc(arguments: argparse.Namespace) -> int:
    _require_there(arguments.results)
    paths = commands.unreferenced(arguments.results, arguments.old_revisions)
    for path in paths:
        old = commands.outdated(path)
        print(f"{commands.size(path) / 2**20:10.1f} MiB  {path}{f'  ({old})' if old else ''}")
        if arguments.delete:
            commands.delete(path)
    verb = "deleted" if arguments.delete else "would be deleted; add --delete to do it"
    print(f"{len(paths)} run directories that no study names {verb}" if paths else "nothing to delete")
    return 0


def claims(arguments: argparse.Namespace) -> int:
    from studies.claims import page
    from studies.claims.claim import started

    names = [arguments.preset] if arguments.preset else started(arguments.results) or ["smoke"]
    for name in names:
        page.show(name, page.ledger(arguments.results, name))
    print(page.write(arguments.results, names))
    return 0


# --------------------------------------------------------------------------------------------------------------- inside


def _require_there(results: Path) -> None:
    """Raises `UserError` for a results folder that does not exist: most likely its name is mistyped."""
    if not results.is_dir():
        raise UserError(f"there is no results folder {results}; name another by --results, or run a study first")


def _recorded(arguments: argparse.Namespace) -> StudyRecord:
    return cells.read(cells.find(arguments.results, arguments.study, arguments.preset))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m studies", description="Look at studies and tidy up after them.", epilog=COMPLETION
    )
    command = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, explanation: str, study: bool = True) -> argparse.ArgumentParser:
        part = command.add_parser(name, help=explanation, description=explanation)
        part.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
        part.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="that the study is of")
        if study:
            part.add_argument("study", nargs="?" if name in ("status", "sync", "report") else None, metavar="STUDY")
            part.add_argument(
                "--preset", default="", metavar="NAME", help="default: the one it was started at, or smoke"
            )
        return part

    chosen = {"nargs": "*", "metavar": "CELL", "help": "cells or variants; none: all"}
    listing = add("list", "The studies there are, and where they were started.", study=False)
    listing.add_argument("--names", action="store_true", help="one name per line and nothing else, for scripts")
    add("status", "Where every cell stands.").add_argument("--watch", action="store_true")
    part = add("logs", "What a cell's stage printed.")
    part.add_argument("cell", nargs="?", default="", metavar="CELL")
    part.add_argument("--grep", default="", metavar="PATTERN", help="the lines of all cells' logs that match")
    part.add_argument("--stage", default="", metavar="KIND", help="of this kind; otherwise where the cell stands")
    part.add_argument("-f", "--follow", action="store_true")
    part = add("diff", "How two cells differ in settings and scores.")
    part.add_argument("cell", metavar="CELL")
    part.add_argument("other", metavar="CELL")
    part.add_argument("--with-preset", default="", metavar="NAME", help="preset of the second cell")
    part = add("report", "Draw a study's tables, figures and page again.")
    part.add_argument("--all", action="store_true", help="all studies, and the page over them")
    part.add_argument("--html", action="store_true", help="the page alone, index.html: the tables and figures stay")
    part.add_argument("--price", type=float, default=2.0, metavar="USD", help="of a GPU hour (default: 2)")
    part = add("export", "Keep what a study shows, and what it is drawn from, without weights.")
    part.add_argument("--to", type=Path, default=cells.KEPT, metavar="DIR", help="a results folder")
    add("retry", "Let failed and cancelled stages be started again.").add_argument("cells", **chosen)  # type: ignore[arg-type]
    part = add("cancel", "Stop stages for good.")
    part.add_argument("cells", **chosen)  # type: ignore[arg-type]
    part.add_argument("--profile", type=Path, default=DEFAULT, metavar="FILE", help="of the SLURM cluster")
    part = add("gc", "Run directories that no study names.", study=False)
    part.add_argument("--delete", action="store_true")
    part.add_argument("--old-revisions", action="store_true", help="also those that an older revision of fvar computed")
    part = add("ui", "MLflow on 127.0.0.1.", study=False)
    part.add_argument("--port", type=int, default=5000)
    server = {"default": "", "metavar": "URL", "help": "an MLflow server; default: $MLFLOW_TRACKING_URI, or results/"}
    part.add_argument("--tracking-uri", **server)  # type: ignore[arg-type]
    part = add("sync", "Bring MLflow up to date with the run directories.")
    part.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    part.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="with --watch")
    part.add_argument("--tracking-uri", **server)  # type: ignore[arg-type]
    part = add("promote", "Make a finished cell's network a model in MLflow's registry.", study=False)
    part.add_argument("cell", metavar="CELL", help="full/seed0, or ablation_table2/smoke/full/seed0 among several")
    part.add_argument("--name", default="", help="of the model (default: study, preset and variant)")
    part.add_argument("--tracking-uri", **server)  # type: ignore[arg-type]
    part = add("claims", "What the papers claim, held against the results.", study=False)
    part.add_argument("--preset", default="", metavar="NAME", help="default: every one that a study was started at")
    return made


if __name__ == "__main__":
    collector.set_threshold(50_000)  # at 700, a report searches its objects, few of them garbage, 500 times
    run_main(main)
