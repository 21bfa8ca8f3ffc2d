"""A grid from the command line, a study like any other: every combination of some values of some settings.

    python -m studies.run grid --variant full --grid var.distill.lambda_feat=0.5,1,2 --grid var.train.lr=1e-4,3e-4
    python -m studies.run grid --grid tokenizer.pyramid.patch_nums=[1,2,4,8],[2,4,8] --seeds 3 --preset small

A setting is what `--set` takes; commas part its values, but for those within brackets. The first value of each makes
the variant that the others are compared with. The folder is named after what varies.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fvar.errors import UserError, unknown
from studies.engine.settings import Change, Settings
from studies.study import OF_SEARCHES, Cell, Context, Study
from studies.variants import VARIANTS, chain

DEFAULT = "full"


@dataclass(frozen=True)
class Varied:
    """One `--grid`: a setting and its values, as typed."""

    path: str
    values: tuple[str, ...]
    name: str = ""  # short, unique in the grid

    @classmethod
    def parse(cls, text: str) -> Varied:
        """Raises `UserError`."""
        path, equals, raw = text.partition("=")
        values = _parts(raw)
        if not equals or not all(values):
            raise UserError(f"--grid {text}: write KIND.PATH=VALUE,VALUE, e.g. --grid var.train.lr=1e-4,3e-4")
        if len(set(values)) < len(values):
            raise UserError(f"--grid {text} has a value twice")
        Change.parse(f"{path}={values[0]}")
        return cls(path.strip(), values)


def _parts(text: str) -> tuple[str, ...]:
    """Split at commas, but for those within brackets."""
    return tuple(part.strip() for part in re.split(r",(?![^\[]*\])", text))


def varied(ctx: Context) -> list[Varied]:
    """What the command varies, each under the end of its path, as long as needed to tell them apart."""
    found = [Varied.parse(text) for text in ctx.options.grid]
    paths = [one.path for one in found]
    if len(set(paths)) < len(paths):
        raise UserError("--grid has a setting twice; list all its values at once")
    return [replace(one, name=_shortest(one.path, paths)) for one in found]


def _shortest(path: str, paths: Sequence[str]) -> str:
    words = path.split(".")
    ends = (".".join(words[start:]) for start in reversed(range(len(words))))
    return next(end for end in ends if sum(other == end or other.endswith(f".{end}") for other in paths) == 1)


def prepare(ctx: Context) -> Context:
    """Name the study's folder and table after what varies. Raises `UserError` for a grid that cannot be made."""
    ctx.options.refuse("grid", OF_SEARCHES)
    if not ctx.options.grid:
        raise UserError("the grid varies nothing; add --grid KIND.PATH=VALUE,VALUE")
    variant = ctx.options.variant or DEFAULT
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    names = [one.name for one in varied(ctx)]
    digest = hashlib.sha256("\n".join(sorted(ctx.options.grid)).encode()).hexdigest()[:6]
    label = f"{ctx.folder.name}-{variant}-{'+'.join(names)}-{digest}"
    title = f"{VARIANTS[variant].label} over {' and '.join(names)}"
    first = next(iter(cells(ctx))).variant
    return replace(ctx, label=label, study=replace(ctx.study, title=title, references=(first,)))


def cells(ctx: Context) -> Iterator[Cell]:
    variant = ctx.options.variant or DEFAULT
    axes = varied(ctx)
    if not axes:  # `prepare` says what is missing
        return
    for values in itertools.product(*(axis.values for axis in axes)):
        chosen = dict(zip((axis.name for axis in axes), values, strict=True))
        settings = Settings.parse(f"{axis.path}={chosen[axis.name]}" for axis in axes)
        params: dict[str, Any] = {
            axis.name: _shown(change) for axis, change in zip(axes, settings.changes, strict=True)
        }
        name = "+".join(f"{key}={_plain(value)}" for key, value in chosen.items())
        label = f"{VARIANTS[variant].label}, " + ", ".join(f"{key} {value}" for key, value in chosen.items())
        for seed in range(ctx.seeds):
            stage = chain(settings.on_preset(ctx.preset), variant, seed)
            yield settings.apply([Cell(name, label, seed, params, stage)])[0]


def _shown(change: Change) -> Any:
    """A value as tables and axes have it: a number or a word."""
    return change.value if isinstance(change.value, int | float | str) else str(change.value)


def _plain(value: str) -> str:
    """A value as the name of a cell may have it."""
    return re.sub(r"[^\w.+-]+", "_", value).strip("_") or "_"


STUDY = Study("grid", "Grid", cells, prepare=prepare)
