"""Table 1 of the paper: VAR and FVAR over four sizes of the transformer.

    python -m studies.run table1 --preset paper --data folder:/path/to/imagenet --cluster slurm

Below the paper preset the four sizes are scaled down, and the labels say so ("VAR-d12 at depth 3"). All sizes share the
tokenizers, which are trained once with seed 0.
"""

from collections.abc import Iterator

from studies.presets import TABLE1_DEPTHS
from studies.study import Cell, Context, Study
from studies.variants import chain

MODELS = {"var": ("VAR", "baseline"), "fvar": ("FVAR", "full")}


def cells(ctx: Context) -> Iterator[Cell]:
    for printed, depth in zip(TABLE1_DEPTHS, ctx.preset.depths, strict=True):
        for key, (model, variant) in MODELS.items():
            label = f"{model}-d{printed}" + ("" if depth == printed else f" at depth {depth}")
            for seed in range(ctx.seeds):
                stage = chain(ctx.preset, variant, seed, depth=depth)
                yield Cell(f"{key}-d{printed}", label, seed, {"model": model, "depth": depth}, stage)


STUDY = Study("table1", "Table 1: VAR and FVAR by size", cells)
