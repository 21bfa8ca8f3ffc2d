"""What may be searched: the axes of a space, and whether a point lies in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fvar.errors import UserError, unknown

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LEVELS = 4  # of a real axis in a grid


@dataclass(frozen=True)
class Uniform:
    """A real number in [low, high], on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool = False

    def holds(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def levels(self) -> tuple[float, ...]:
        """Evenly spaced values from end to end, for a grid."""
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        places = [ends[0] + (ends[1] - ends[0]) * i / (LEVELS - 1) for i in range(LEVELS)]
        inner = [float(f"{math.exp(place) if self.log else place:.6g}") for place in places[1:-1]]
        return (self.low, *inner, self.high)

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    options: tuple[int | float | str, ...]

    def holds(self, value: object) -> bool:
        return value in self.options

    def levels(self) -> tuple[int | float | str, ...]:
        return self.options

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.options)

    def __str__(self) -> str:
        return ", ".join(map(str, self.options))


Space = Mapping[str, Uniform | Choice]
Point = Mapping[str, Any]


def require_inside(space: Space, points: Iterable[Point]) -> None:
    """Raise `UserError` for the first point that lies outside, naming the axis and what it holds."""
    for point in points:
        for name in point:
            if name not in space:
                raise unknown("axis of a first point", name, space)
        for name, axis in space.items():
            if name not in point:
                raise UserError(f"the first point {dict(point)} has no {name}; the space asks for {', '.join(space)}")
            if not axis.holds(point[name]):
                raise UserError(f"the first point lies outside the space: {name} {point[name]!r} is not in {axis}")


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Every combination of the axes' levels, the last axis fastest."""
    for values in itertools.product(*(axis.levels() for axis in space.values())):
        yield dict(zip(space, values, strict=True))
