"""Table 1 of the paper: VAR, M-VAR and FVAR over four sizes of the transformer; FVAR on M-VAR, too, where asked for.

    python -m studies.run table1 --preset paper --data folder:/path/to/imagenet --cluster slurm
    python -m studies.run table1 --only 'fmvar-*'                     FVAR on M-VAR: does next-focus help that, too?

Below the paper preset the four sizes are scaled down, and the labels say so ("VAR-d12 at depth 3"). All sizes share the
tokenizers, which are trained once with seed 0. Times are of sampling, each over VAR-d16's of the same seed.
"""

from collections.abc import Iterator

from fvar.config import Mixer
from studies.presets import Preset
from studies.study import Cell, Context, Study
from studies.variants import chain

PRINTED = (12, 16, 20, 24)  # the depths the paper prints; its d16 is the one of Table 2
SMALLER = {"smoke": (2, 3, 4, 5)}  # in place of 3, 4, 5, 6: minutes on two cores
MODELS: dict[str, tuple[str, str, Mixer]] = {  # as printed, which variant of Table 2, on which blocks
    "var": ("VAR", "baseline", "var"),
    "m-var": ("M-VAR", "baseline", "mvar"),
    "fvar": ("FVAR", "full", "var"),
    "fmvar": ("FVAR on M-VAR", "full", "mvar"),
}


def depths(preset: Preset) -> tuple[int, ...]:
    """What stands for the paper's four depths: the same in proportion to the preset's own, or `SMALLER`."""
    scaled = tuple(printed * preset.transformer.depth // 16 for printed in PRINTED)
    return SMALLER.get(preset.name, scaled)


def cells(ctx: Context) -> Iterator[Cell]:
    for printed, depth in zip(PRINTED, depths(ctx.preset), strict=True):
        for key, (model, variant, mixer) in MODELS.items():
            label = f"{model}-d{printed}" + ("" if depth == printed else f" at depth {depth}")
            params = {"model": model, "depth": depth, "size": f"d{printed}"}
            for seed in range(ctx.seeds):
                stage = chain(ctx.preset, variant, seed, depth=depth, mixer=mixer)
                yield Cell(f"{key}-d{printed}", label, seed, params, stage, optional=key == "fmvar")


STUDY = Study("table1", "Table 1: VAR, M-VAR and FVAR by size", cells, references=("var-{size}",))
