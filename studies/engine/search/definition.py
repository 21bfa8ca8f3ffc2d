"""A search as a study. All that a file `studies/search_*.py` says is a `Search`: space, first points, what judges them.

Each trial is a cell, "trial007", and runs like any other. The driver asks for the cells whenever one has ended or a
running one was pruned: what ended is told to Optuna, and new points are asked for while few are open. A trial whose job
died is told as failed and asked for once more, as a new trial that goes on from the old one's checkpoint.
"""

from __future__ import annotations

import dataclasses
import functools
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import standing
from analysis.metrics import Metric, deciding
from analysis.results import CellResult, StudyResults
from analysis.style import Drawings
from fvar.config import SamplesConfig, Stage, StageConfig, VarConfig
from fvar.errors import UserError, unknown
from fvar.job import JobRecord
from fvar.rundir import RunDir, read_status
from studies.engine.nodes import allow_again
from studies.engine.search import record, samplers, space
from studies.engine.search.curves import Curve, Judged
from studies.engine.search.judge import Judge, Trial
from studies.engine.search.space import Point, Space
from studies.engine.search.store import Store
from studies.engine.settings import Settings, option
from studies.presets import Preset
from studies.study import OF_GRIDS, Cell, Context, Study
from studies.variants import chain

OBJECTIVES = ("score", "hours")  # FID, or KID below 10,000 samples; what a trial costs
TRIALS = 16


@dataclass(frozen=True)
class Search:
    """A space of settings of one chain of stages, and how points of it are judged.

    Parameters
    ----------
    space, first, settings
        What may be varied at a preset, the points to start from, and the `--set` that a point stands for.
    judged
        The intermediate value by which running trials are pruned: the held-out loss, where all trials code images into
        the same tokens, else the KID of samples that `var.curve` draws.
    objectives, sampler, pruner, trials
        Unless the command says otherwise.
    base
        The chain whose settings are varied, of a preset; Table 2's `full`.
    columns
        Of a plugin's chain: what is measured of its last stage, the score first. The score is minimised, or maximised
        where higher is better.
    """

    name: str
    title: str
    space: Callable[[Preset], Space]
    first: Callable[[Preset], Sequence[Point]]
    settings: Callable[[Preset, Point], Mapping[str, Any]]
    judged: Judged = "cross_entropy"
    objectives: tuple[str, ...] = ("score",)
    sampler: str = "tpe"
    pruner: str = "none"
    trials: int = TRIALS
    base: Callable[[Preset], Stage] = lambda preset: chain(preset, "full", 0)
    columns: tuple[Metric, ...] = ()

    def study(self) -> Study:
        """The search as the studies' commands know it."""
        return Study(
            self.name,
            self.title,
            self.cells,
            report=report,
            adaptive=True,
            prepare=self.prepare,
            stirred=self.stirred,
            publish=self.publish,
            columns=self.columns,
        )

    def prepare(self, ctx: Context) -> Context:
        """Check what the command asks for; several objectives have a folder of their own. Raises `UserError`."""
        options = ctx.options
        options.refuse(self.name, OF_GRIDS)
        objectives = options.objectives or self.objectives
        for name in objectives:
            if name not in OBJECTIVES:
                raise unknown("objective", name, OBJECTIVES)
        if len(set(objectives)) < len(objectives) or "score" not in objectives:
            raise UserError(f"--objectives {','.join(objectives)}: write score, or score,hours")
        samplers.require(options.sampler or self.sampler, options.pruner or self.pruner, objectives)
        space.require_inside(self.space(ctx.preset), self.first(ctx.preset))
        made = dataclasses.replace(options, objectives=objectives)
        label = ctx.folder.name + ("" if objectives == ("score",) else f"-{'+'.join(objectives)}")
        ctx = dataclasses.replace(ctx, options=made, label=label)
        every, _ = self._rhythm(ctx, self._cell(ctx, 0, self.first(ctx.preset)[0]).stage)
        if (options.pruner or self.pruner) != "none" and not every:
            if self.columns:
                raise UserError(f"{self.name} has no intermediate values to prune by; leave --pruner out")
            raise UserError(
                f"{self.name} prunes by the KID of samples drawn while a network trains, of which preset "
                f"{ctx.preset.name} draws none; add --set var.curve.every=STEPS"
            )
        if not ctx.dry:
            self._session(ctx).judge.store.require_reachable()
        return ctx

    def cells(self, ctx: Context) -> Iterator[Cell]:
        """The trials so far, told to Optuna as they end, and new ones while there are few open."""
        if ctx.dry:
            yield self._cell(ctx, 0, self.first(ctx.preset)[0])
            return
        session = self._session(ctx)
        judge = session.judge
        session.open = {}
        trials = judge.trials()
        repeated = {trial.again_of for trial in trials}
        cells = {t.number: self._cell(ctx, t.number, t.params) for t in trials if t.number not in repeated}
        stuck = False  # a stage that all trials need failed: it is the user's turn, not the search's
        for trial in trials:
            if trial.state == "running":
                cell = cells[trial.number]
                stuck |= self._judge(ctx, session, trial, cell, cells.values())
        count = sum(trial.again_of is None for trial in trials)
        limit, width = ctx.options.trials or self.trials, ctx.width
        while not stuck and len(session.open) < width and (count < limit or judge.missing()):
            repeats = judge.missing() > 0
            asked = judge.ask()
            if asked is None:  # a grid is used up
                break
            count += not repeats
            cells[asked.number] = self._cell(ctx, asked.number, asked.params)
            if asked.again_of is not None:
                cells.pop(asked.again_of, None)
            self._open(ctx, session, asked, cells[asked.number])
        now = {trial.number: trial for trial in judge.trials()}
        settings = functools.partial(self.settings, ctx.preset)
        record.write(ctx, session.judge, session.metric, session.samples, now.values(), cells, settings)
        for number, cell in cells.items():
            pruned = now[number].state == "pruned"
            yield dataclasses.replace(cell, pruned=now[number].reason or "by the pruner") if pruned else cell

    def stirred(self, ctx: Context) -> bool:
        """Report what running trials have come to since the last look; whether one of them was pruned by that."""
        session = self._session(ctx)
        if session.judge.pruner == "none":
            return False
        pruned = False
        for number, curve in list(session.open.items()):
            session.unreported[number] = session.unreported.get(number, {}) | curve.new()
            if session.unreported[number]:
                if session.judge.report(number, session.unreported[number]):
                    pruned = True
                    del session.open[number]
                session.unreported[number] = {}
        return pruned

    def publish(self, ctx: Context, files: Sequence[Path]) -> None:
        """Give optuna-dashboard the figures, and the table as the study's note."""
        record.publish(ctx, self._session(ctx).judge, files)

    # ---------------------------------------------------------------------------------------------------------- inside

    def _cell(self, ctx: Context, number: int, point: Point) -> Cell:
        settings = Settings.parse(option(path, value) for path, value in self.settings(ctx.preset, point).items())
        stage = self.base(settings.on_preset(ctx.preset))
        name = f"trial{number:03d}"
        cell = Cell(name, f"Trial {number}", 0, dict(point), stage, name=name)
        return settings.apply([cell])[0]

    def _judge(self, ctx: Context, session: Session, trial: Trial, cell: Cell, others: Iterable[Cell]) -> bool:
        """Tell Optuna what became of a trial; whether a stage that it shares with others keeps all of them waiting."""
        result = ctx.result(ctx.changed([cell])[0])
        state, detail = result.state
        if state == "done":  # its curve is what later trials are pruned by
            session.judge.report(trial.number, self._curve(ctx, session, trial.number, cell).new(), prune=False)
            values = [_value(session.metric, result, name) for name in session.judge.objectives]
            session.judge.tell(trial.number, values)
        elif state in ("failed", "blocked", "cancelled"):
            failed = _failed_stage(result)
            if any(other.stage.name != cell.stage.name and failed in _names(ctx, other) for other in others):
                return True
            job = JobRecord.read_in(result.runs / failed)
            died = read_status(result.runs / failed).state == "failed" and job is not None and bool(job.ended)
            session.judge.tell(trial.number, [], detail or state, died)
        else:
            self._open(ctx, session, trial, cell)
        return False

    def _open(self, ctx: Context, session: Session, trial: Trial, cell: Cell) -> None:
        """Follow a running trial; what stopped the one that it repeats may begin again."""
        if trial.again_of is not None and not trial.restarted:
            for path in (ctx.place.runs / name for name in _names(ctx, cell)):
                if read_status(path).state == "failed":
                    allow_again(RunDir.open(path))
            session.judge.note_restart(trial.number)
        session.open[trial.number] = self._curve(ctx, session, trial.number, cell)

    def _curve(self, ctx: Context, session: Session, number: int, cell: Cell) -> Curve:
        if number not in session.curves:
            names = _names(ctx, cell)
            trained = next((name for name in names if name.startswith("var-")), names[-1])
            session.curves[number] = Curve(ctx.place.runs / trained, self.judged)
        return session.curves[number]

    def _rhythm(self, ctx: Context, stage: Stage) -> tuple[int, int]:
        """Steps between two intermediate values of a trial, 0 where it has none, and steps of its training."""
        config = next((part for part in _configs(ctx, stage) if isinstance(part, VarConfig)), None)
        if config is None:
            return 0, 1
        return config.curve.every if self.judged == "kid" else config.train.eval_every, config.train.steps

    def _session(self, ctx: Context) -> Session:
        """The open search of a context, one for the life of the driver."""
        first = self._cell(ctx, 0, self.first(ctx.preset)[0])
        store = Store(ctx.results, ctx.options.storage)
        key = (store.url, f"{ctx.study.name}/{ctx.folder.name}", first.stage.signature, ctx.options)
        if key not in SESSIONS:
            every, steps = self._rhythm(ctx, first.stage)
            judge = Judge(
                store,
                key[1],
                self.space(ctx.preset),
                self.first(ctx.preset),
                first.stage.signature,
                ctx.options.objectives or self.objectives,
                ctx.options.sampler or self.sampler,
                ctx.options.pruner or self.pruner,
                every,
                steps,
                owner=f"{socket.gethostname()}:{ctx.results.resolve()}" if ctx.options.storage else "",
            )
            samples = [part.count for part in _configs(ctx, first.stage) if isinstance(part, SamplesConfig)]
            count = samples[0] if samples else ctx.preset.sampling.count
            SESSIONS[key] = Session(judge, count, self.columns[0] if self.columns else deciding(count))
        return SESSIONS[key]


@dataclass
class Session:
    """What a driver keeps of a search while it lives; all of it can be found again in the store and on disk."""

    judge: Judge
    samples: int  # that a trial is scored on
    metric: Metric  # which is its score
    curves: dict[int, Curve] = dataclasses.field(default_factory=dict)
    open: dict[int, Curve] = dataclasses.field(default_factory=dict)  # trials that run or wait, by number
    unreported: dict[int, dict[int, float]] = dataclasses.field(default_factory=dict)  # read, while the store was away


SESSIONS: dict[tuple[object, ...], Session] = {}


def _value(metric: Metric, result: CellResult, objective: str) -> float | None:
    """What a finished trial came to, the lower the better."""
    if objective == "hours":
        return result.hours[0]
    score = result.score(metric.key)
    return None if score is None else record.sign(metric) * score


def _configs(ctx: Context, stage: Stage) -> list[StageConfig]:
    """The configurations of a trial's stages, as the command's settings leave them."""
    (cell,) = ctx.changed([Cell("trial", "", 0, {}, stage)])
    return [part.config for part in cell.stage.chain()]


def _names(ctx: Context, cell: Cell) -> list[str]:
    """The run directories of a cell."""
    return [stage.name for stage in ctx.changed([cell])[0].stage.chain()]


def _failed_stage(result: CellResult) -> str:
    """The stage that stops a cell."""
    states = {name: standing.of_stage(result.runs / name).state for name in result.recorded}
    return standing.of_cell(states)[1]


def report(results: StudyResults) -> Drawings:
    """The trials with the best configuration, the table of all, and the figures of a search."""
    from studies.engine import outputs

    return {**record.drawings(results), **outputs.report(results)}
