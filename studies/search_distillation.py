"""Optuna looks for better distillation settings than the paper's: the weights of Eq. 13, and the teacher's reach.

    python -m studies.run search_distillation --preset smoke --trials 8

The first trial is the paper's setting. All trials share one pair of tokenizers; the score is FID, or KID below 10,000
samples, where it is the less biased of the two.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from analysis.metrics import deciding
from fvar.config import DistillConfig, TeacherConfig
from studies.engine.search import Choice, Search, Space, Uniform
from studies.study import Cell, Context, Study
from studies.variants import chain

SPACE: Space = {
    "lambda_feat": Uniform(0.1, 10.0, log=True),
    "lambda_logit": Uniform(0.05, 5.0, log=True),
    "blocks": Choice((1, 2)),  # last blocks with AG-XAttn, whose features the student follows
    "gate_bias": Uniform(-6.0, 0.0),  # of the teacher's gate before training
}
PAPER = {"lambda_feat": 1.0, "lambda_logit": 0.5, "blocks": 2, "gate_bias": -4.0}
TRIALS = 16


def cells(ctx: Context) -> Iterator[Cell]:
    """The trials so far, told to Optuna as they end, and new ones while there are few open."""
    first = trial(ctx, 0, PAPER)
    if ctx.dry:
        yield first
        return
    search = Search(ctx.results, f"{ctx.study.name}/{ctx.folder.name}", SPACE, PAPER, identity=first.stage.signature)
    proposals = search.proposals()
    still_open = 0
    for proposal in proposals:
        cell = trial(ctx, proposal.number, proposal.params)
        yield cell
        result = ctx.result(cell)
        state, detail = result.state
        if state == "done":
            search.tell(proposal.number, result.score(metric(ctx)))
        elif state in ("failed", "blocked", "cancelled"):
            search.tell(proposal.number, None, detail)
        else:
            still_open += 1
    for _ in range(min(ctx.width - still_open, (ctx.trials or TRIALS) - len(proposals))):
        proposal = search.ask()
        yield trial(ctx, proposal.number, proposal.params)


def metric(ctx: Context) -> str:
    """What is minimised."""
    return deciding(ctx.preset.sampling.count).key


def trial(ctx: Context, number: int, params: Mapping[str, Any]) -> Cell:
    distill = DistillConfig(params["lambda_feat"], params["lambda_logit"], params["blocks"])
    teacher = TeacherConfig(blocks=params["blocks"], gate_bias=params["gate_bias"])
    stage = chain(ctx.preset, "full", 0, distill=distill, teacher=teacher)
    name = f"trial{number:03d}"
    return Cell(name, f"Trial {number}", 0, dict(params), stage, name=name)


STUDY = Study("search_distillation", "Search for distillation settings", cells, adaptive=True)
