"""What a search found: its trials, the best of them as a command and as a preset, what each axis matters.

Read from search.json, which the driver keeps beside the study's cells.json, and from the cells' run directories.
"""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.results import StudyResults
from fvar.machine import atomic, records

if TYPE_CHECKING:
    import optuna

FILE = "search.json"
FEWEST_FOR_IMPORTANCE = 4  # finished trials: below, a forest of trees has nothing to split
SHOWN_STATES = ("done", "pruned", "running", "failed")


@dataclass(frozen=True)
class Axis:
    """One dimension of the space: a range, or a few options."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    options: tuple[Any, ...] = ()

    @property
    def label(self) -> str:
        return style.AXES.get(self.name, self.name)

    def place(self, value: Any) -> float:
        """Where a value lies on the axis, from 0 at its low end to 1 at its high end."""
        if self.options:
            return self.options.index(value) / max(1, len(self.options) - 1)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))


@dataclass(frozen=True)
class Objective:
    """What is minimised; `scale` is by which it is multiplied where it is shown."""

    key: str
    name: str
    scale: float = 1.0


@dataclass(frozen=True)
class Trial:
    """A point and what became of it. `values` are scaled as they are shown."""

    number: int
    state: str
    params: Mapping[str, Any]
    values: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]  # step, intermediate value
    reason: str
    again_of: int | None
    settings: tuple[str, ...]
    row: str
    hours: float | None  # GPU hours, or hours of processes; None before it began


@dataclass(frozen=True)
class SearchResults:
    """All trials of a search, in the order in which they were asked for."""

    results: StudyResults
    axes: tuple[Axis, ...]
    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    sampler: str
    pruner: str
    unit: str  # of `Trial.hours`

    @classmethod
    def of(cls, results: StudyResults) -> SearchResults:
        """Raises `NothingToDraw` where the study is not a search, or its file is damaged: its command heals that."""
        path = results.folder / FILE
        try:
            body = records.read_object(path)
        except records.Damaged as error:
            raise style.NothingToDraw(f"{error}; repeat the study's command") from None
        if body is None:
            raise style.NothingToDraw(f"{results.folder} holds no search")
        objectives = tuple(Objective(**found) for found in body["objectives"])
        took = {cell.name: cell.hours for cell in results.cells if cell.chain}
        units = [unit for hours, unit in took.values() if hours]
        made = [_trial(found, objectives, took.get(found["cell"], (None, ""))[0]) for found in body["trials"]]
        axes = [Axis(name, **_axis(found)) for name, found in body["space"].items()]
        unit = max(units, key=units.count, default="hours")
        return cls(results, tuple(axes), objectives, tuple(made), body["sampler"], body["pruner"], unit)

    @property
    def done(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "done"]

    def best(self) -> list[Trial]:
        """The trial with the lowest value; of several objectives, all that no other beats, by the first of them."""
        if len(self.objectives) == 1:
            return sorted(self.done, key=lambda trial: (trial.values, trial.number))[:1]
        return front(self.done)

    def importances(self) -> dict[str, float]:
        """Share of the variance of the first objective that each axis explains, by fANOVA (Hutter et al. 2014).

        Empty where there are too few finished trials, or all scored alike.
        """
        done = self.done
        if len(done) < FEWEST_FOR_IMPORTANCE or len({trial.values[0] for trial in done}) == 1:
            return {}
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study()
        study.add_trials([self._frozen(trial) for trial in done])
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
        return {str(name): float(share) for name, share in found.items()}

    def _frozen(self, trial: Trial) -> optuna.trial.FrozenTrial:
        import optuna
        from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

        distributions: dict[str, BaseDistribution] = {
            axis.name: CategoricalDistribution(axis.options)
            if axis.options
            else FloatDistribution(axis.low, axis.high, log=axis.log)
            for axis in self.axes
        }
        return optuna.trial.create_trial(params=dict(trial.params), distributions=distributions, value=trial.values[0])


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other equals in all objectives and beats in one, by the first objective."""

    def beaten(trial: Trial) -> bool:
        return any(
            other.values != trial.values and all(a <= b for a, b in zip(other.values, trial.values, strict=True))
            for other in trials
        )

    return sorted((trial for trial in trials if not beaten(trial)), key=lambda trial: (trial.values, trial.number))


def write(results: StudyResults) -> list[Path]:
    """Write trials.md and trials.csv into the study's folder."""
    found = SearchResults.of(results)
    for name, text in {"trials.md": markdown(found), "trials.csv": comma_separated(found)}.items():
        atomic.write_text(results.folder / name, text)
    return [results.folder / "trials.md", results.folder / "trials.csv"]


def markdown(found: SearchResults) -> str:
    """The best configuration as a command and as a preset, what the axes explain, and a table of all trials."""
    counts = {state: sum(trial.state == state for trial in found.trials) for state in SHOWN_STATES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [f"# {found.results.title}, preset {found.results.preset}", ""]
    lines += [f"{len(found.trials)} trials ({told}), sampler {found.sampler}, pruner {found.pruner}.", ""]
    for trial in found.best():
        values = ", ".join(
            f"{objective.name} {_number(value)}"
            for objective, value in zip(found.objectives, trial.values, strict=True)
        )
        heading = "Best" if len(found.objectives) == 1 else "On the Pareto front"
        lines += [f"{heading}: trial {trial.number}, {values}.", ""]
        lines += ["    " + " ".join(f"--set {shlex.quote(text)}" for text in trial.settings), f"    {trial.row}", ""]
    if found.done:
        lines += [
            "One seed each: the best of many trials is partly luck. Run it beside the first with `--seeds 3` or more.",
            "",
        ]
    if shares := found.importances():
        explained = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        lines += [f"Variance explained by each axis (fANOVA, {len(found.done)} trials): {explained}.", ""]
    header, rows = _table(found)
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
    return "\n".join(lines) + "\n"


def comma_separated(found: SearchResults) -> str:
    """The table of all trials for programs: numbers whole, in the order in which they were asked for."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [axis.name for axis in found.axes]
    writer.writerow(["trial", "state", *(o.key for o in found.objectives), *names, "hours", "again_of", "reason"])
    for trial in found.trials:
        values = trial.values or ("",) * len(found.objectives)
        params = (trial.params[name] for name in names)
        again = "" if trial.again_of is None else trial.again_of
        hours = "" if trial.hours is None else trial.hours
        writer.writerow([trial.number, trial.state, *values, *params, hours, again, trial.reason])
    return out.getvalue()


def _table(found: SearchResults) -> tuple[list[str], list[list[str]]]:
    """Finished trials first, the best of them on top."""
    names = [axis.name for axis in found.axes]
    timed = all(objective.key != "hours" for objective in found.objectives)  # otherwise they stand there already
    header = ["trial", "state", *(objective.name for objective in found.objectives), *names]
    header += [*([found.unit] if timed else []), "note"]
    order = sorted(
        found.trials, key=lambda trial: (SHOWN_STATES.index(trial.state), trial.values or (math.inf,), trial.number)
    )
    rows = []
    for trial in order:
        again = "" if trial.again_of is None else f"again, after trial {trial.again_of}"
        rows.append(
            [
                str(trial.number),
                trial.state,
                *(map(_number, trial.values) if trial.values else [""] * len(found.objectives)),
                *(_number(trial.params[name]) for name in names),
                *(["" if trial.hours is None else _number(trial.hours)] if timed else []),
                "; ".join(filter(None, [again, trial.reason])),
            ]
        )
    return header, rows


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _axis(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if key == "options" else value for key, value in found.items()}


def _trial(found: Mapping[str, Any], objectives: Sequence[Objective], hours: float | None) -> Trial:
    values = found["values"]
    scaled = (
        tuple(value * objective.scale for value, objective in zip(values, objectives, strict=True)) if values else ()
    )
    return Trial(
        found["number"],
        found["state"],
        found["params"],
        scaled,
        tuple((step, value) for step, value in found["curve"]),
        found["reason"],
        found["again_of"],
        tuple(found["settings"]),
        found["row"],
        hours,
    )
