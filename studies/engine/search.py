"""Optuna as a proposer of cells: ask for a point, run its cell like any other, tell the score.

The store is `results/optuna.db`, written by the driver alone. A trial counts once its whole point is stored as the
user attribute "point"; the driver may die at any moment, and the next one finds every point that was handed out, asks
for the rest only, and tells each score once.
"""

from __future__ import annotations

import hashlib
import math
import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvar.errors import UserError, one_line
from fvar.machine import atomic
from studies.database import address, complaint

if TYPE_CHECKING:
    import optuna

DATABASE = "optuna.db"
STARTUP = 5  # points drawn at random before TPE has enough to go by


@dataclass(frozen=True)
class Uniform:
    """A real number in [low, high], on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    options: tuple[int | float | str, ...]


Space = Mapping[str, Uniform | Choice]


@dataclass(frozen=True)
class Proposal:
    """A point of the space that was asked for once and is known by its number ever after."""

    number: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Search:
    """A minimisation over `space` that survives its driver.

    `identity` is anything that scores depend on besides the point, such as the signature of the unchanged stages:
    another identity or another space is another search, never a mixture. The n-th point depends on the seed, on n and
    on the scores told so far, not on when the driver was restarted.
    """

    results: Path
    name: str
    space: Space
    first: Mapping[str, Any]  # the point to start from
    identity: str
    seed: int = 0

    def proposals(self) -> list[Proposal]:
        """All points handed out so far, in order."""
        with self._open():
            return self._proposals()

    def ask(self) -> Proposal:
        """Choose one more point and store it."""
        with self._open():
            self._drop_incomplete()
            known = self._proposals()
            if not any(proposal.params == self.first for proposal in known):
                self._study.enqueue_trial(dict(self.first))
            self._study.sampler = self._sampler(len(known))
            with quiet():
                trial = self._study.ask(self._distributions())
            trial.set_user_attr("point", trial.params)
            return Proposal(trial.number, trial.params)

    def tell(self, number: int, value: float | None, reason: str = "") -> None:
        """Report the score of a point, None where its cell failed. Telling a trial that has ended changes nothing."""
        import optuna

        with self._open():
            trial = next((trial for trial in self._trials() if trial.number == number), None)
        if trial is None:
            raise ValueError(f"{self.name} has no trial {number}")
        with self._open():
            if trial.state.is_finished():
                return
            if value is None or not math.isfinite(value):
                self._storage.set_trial_user_attr(trial._trial_id, "failure", reason or f"scored {value}")
                self._study.tell(number, state=optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(number, value)

    def best(self) -> Proposal | None:
        """The point with the lowest score, the earlier of two equal ones; None before the first score."""
        with self._open():
            scored = [trial for trial in self._trials() if trial.value is not None]
        trial = min(scored, key=lambda trial: (trial.value, trial.number), default=None)
        return None if trial is None else Proposal(trial.number, trial.user_attrs["point"])

    # ------------------------------------------------------------------------------------------------------ the store

    @cached_property
    def _storage(self) -> optuna.storages.RDBStorage:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = self._database
        if reason := complaint(path):
            raise self._unusable(reason)
        if not path.exists():
            with atomic.replacing(path) as temporary:
                optuna.storages.RDBStorage(address(temporary))
        return optuna.storages.RDBStorage(address(path))

    @property
    def _database(self) -> Path:
        return self.results.resolve() / DATABASE

    def _unusable(self, reason: str) -> UserError:
        if not self._database.exists():
            return UserError(f"{self._database} cannot be made ({reason}); the search needs it")
        if "locked" in reason:
            return UserError(
                f"{self._database} is held by another program ({reason}); stop that, then repeat the command"
            )
        return UserError(f"{self._database} cannot be used ({reason}); move it away to start over")

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Whatever the store fails at, in one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise self._unusable(one_line(error)) from error

    @cached_property
    def _study(self) -> optuna.Study:
        import optuna

        text = f"{self.identity} {sorted(self.space.items())}"
        name = f"{self.name}@{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return optuna.create_study(storage=self._storage, study_name=name, direction="minimize", load_if_exists=True)

    def _proposals(self) -> list[Proposal]:
        return [Proposal(trial.number, trial.user_attrs["point"]) for trial in self._trials()]

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials whose point is complete."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if "point" in trial.user_attrs]

    def _drop_incomplete(self) -> None:
        """End the trials whose point was never handed out, because the driver died while Optuna wrote it."""
        import optuna

        for trial in self._study.get_trials(deepcopy=False):
            if "point" not in trial.user_attrs and not trial.state.is_finished():
                self._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)

    def _sampler(self, asked: int) -> optuna.samplers.TPESampler:
        """TPE that starts from the same random state at the same point of the search, restarted or not."""
        import optuna

        with quiet():
            return optuna.samplers.TPESampler(
                seed=self.seed + 1000 * asked, n_startup_trials=STARTUP, multivariate=True, constant_liar=True
            )

    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        return {
            key: FloatDistribution(axis.low, axis.high, log=axis.log)
            if isinstance(axis, Uniform)
            else CategoricalDistribution(axis.options)
            for key, axis in self.space.items()
        }


def dashboard_command(results: Path) -> str:
    """What to type to look at the searches in a browser."""
    return f"optuna-dashboard --host 127.0.0.1 {shlex.quote(address(results / DATABASE))}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notes that `multivariate` and `constant_liar` may change one day."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
