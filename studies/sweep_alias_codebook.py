"""How many codes the alias residual needs: none (no teacher), then 64 to 8192; the paper has 512 (Sec. 4.2).

    python -m studies.run sweep_alias_codebook --preset smoke

The claim behind it: residual patterns are sparse, so that few codes hold them (Sec. 3.3). The structure tokenizer is
shared; each size has an alias tokenizer of its own, which the preset's training may not suffice to fill.
"""

from collections.abc import Iterator
from dataclasses import replace

from studies.study import Cell, Context, Study
from studies.variants import chain

SIZES = (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def cells(ctx: Context) -> Iterator[Cell]:
    for size in SIZES:
        preset = replace(ctx.preset, alias_vocab=size) if size else ctx.preset
        label = f"FVAR, {size} alias codes" if size else "FVAR without alias codes (no teacher)"
        for seed in range(ctx.seeds):
            stage = chain(preset, "full" if size else "no_teacher", seed)
            yield Cell(f"codes{size}", label, seed, {"alias_codes": size}, stage)


STUDY = Study("sweep_alias_codebook", "Sweep of the alias codebook", cells, references=("codes0",))
