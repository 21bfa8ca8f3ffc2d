"""The controls a reviewer asks for: is it the method, or its parameters, its cost, its noise, or any low-pass?

    python -m studies.run ablation_controls --preset smoke --seeds 3

Every control changes one thing that the method is not supposed to owe its result to:

    placebo            the teacher reads alias tokens of another image of the batch: its parameters, no information
    self_distillation  the teacher is a second deployment network, without AG-XAttn: it starts as the student's copy
                       and differs from it by drop path alone
    own_scale_hidden   the teacher sees coarser alias tokens only: is its target more than a leak of the answer?
    area, bicubic, ideal    a pyramid of that low-pass in place of the disk, everything else as in the full method
    equal_cost         the baseline, its transformer trained for as many FLOPs as the full method, tokenizers included
    again              the baseline once more under other seeds (A/A): what it differs by is noise, and a separated
                       difference a false alarm

The table has the teacher's held-out cross-entropy beside the student's. `--set train.steps=...` sets all cells alike,
also `equal_cost`, which then no longer is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from fvar.config import Kernel, Stage, TeacherConfig
from fvar.errors import UserError
from fvar.estimate import estimate
from studies.presets import Preset
from studies.study import Cell, Context, Study
from studies.variants import VARIANTS, chain

AGAIN = 1000  # added to the seeds of the baseline's second half: those of both halves are disjoint
TEACHERS = {  # variant -> how its label goes on, what its teacher reads, and the teacher
    "placebo": ("placebo", "another image's", TeacherConfig(alias="other")),
    "self_distillation": ("self-distillation", "nothing", TeacherConfig(alias="none")),
    "own_scale_hidden": ("own scale hidden", "coarser scales", TeacherConfig(visibility="before")),
}
LOW_PASSES: dict[Kernel, str] = {"area": "area", "bicubic": "bicubic", "ideal": "ideal low-pass"}


def equal_cost_steps(preset: Preset) -> int:
    """Steps of the baseline's transformer at which its trainings take as many FLOPs as those of the full method."""
    full, baseline = (chain(preset, variant, 0) for variant in ("full", "baseline"))
    (transformer,) = (stage for stage in baseline.chain() if stage.kind == "var")
    bill = estimate(transformer)
    return round((training_flops(full) - training_flops(baseline) + bill.flops) / bill.flops_per_step)


def training_flops(stage: Stage) -> float:
    """FLOPs of all trainings of a chain, by `fvar.estimate`."""
    return sum(estimate(part).flops for part in stage.chain() if part.kind in ("tokenizer", "var"))


def rows(preset: Preset) -> Iterator[tuple[str, str, str, Callable[[int], Stage]]]:
    """Variant, label, what its teacher reads, and its chain by seed; the two of Table 2 first."""
    for name, reads in (("full", "its own"), ("baseline", "none")):
        yield name, VARIANTS[name].label, reads, partial(chain, preset, name)
    for name, (label, reads, teacher) in TEACHERS.items():
        yield name, f"FVAR, {label}", reads, partial(chain, preset, "full", teacher=teacher)
    for kernel, label in LOW_PASSES.items():
        yield kernel, f"FVAR, {label} pyramid", "its own", partial(chain, preset, "full", kernel=kernel)
    longer = partial(chain, preset, "baseline", steps=equal_cost_steps(preset))
    yield "equal_cost", "VAR at FVAR's training cost", "none", longer
    yield "again", "VAR again, other seeds (A/A)", "none", lambda seed: chain(preset, "baseline", AGAIN + seed)


def cells(ctx: Context) -> Iterator[Cell]:
    if ctx.seeds > AGAIN:
        raise UserError(f"ablation_controls has at most {AGAIN} seeds: those above belong to the baseline's repetition")
    for name, label, reads, stage in rows(ctx.preset):
        for seed in range(ctx.seeds):
            yield Cell(name, label, seed, {"teacher": reads}, stage(seed))


STUDY = Study("ablation_controls", "Controls of FVAR", cells)
