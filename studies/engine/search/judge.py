"""Optuna by ask, report and tell: what a search decides, once, however often its driver dies.

A trial counts once its whole point is stored as the user attribute "point"; the driver may die at any moment, and the
next one finds every point that was handed out, asks for the rest only, and tells each score once.

Points that must come are queued in the store: the first ones, those of a grid, and, once, those of trials whose job
died ("again_of"). What is missing of them is found by looking at the store, never remembered.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from fvar.errors import UserError
from studies.engine.search.samplers import make_pruner, make_sampler, quiet
from studies.engine.search.space import Point, Space, grid
from studies.engine.search.store import Store

if TYPE_CHECKING:
    import optuna

State = Literal["running", "done", "pruned", "failed"]
STATES: dict[str, State] = {"RUNNING": "running", "COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """A point of the space that was asked for once and is known by its number ever after."""

    number: int
    params: Point
    state: State = "running"
    values: tuple[float, ...] = ()  # of the objectives, once done
    curve: Mapping[int, float] | None = None  # step -> intermediate value
    reason: str = ""  # why it failed or was pruned
    died: bool = False  # its job did, and nothing is known against the point
    again_of: int | None = None  # the trial that it repeats
    restarted: bool = False  # whether the stage that died was let go on for it


def _guarded(method: Callable[P, T]) -> Callable[P, T]:
    """Whatever the store fails at in a method, as `Store.failing` says it."""

    @functools.wraps(method)
    def wrapped(*arguments: P.args, **named: P.kwargs) -> T:
        judge: Judge = arguments[0]  # type: ignore[assignment]
        with judge.store.failing():
            return method(*arguments, **named)

    return wrapped


@dataclass(frozen=True)
class Judge:
    """A minimisation over `space` that survives its driver.

    `identity` is anything that scores depend on besides the point, such as the signature of the unchanged stages:
    another identity, space or set of objectives is another search, never a mixture. The n-th point depends on the seed,
    on n and on what was told so far, not on when the driver was restarted. Sampler and pruner may change on the way.
    """

    store: Store
    name: str
    space: Space
    first: Sequence[Point]  # the points to start from
    identity: str
    objectives: tuple[str, ...] = ("score",)
    sampler: str = "tpe"
    pruner: str = "none"
    every: int = 1  # steps of a training between two intermediate values
    steps: int = 1  # of a training
    seed: int = 0
    owner: str = ""  # whose search this is, where others reach the store, too

    @_guarded
    def trials(self) -> list[Trial]:
        """All points handed out so far, in order."""
        return [_trial(found) for found in self._trials()]

    @_guarded
    def missing(self) -> int:
        """How many trials whose job died are still to be repeated."""
        repeated = {trial.user_attrs.get("again_of") for trial in self._trials()}
        return sum(trial.number not in repeated for trial in self._died())

    @_guarded
    def ask(self) -> Trial | None:
        """Choose one more point and store it; None where a grid is used up."""
        self._drop_incomplete()
        known = self._trials()
        if not self._queue(known):
            return None
        self._study.sampler = make_sampler(self.sampler, self.seed + 1000 * len(known))
        with quiet():
            asked = self._study.ask({name: axis.distribution() for name, axis in self.space.items()})
        asked.set_user_attr("point", asked.params)
        return Trial(asked.number, asked.params, again_of=asked.user_attrs.get("again_of"))

    @_guarded
    def report(self, number: int, values: Mapping[int, float], prune: bool = True) -> bool:
        """Add to a running trial's curve; whether the pruner ends it by that, where it may."""
        import optuna

        frozen = self._find(number)
        if frozen.state.is_finished() or len(self.objectives) > 1:  # Optuna keeps curves of one objective only
            return False
        trial = optuna.trial.Trial(self._study, frozen._trial_id)
        for step, value in sorted(values.items()):
            if step in frozen.intermediate_values or step <= 0 or not math.isfinite(value):  # 0: nothing is learnt yet
                continue
            trial.report(value, step)
            with quiet():
                if prune and trial.should_prune():
                    trial.set_user_attr("reason", f"by {self.pruner} at step {step}, with {value:.4g}")
                    self._study.tell(number, state=optuna.trial.TrialState.PRUNED)
                    return True
        return False

    @_guarded
    def tell(self, number: int, values: Sequence[float | None], reason: str = "", died: bool = False) -> None:
        """Report the scores of a point, none where its cell failed. Telling a trial that has ended changes nothing.

        `died`: its job did, by no fault of the point, which is then asked for once more.
        """
        import optuna

        trial = self._find(number)
        if trial.state.is_finished():
            return
        finite = [value for value in values if value is not None and math.isfinite(value)]
        if len(finite) == len(self.objectives):
            self._study.tell(number, finite)
            return
        attributes = {"reason": reason or f"scored {', '.join(map(str, values))}"} | ({"died": True} if died else {})
        for key, value in attributes.items():
            self._storage.set_trial_user_attr(trial._trial_id, key, value)
        self._study.tell(number, state=optuna.trial.TrialState.FAIL)

    @_guarded
    def note_restart(self, number: int) -> None:
        """Remember that the stage that died was let go on for a trial."""
        self._storage.set_trial_user_attr(self._find(number)._trial_id, "restarted", True)

    def best(self) -> list[Trial]:
        """The trial with the lowest score, the earlier of two equal ones; of several objectives, all that no other
        beats in one and equals in the rest. Empty before the first score."""
        done = [trial for trial in self.trials() if trial.state == "done"]
        if len(self.objectives) == 1:
            return sorted(done, key=lambda trial: (trial.values, trial.number))[:1]
        return [trial for trial in done if not any(_beats(other.values, trial.values) for other in done)]

    # ---------------------------------------------------------------------------------------------------------- inside

    @property
    def study(self) -> optuna.Study:
        """Optuna's own, for what it alone can show."""
        return self._study

    @cached_property
    def _study(self) -> optuna.Study:
        import optuna

        text = f"{self.identity} {sorted(self.space.items())}"
        if self.objectives != ("score",):
            text += f" {self.objectives}"
        study = optuna.create_study(
            storage=self._storage,
            study_name=f"{self.name}@{hashlib.sha256(text.encode()).hexdigest()[:8]}",
            directions=["minimize"] * len(self.objectives),
            load_if_exists=True,
            pruner=make_pruner(self.pruner, self.every, self.steps),
            sampler=make_sampler(self.sampler, self.seed),
        )
        if self.owner and study.user_attrs.setdefault("owner", self.owner) != self.owner:
            raise UserError(
                f"{self.store.shown} holds this search as driven from {study.user_attrs['owner']}; continue it there, "
                "or name another --storage: two drivers would run every trial twice"
            )
        if self.owner:
            study.set_user_attr("owner", self.owner)
        with quiet():
            study.set_metric_names(list(self.objectives))
        return study

    @property
    def _storage(self) -> optuna.storages.BaseStorage:
        return self.store.storage

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials whose point is complete."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if "point" in trial.user_attrs]

    def _find(self, number: int) -> optuna.trial.FrozenTrial:
        found = next((trial for trial in self._trials() if trial.number == number), None)
        if found is None:
            raise UserError(f"the store {self.store.shown} has no trial {number} of {self.name}; was it replaced?")
        return found

    def _died(self) -> list[optuna.trial.FrozenTrial]:
        """Trials whose job died and that repeat no other: each is repeated once."""
        return [trial for trial in self._trials() if "died" in trial.user_attrs and "again_of" not in trial.user_attrs]

    def _drop_incomplete(self) -> None:
        """End the trials whose point was never handed out, because the driver died while Optuna wrote it."""
        import optuna

        for trial in self._study.get_trials(deepcopy=False):
            if "point" not in trial.user_attrs and not trial.state.is_finished():
                self._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)

    def _queue(self, known: Sequence[optuna.trial.FrozenTrial]) -> bool:
        """Queue the point that must come next, if any. Whether there is one to ask for at all."""
        points = [trial.user_attrs["point"] for trial in known]
        repeated = {trial.user_attrs.get("again_of") for trial in known}
        for trial in self._died():
            if trial.number not in repeated:
                self._study.enqueue_trial(dict(trial.user_attrs["point"]), {"again_of": trial.number})
                return True
        walked = itertools.chain(self.first, grid(self.space) if self.sampler == "grid" else ())
        point = next((dict(point) for point in walked if dict(point) not in points), None)
        if point is not None:
            self._study.enqueue_trial(point)
        return point is not None or self.sampler != "grid"


def _trial(found: optuna.trial.FrozenTrial) -> Trial:
    attributes = found.user_attrs
    state = STATES.get(found.state.name, "running")
    return Trial(
        found.number,
        attributes["point"],
        state,
        tuple(found.values) if state == "done" and found.values else (),
        dict(found.intermediate_values),
        attributes.get("reason", attributes.get("failure", "")),  # "failure": what earlier versions wrote
        "died" in attributes,
        attributes.get("again_of"),
        "restarted" in attributes,
    )


def _beats(first: Sequence[float], second: Sequence[float]) -> bool:
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))
