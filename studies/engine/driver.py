"""Drives one study to its end: cells in, finished stages, tables and figures out."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from analysis.contrasts import closing_in
from analysis.standing import State
from fvar import plugins
from fvar.config import data_of
from fvar.errors import DataChanged, Interrupted, UserError, unknown
from fvar.machine.signals import Stopped, terminated_like_interrupted
from studies.engine import outputs, preflight
from studies.engine.backends import Backend
from studies.engine.backends.answers import NotNow
from studies.engine.budget import Budget, OverBudget
from studies.engine.live import View
from studies.engine.nodes import FINAL, Node
from studies.engine.notify import Notifier
from studies.engine.patience import Patience
from studies.engine.scheduler import Scheduler
from studies.engine.search.store import dashboard_command
from studies.engine.settings import Settings
from studies.engine.watch import Watch
from studies.study import Cell, Context, plugin_of, record

LOG_LINES = 15
GLANCE_SECONDS = 1.0
LOOK_SHARE = 20.0  # a look at the data is followed by none for 20 times as long as it took


class Driver:
    """One study, one preset, one backend.

    Parameters
    ----------
    only
        Names of variants or cells, wildcards allowed; empty: all.
    budget
        Nothing is submitted past this; None: no limit.
    watch
        Finds stages that hang; None: nobody does.
    notify
        A command to tell of the first failure and of the end.
    tracking_uri
        Of the MLflow server that is kept up to date; empty: the store beside the results.
    """

    def __init__(
        self,
        ctx: Context,
        settings: Settings,
        only: Sequence[str] = (),
        budget: Budget | None = None,
        watch: Watch | None = None,
        notify: str = "",
        tracking_uri: str = "",
    ) -> None:
        self.ctx = ctx
        self.settings = settings
        self.only = only
        self.budget = budget or Budget(0.0)
        self.watch = watch
        self.notify = notify
        self.tracking_uri = tracking_uri
        self._look_after = 0.0  # when the data are looked at again, by the monotonic clock

    def cells(self) -> list[Cell]:
        """All cells the study wants now. Raises `UserError` for two of one name."""
        wanted = [cell for cell in self.ctx.study.cells(self.ctx) if cell.belongs(self.only)]
        cells = self.settings.apply(wanted)
        for cell in cells:
            plugins.require_inputs(cell.stage)
        names = [cell.name for cell in cells]
        if len(names) != len(set(names)):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UserError(f"study {self.ctx.study.name} has two cells of the name {twice[0]!r}")
        return cells

    def selected(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that `--only` asks for. Raises `UserError` where it matches none."""
        for pattern in self.only:
            if not any(cell.matches(pattern) for cell in cells):
                raise unknown("variant", pattern, {cell.variant for cell in cells})
        return [cell for cell in cells if not self.only or any(cell.matches(pattern) for pattern in self.only)]

    def run(self, cluster: str, make_backend: Callable[[str], Backend], view: View) -> int:
        """Returns the exit status: 0 if every selected cell is done, else 1."""
        with preflight.driver_lock(self.ctx.folder), terminated_like_interrupted():
            backend = make_backend(cluster)
            scheduler = self._scheduler(backend, make_backend, view)
            notifier = Notifier(self.notify, self.ctx.study.name, self.ctx.folder.name, view.say)
            tracker = outputs.Tracker(self.ctx.place, self.tracking_uri)
            try:
                with view.showing():
                    chosen = self._until_done(scheduler, Patience(view.say), view, notifier, tracker)
            except UserError as error:
                if isinstance(error, DataChanged):
                    view.say(backend.stop(scheduler.jobs()) or "stopped: the data changed")
                notifier.end(scheduler.nodes.values(), str(error))
                tracker.start(view.say)
                raise
            except (KeyboardInterrupt, Interrupted) as stopped:
                view.say(backend.stop(scheduler.jobs()) or "stopped; what was running has written a checkpoint")
                view.say("to continue, repeat the same command")
                tracker.start(view.say)
                if isinstance(stopped, Stopped) and stopped.number == signal.SIGINT:
                    raise KeyboardInterrupt from None  # an inline stage turned Ctrl-C into an orderly stop
                raise
            Patience(view.say).until_it_works(lambda: self._conclude(scheduler, chosen, view, tracker))
            notifier.end(scheduler.nodes.values())
            return 0 if all(_state(cell, scheduler) in ("done", "pruned") for cell in chosen) else 1

    def detach(self, make_backend: Callable[[str], Backend], view: View) -> int:
        """Queue everything in SLURM, each stage after its inputs, and leave; returns the exit status 0."""
        if self.ctx.study.adaptive:
            raise UserError(f"{self.ctx.study.name} proposes cells from scores, so its driver must stay: no --detach")
        with preflight.driver_lock(self.ctx.folder):
            scheduler = self._scheduler(make_backend("slurm"), make_backend, view)
            with view.showing():
                patience = Patience(view.say)

                def wait() -> None:
                    self._report(scheduler, patience)
                    time.sleep(scheduler.backend.interval)

                if patience.until_it_works(lambda: self._propose(scheduler, view))[1]:
                    for node in patience.until_it_works(lambda: scheduler.queue_all(wait)):
                        view.say(f"not queued: {node.run.name}, as an input of it has no SLURM job; repeat this later")
        counts = ", ".join(f"{count} {state}" for state, count in scheduler.counts().items())
        lines = [f"{self.ctx.study.title}, preset {self.ctx.folder.name}: {counts}", "look next at:"]
        lines += [
            f"  {self._command('status')}",
            "  the same command without --detach, which waits and writes the table",
        ]
        print("\n".join(lines), file=view.out, flush=True)
        return 0

    def _scheduler(self, backend: Backend, make_backend: Callable[[str], Backend], view: View) -> Scheduler:
        root = self.ctx.results / "runs"
        root.mkdir(parents=True, exist_ok=True)
        made = Scheduler(
            root,
            backend,
            self.settings.runtime(),
            view.changed,
            make_backend,
            self._allow,
            self.watch,
            view.say,
        )
        view.nodes = made.nodes
        return made

    def _allow(self, chosen: Sequence[Node], nodes: Mapping[str, Node]) -> None:
        self._require_same_data(nodes)
        self.budget.allow(chosen, nodes)

    def _require_same_data(self, nodes: Mapping[str, Node]) -> None:
        """Raise `DataChanged` where files changed since the study was planned; looking takes a small share of time."""
        began = time.monotonic()
        if began < self._look_after:
            return
        for data in {data for node in nodes.values() for data in data_of(node.stage.config)}:
            data.require_unchanged()
        self._look_after = time.monotonic() + LOOK_SHARE * (time.monotonic() - began)

    def _propose(self, scheduler: Scheduler, view: View) -> tuple[list[Cell], set[str]]:
        """The selected cells there are now, and their last stages that are still open."""
        cells = self.cells()
        chosen = self.selected(cells)
        record(self.ctx, cells, self.settings.science)
        view.follow(chosen)
        scheduler.add(cell.stage for cell in chosen if not cell.pruned)
        kept = {stage.name for cell in chosen if not cell.pruned for stage in cell.stage.chain()}
        for cell in chosen:
            if cell.pruned:
                alone = [stage for stage in cell.stage.chain() if stage.name not in kept]
                scheduler.give_up(alone, cell.pruned)
        if self.ctx.study.until:
            view.report(closing_in(self.ctx.read()))
        scheduler.look()
        wanted = {cell.stage.name for cell in chosen if not cell.pruned}
        still_open = wanted & {node.run.name for node in scheduler.open()}
        if still_open:
            self.budget.require(scheduler.nodes.values())
            scheduler.backend.check(view.say)
        return chosen, still_open

    def _until_done(
        self, scheduler: Scheduler, patience: Patience, view: View, notifier: Notifier, tracker: outputs.Tracker
    ) -> list[Cell]:
        """Propose, schedule and wait, again and again, until no cell is open; returns the selected cells."""
        before: set[str] = set()
        while True:
            chosen, still_open = patience.until_it_works(lambda: self._propose(scheduler, view))
            names = {cell.name for cell in chosen}
            if not still_open and (names == before or not self.ctx.study.adaptive):
                return chosen
            before = names
            if not still_open:  # all of it was done already, by other studies too; their scores may ask for more
                continue
            # What an adaptive study proposes next may depend on any cell that ends.
            count = 1 if self.ctx.study.adaptive else len(still_open)
            stirred = False
            while not stirred and sum(scheduler.nodes[name].state in FINAL for name in still_open) < count:
                try:
                    self.budget.require_left(scheduler.nodes.values())
                    moved = patience.until_it_works(scheduler.step)
                except OverBudget as error:
                    self._run_out(scheduler, str(error), patience, view)
                    raise
                self._report(scheduler, patience)
                notifier.look(scheduler.nodes.values())
                if tracker.due:
                    self._require_same_data(scheduler.nodes)
                    tracker.start(view.say)
                stirred = self._stirred(patience)
                if not moved and not stirred:
                    stirred = _wait(scheduler, lambda: self._stirred(patience))

    def _stirred(self, patience: Patience) -> bool:
        """Whether what running stages have come to asks for other cells. Jobs go on while that cannot be told."""
        if self.ctx.study.stirred is None:
            return False
        try:
            return self.ctx.study.stirred(self.ctx)
        except NotNow as error:
            patience.remind(f"not now: {error}; jobs go on")
            return False

    def _run_out(self, scheduler: Scheduler, reason: str, patience: Patience, view: View) -> None:
        """The budget is spent: stop what runs after a checkpoint, where it is hard, and else let that end."""
        running = [node for node in scheduler.open() if node.job]
        view.say(f"{reason}; {len(running)} jobs {'are stopped' if self.budget.hard else 'go on to their end'}")
        if self.budget.hard:
            patience.until_it_works(lambda: scheduler.end(running, "the budget was spent"))
        while any(node.job for node in scheduler.open()):
            _wait(scheduler, lambda: False)
            patience.until_it_works(scheduler.look)

    def _report(self, scheduler: Scheduler, patience: Patience) -> None:
        """Say what the cluster does not take for now."""
        for reason in scheduler.backend.refused.values():
            patience.remind(f"not now: {reason}; what fits is submitted as it goes")

    def _conclude(self, scheduler: Scheduler, chosen: Sequence[Cell], view: View, tracker: outputs.Tracker) -> None:
        """Write tables and figures, tell MLflow, and say how it went and where to look."""
        view.say("writing tables, figures and MLflow")
        written = outputs.write(self.ctx, view.say)
        if self.ctx.study.publish and written:
            self.ctx.study.publish(self.ctx, written)
        if chosen:
            tracker.conclude(view.say)
        states = [_state(cell, scheduler) for cell in chosen]
        done = f"{states.count('done')} of {len(chosen)} cells done"
        done += f", {count} pruned" if (count := states.count("pruned")) else ""
        lines = [f"{self.ctx.study.title}, preset {self.ctx.folder.name}: {done}" if chosen else self.ctx.study.title]
        for node in scheduler.nodes.values():
            if node.state in ("failed", "cancelled") or (node.state == "blocked" and not node.reason.startswith("by ")):
                lines += ["", f"{node.state} {node.run.name}: {node.reason}", *log_tail(node.run.path / "log")]
        if any(state not in ("done", "pruned") for state in states):
            lines += ["", "once the cause is gone: " + self._command("retry") + ", then repeat the command"]
        if written:
            lines += ["", *_shown(written[0]), "", "look next at:", *(f"  {path}" for path in written)]
            lines += [f"  python -m studies ui{self._where()}{self._plugin()}   (all runs in MLflow, on 127.0.0.1)"]
            if self.ctx.study.adaptive and not self.ctx.study.until:
                lines += [f"  {dashboard_command(self.ctx.results, self.ctx.options.storage)}   (the search, likewise)"]
        print("\n".join(lines), file=view.out, flush=True)

    def _command(self, verb: str) -> str:
        preset = "" if self.ctx.folder.name == "smoke" else f" --preset {shlex.quote(self.ctx.folder.name)}"
        return f"python -m studies {verb} {self.ctx.study.name}{preset}{self._where()}{self._plugin()}"

    def _plugin(self) -> str:
        module = plugin_of(self.ctx.study.name)
        return f" --plugin {module}" if module else ""

    def _where(self) -> str:
        return "" if self.ctx.results == Path("results") else f" --results {shlex.quote(str(self.ctx.results))}"


def _state(cell: Cell, scheduler: Scheduler) -> State:
    """Where a selected cell stands at the end."""
    node = scheduler.nodes.get(cell.stage.name)
    return (
        "pruned" if cell.pruned and (node is None or node.state != "done") else scheduler.nodes[cell.stage.name].state
    )


def _wait(scheduler: Scheduler, stirred: Callable[[], bool]) -> bool:
    """Wait until the next poll, or until one of the last few stages says by itself that it has ended, or something is
    `stirred`: whether that is so."""
    deadline = time.monotonic() + scheduler.backend.interval
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(GLANCE_SECONDS, left))
        if stirred():
            return True
        if scheduler.some_of_few_ended():
            break
    return False


def log_tail(path: Path, lines: int = LOG_LINES) -> list[str]:
    """The last lines of a log, indented; empty where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [f"  | {line}" for line in text.splitlines()[-lines:]]


def _shown(path: Path) -> list[str]:
    """The table itself, so that the terminal has the result."""
    return path.read_text().splitlines() if path.suffix == ".md" else []
