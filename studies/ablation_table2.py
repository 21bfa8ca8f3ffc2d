"""Table 2 of the paper: what each part of the method is worth.

    python -m studies.run ablation_table2 --preset smoke

Six variants share five tokenizers, which are trained once with seed 0. A seed changes the transformer's training and
the sampling.
"""

from collections.abc import Iterator

from studies.study import Cell, Context, Study
from studies.variants import VARIANTS, chain


def cells(ctx: Context) -> Iterator[Cell]:
    for name, variant in VARIANTS.items():
        for seed in range(ctx.seeds):
            yield Cell(name, variant.label, seed, {"variant": name}, chain(ctx.preset, name, seed))


STUDY = Study("ablation_table2", "Table 2: ablation of FVAR", cells)
