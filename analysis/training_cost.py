"""What the training of each variant took: the FLOPs that its configuration says, the hours that passed, parameters.

A variant with a teacher trains two networks where the baseline trains one; whoever compares their scores should see
that beside them. Tokenizers and token stores count in full for every variant that reads them, though the variants of a
study share them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.results import CellResult
from analysis.stats import spread
from fvar.config import TokenizerConfig, VarConfig
from fvar.estimate import estimate, stage_of
from fvar.rundir import RunDir


@dataclass(frozen=True)
class Cost:
    """A column about training; its values stand under `key` in what `measured` returns."""

    key: str
    heading: str
    scale: float = 1.0  # by which it is multiplied where it is shown

    def text(self, value: float) -> str:
        """Three significant digits; empty where it is not known."""
        return "" if math.isnan(value) else f"{self.scale * value:.3g}"


COSTS = (
    Cost("deployed", "Parameters deployed M", 1e-6),
    Cost("trained", "with the teacher M", 1e-6),
    Cost("tokenizer_flops", "Tokenizers TFLOP", 1e-12),
    Cost("var_flops", "Transformer TFLOP", 1e-12),
    Cost("hours", "Hours"),
)


def columns(cells: Sequence[CellResult]) -> dict[str, float]:
    """`training_<cost>_mean` over the seeds of a variant whose transformer is trained; NaN where there is none."""
    found = [values for cell in cells if (values := measured(cell))]
    row = {}
    for cost in COSTS:
        summary = spread(values[cost.key] for values in found)
        row[f"training_{cost.key}_mean"] = summary.mean if summary else math.nan
    return row


def measured(cell: CellResult) -> dict[str, float]:
    """Every cost of a cell by key; empty before its transformer is trained, and where what it read was not kept.

    FLOPs and parameters are `fvar.estimate`'s; the FLOPs of a frozen teacher are those of the run that trained it, too.
    "deployed" is the student alone, "trained" with a teacher that learns beside it. "hours" is the wall time of
    transformer, token stores and tokenizers one after the other, of all attempts, on whatever machine they ran.
    """
    var = cell.chain.get("var")
    if var is None or not var.done or not isinstance(var.config, VarConfig):
        return {}
    stores = ("tokens", "alias") if var.config.teacher else ("tokens",)
    if not all(role in cell.chain and f"{role}.tokenizer" in cell.chain for role in stores):
        return {}
    stages = {run.name: run for role, run in cell.chain.items() if role not in ("samples", "scores")}
    bill = estimate(stage_of(var))
    return {
        "deployed": next(part.parameters for part in bill.parts if part.name == "student"),
        "trained": bill.parameters,
        "tokenizer_flops": sum(_flops(run) for run in stages.values() if isinstance(run.config, TokenizerConfig)),
        "var_flops": sum(_flops(run) for run in stages.values() if isinstance(run.config, VarConfig)),
        "hours": sum(run.status.seconds for run in stages.values()) / 3600,
    }


def _flops(run: RunDir) -> float:
    return estimate(stage_of(run)).flops
