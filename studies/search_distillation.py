"""Optuna looks for better distillation settings than the paper's: both weights of Eq. 13 and the number of blocks.

    python -m studies.run search_distillation --preset smoke --trials 8

The first trial is the paper's setting. All trials share one pair of tokenizers; the score is FID, or KID below 10,000
samples, where it is the less biased of the two. The store is results/optuna.db; the driver is its only writer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fvar.config import DistillConfig
from studies.study import Cell, Context, Proposal, Study
from studies.variants import chain

PAPER = {"lambda_feat": 1.0, "lambda_logit": 0.5, "feature_blocks": 2}
TRIALS = 16


def cells(ctx: Context) -> Iterator[Cell]:
    """The trials so far, told to Optuna as they end, and new ones while there are few open."""
    if ctx.dry:
        yield trial(ctx, 0, PAPER)
        return
    from studies import search

    proposer = search.distillation(ctx, first=PAPER)
    results = {cell.name: cell for cell in ctx.read().cells} if ctx.started else {}
    proposals: list[Proposal] = proposer.proposals()
    still_open = 0
    for proposal in proposals:
        cell = trial(ctx, proposal.number, proposal.params)
        yield cell
        state, detail = results[cell.name].state if cell.name in results else ("waiting", "")
        if state == "done":
            proposer.tell(proposal.number, results[cell.name].score(metric(ctx)))
        elif state in ("failed", "blocked", "cancelled"):
            proposer.tell(proposal.number, None, detail)
        else:
            still_open += 1
    for _ in range(min(ctx.width - still_open, (ctx.trials or TRIALS) - len(proposals))):
        proposal = proposer.ask()
        yield trial(ctx, proposal.number, proposal.params)


def metric(ctx: Context) -> str:
    """What is minimised."""
    return "fid" if ctx.preset.samples >= 10_000 else "kid"


def trial(ctx: Context, number: int, params: Mapping[str, Any]) -> Cell:
    stage = chain(ctx.preset, "full", 0, distill=DistillConfig(**params))
    return Cell(f"trial{number:03d}", f"Trial {number}", 0, dict(params), stage, name=f"trial{number:03d}")


STUDY = Study("search_distillation", "Search for distillation settings", cells, adaptive=True)
