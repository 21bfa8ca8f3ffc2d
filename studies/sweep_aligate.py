"""What of Alias-Gate Cross-Attention matters: in how many blocks and scales it sits, its gate, and what it may see.

    python -m studies.run sweep_aligate --preset smoke

One thing at a time is changed from the paper's setting (last 2 blocks, all scales, gated, alias scales up to a query's
own). In 0 blocks there is no AG-XAttn, and the teacher is a second deployment network (self-distillation). All cells
share one pair of tokenizers.
"""

from collections.abc import Iterator
from dataclasses import replace

from fvar.config import TeacherConfig
from studies.study import Cell, Context, Study
from studies.variants import chain

PAPER = TeacherConfig()
BLOCKS = (1, 2, 3, 4)
LAST_SCALES = (1, 2)  # the paper's M


def settings(depth: int) -> dict[str, tuple[str, TeacherConfig]]:
    """Cell name -> label and teacher, for a network of that depth; the paper's setting first."""
    found = {"paper": ("the paper's setting", PAPER), "blocks0": ("in no block", replace(PAPER, alias="none"))}
    for blocks in BLOCKS:
        if blocks != PAPER.blocks and blocks <= depth:
            found[f"blocks{blocks}"] = (
                f"in the last {blocks} block{'s' * (blocks > 1)}",
                replace(PAPER, blocks=blocks),
            )
    for scales in LAST_SCALES:
        label = f"in the last {scales} scale{'s' * (scales > 1)} only"
        found[f"scales{scales}"] = (label, replace(PAPER, last_scales=scales))
    found["no_gate"] = ("without a gate (Eq. 10 literally)", replace(PAPER, gate="none"))
    found["before"] = ("sees coarser alias scales only", replace(PAPER, visibility="before"))
    return found


def cells(ctx: Context) -> Iterator[Cell]:
    for name, (label, teacher) in settings(ctx.preset.transformer.depth).items():
        blocks = teacher.blocks if teacher.reads_alias else 0
        params: dict[str, int | str] = {"blocks": blocks, "last_scales": teacher.last_scales}
        params |= {"gate": teacher.gate, "visibility": teacher.visibility}
        for seed in range(ctx.seeds):
            stage = chain(ctx.preset, "full", seed, teacher=teacher)
            yield Cell(name, f"FVAR, AG-XAttn {label}", seed, params, stage)


STUDY = Study("sweep_aligate", "Sweep of Alias-Gate Cross-Attention", cells, references=("paper",))
