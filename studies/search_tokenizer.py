"""Optuna looks for better tokenizers than the preset's: the size of the alias codebook, and the weights of the losses.

    python -m studies.run search_tokenizer --preset small --trials 24

Every trial trains tokenizers of its own, whose tokens differ, so held-out losses cannot be compared: running trials are
pruned by the KID of samples drawn on the way (`var.curve`). Losses that a preset leaves out, as smoke does those of
other networks, are not searched.
"""

from collections.abc import Mapping
from typing import Any

from studies.engine.search.definition import Search
from studies.engine.search.space import Choice, Point, Space, Uniform
from studies.presets import Preset

WEIGHTS = ("l1", "l2", "perceptual", "adversarial", "coarse_views")  # of `TokenizerLossConfig`
REACH = 10.0  # weights are searched from a tenth to ten times the preset's


def weights(preset: Preset) -> dict[str, float]:
    """The losses that the preset has."""
    return {name: weight for name in WEIGHTS if (weight := getattr(preset.loss, name))}


def space(preset: Preset) -> Space:
    sizes = tuple(preset.alias_vocab * 4**power // 16 for power in range(5))
    commitment = preset.quantiser.commitment
    axes: dict[str, Uniform | Choice] = {"alias_codes": Choice(sizes)}
    axes["commitment"] = Uniform(commitment / REACH, commitment * REACH, log=True)
    return axes | {name: Uniform(own / REACH, own * REACH, log=True) for name, own in weights(preset).items()}


def first(preset: Preset) -> list[Point]:
    own = {"alias_codes": preset.alias_vocab, "commitment": preset.quantiser.commitment}
    return [own | weights(preset)]


def settings(preset: Preset, point: Point) -> Mapping[str, Any]:
    losses = {f"preset.loss.{name}": point[name] for name in weights(preset)}  # an alias tokenizer may have its own
    return {
        "preset.alias_vocab": point["alias_codes"],
        "tokenizer.quantiser.commitment": point["commitment"],
        **losses,
    }


SEARCH = Search("search_tokenizer", "Search for tokenizers", space, first, settings, judged="kid")
STUDY = SEARCH.study()
