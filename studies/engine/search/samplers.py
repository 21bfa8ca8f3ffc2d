"""`--sampler` and `--pruner` by name: what each is made of, what it needs, and what it does not go with."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fvar.errors import UserError, unknown

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "grid", "random")
PRUNERS = ("none", "median", "hyperband", "wilcoxon")
STARTUP = 5  # points drawn at random before there is enough to go by, and trials that end before any is pruned
POPULATION = 12  # of NSGA-II: searches here have dozens of trials, not thousands
NEEDS = {"gp": ("torch", "scipy"), "cmaes": ("cmaes",)}  # packages beyond Optuna's own


def require(sampler: str, pruner: str, objectives: Sequence[str]) -> None:
    """Raise `UserError` for a name that is unknown, a package that is missing, or what does not go together."""
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    if pruner not in PRUNERS:
        raise unknown("pruner", pruner, PRUNERS)
    if len(objectives) > 1:
        if pruner != "none":
            raise UserError(
                f"--pruner {pruner} judges by one value, and this search has {len(objectives)} objectives "
                f"({', '.join(objectives)}); use --pruner none, or one objective"
            )
        if sampler == "cmaes":
            raise UserError("--sampler cmaes has one objective; use tpe, gp or nsga2 for several")
    for package in NEEDS.get(sampler, ()):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--sampler {sampler} needs the package {package}: pip install {package} (the extra 'search')"
            )


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler that starts from this random state. A grid is walked by the judge, which hands out its points."""
    import optuna

    samplers = optuna.samplers
    with quiet():
        if name == "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
        if name == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)
        if name == "cmaes":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)
        if name == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
        return samplers.RandomSampler(seed=seed)


def make_pruner(name: str, every: int, steps: int) -> optuna.pruners.BasePruner:
    """A pruner of trainings of `steps` steps that are looked at after `every` of them."""
    import optuna

    pruners = optuna.pruners
    with quiet():
        if name == "median":
            return pruners.MedianPruner(n_startup_trials=STARTUP)
        if name == "hyperband":
            return pruners.HyperbandPruner(min_resource=max(1, every), max_resource=max(1, every, steps))
        if name == "wilcoxon":
            return pruners.WilcoxonPruner()
        return pruners.NopPruner()


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notes that `multivariate` and others may change one day."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
