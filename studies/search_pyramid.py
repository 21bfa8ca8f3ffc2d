"""Optuna looks for a better pyramid than the paper's: largest radius, schedule, kernel, scales K and noise beta.

    python -m studies.run search_pyramid --preset small --trials 24

Every trial trains tokenizers of its own, whose tokens differ, so held-out losses cannot be compared: running trials are
pruned by the KID of samples drawn on the way (`var.curve`).
"""

from collections.abc import Mapping
from typing import Any

from studies.engine.search.definition import Search
from studies.engine.search.space import Choice, Point, Space, Uniform
from studies.presets import Preset

FEWER_OR_MORE = (-1, 0, 1)  # scales than the preset's


def scales(preset: Preset, count: int) -> tuple[int, ...]:
    """Sides of the token maps of a pyramid of `count` scales that ends like the preset's, each half the next."""
    last = preset.pyramid.patch_nums[-1]
    return tuple(last >> k for k in reversed(range(count)))


def space(preset: Preset) -> Space:
    last, own = preset.pyramid.patch_nums[-1], len(preset.pyramid.patch_nums)
    counts = tuple(own + more for more in FEWER_OR_MORE if own + more <= last.bit_length())
    return {
        "rho_max": Uniform(2.0, 32.0, log=True),  # px of a 256 px image
        "schedule": Choice(("cosine", "linear", "geometric")),
        "kernel": Choice(("disk", "gaussian")),
        "scales": Choice(counts),
        "beta": Uniform(1e-4, 1e-1, log=True),  # of the last scale; the first has a tenth of it, as in the paper
    }


def first(preset: Preset) -> list[Point]:
    own = preset.pyramid
    start: dict[str, Any] = {"rho_max": own.rho_max, "schedule": own.schedule, "kernel": own.kernel}
    return [start | {"scales": len(own.patch_nums), "beta": own.beta[1]}]


def settings(preset: Preset, point: Point) -> Mapping[str, Any]:
    own = preset.pyramid
    sides = own.patch_nums if point["scales"] == len(own.patch_nums) else scales(preset, point["scales"])
    share = own.beta[0] / own.beta[1] if own.beta[1] else 0.1
    return {
        "tokenizer.pyramid.rho_max": point["rho_max"],
        "tokenizer.pyramid.schedule": point["schedule"],
        "tokenizer.pyramid.kernel": point["kernel"],
        "tokenizer.pyramid.patch_nums": list(sides),
        "tokenizer.pyramid.beta": [share * point["beta"], point["beta"]],
    }


SEARCH = Search("search_pyramid", "Search for a pyramid", space, first, settings, judged="kid")
STUDY = SEARCH.study()
