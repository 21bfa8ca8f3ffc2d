"""Optuna looks for better distillation than the paper's: the weights of Eq. 13, the teacher's reach and the rate.

    python -m studies.run search_distillation --preset smoke --trials 8

The first trial is the paper's setting at the preset's rate, Table 2's `full`. All trials share one pair of tokenizers,
so running ones are pruned by their held-out loss.
"""

from collections.abc import Mapping
from typing import Any

from studies.engine.search.definition import Search
from studies.engine.search.space import Choice, Point, Space, Uniform
from studies.presets import Preset


def space(preset: Preset) -> Space:
    return {
        "lambda_feat": Uniform(0.1, 10.0, log=True),
        "lambda_logit": Uniform(0.05, 5.0, log=True),
        "lr": Uniform(preset.var_train.lr / 4, preset.var_train.lr * 4, log=True),
        "gate_bias": Uniform(-6.0, 0.0),  # of the teacher's gate before training
        "blocks": Choice((1, 2)),  # last blocks with AG-XAttn, whose features the student follows
    }


def first(preset: Preset) -> list[Point]:
    return [{"lambda_feat": 1.0, "lambda_logit": 0.5, "lr": preset.var_train.lr, "gate_bias": -4.0, "blocks": 2}]


def settings(preset: Preset, point: Point) -> Mapping[str, Any]:
    return {
        "var.distill.lambda_feat": point["lambda_feat"],
        "var.distill.lambda_logit": point["lambda_logit"],
        "var.train.lr": point["lr"],
        "var.teacher.gate_bias": point["gate_bias"],
        "var.distill.feature_blocks": point["blocks"],
        "var.teacher.blocks": point["blocks"],
    }


SEARCH = Search("search_distillation", "Search for distillation settings", space, first, settings)
STUDY = SEARCH.study()
