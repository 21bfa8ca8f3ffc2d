"""Optuna looks for a better training of the transformer than the preset's: rate, warm-up, drop path and label drop.

    python -m studies.run search_training --preset small --trials 24 --pruner median

The first trial is the preset's own training, Table 2's `full`. All trials share one pair of tokenizers, so running ones
are pruned by their held-out loss.
"""

from collections.abc import Mapping
from typing import Any

from studies.engine.search.definition import Search
from studies.engine.search.space import Point, Space, Uniform
from studies.presets import Preset


def space(preset: Preset) -> Space:
    return {
        "lr": Uniform(preset.var_train.lr / 10, preset.var_train.lr * 10, log=True),
        "warmup": Uniform(0.0, 0.2),  # share of the steps
        "drop_path": Uniform(0.0, 0.3),  # of the last block
        "label_drop": Uniform(0.0, 0.3),
    }


def first(preset: Preset) -> list[Point]:
    network, train = preset.transformer, preset.var_train
    start = {"lr": train.lr, "warmup": train.warmup, "drop_path": network.drop_path_peak}
    return [start | {"label_drop": network.label_drop}]


def settings(preset: Preset, point: Point) -> Mapping[str, Any]:
    own = preset.transformer
    by_depth = point["drop_path"] == own.drop_path_peak  # as the preset says it, so that the stage is the preset's
    return {
        "var.train.lr": point["lr"],
        "var.train.warmup": point["warmup"],
        "var.transformer.drop_path": own.drop_path if by_depth else point["drop_path"],
        "var.transformer.label_drop": point["label_drop"],
    }


SEARCH = Search("search_training", "Search for training settings", space, first, settings)
STUDY = SEARCH.study()
