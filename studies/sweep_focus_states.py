"""Into how many focus states the way from blur to clarity is cut: K = 2, 3, 4, 6, 10.

    python -m studies.run sweep_focus_states --preset smoke

More states are more tokens per image: the table says how many, since a longer sequence costs more. The paper says K = 4
(Sec. 4.2) and 10 (Table 1); at the paper's size these are its two published shapes. Each K has tokenizers of its own.
"""

from collections.abc import Iterator
from dataclasses import replace

from studies.study import Cell, Context, Study
from studies.variants import chain

STATES = (2, 3, 4, 6, 10)
TEN_SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # VAR's, at 256 px


def sides(count: int, own: tuple[int, ...]) -> tuple[int, ...] | None:
    """`count` token sides that end where `own` ends, in even ratios; None where there are too few whole numbers.

    The preset's own sides where it has that many, and VAR's ten at its 16.
    """
    last = own[-1]
    if count == len(own):
        return own
    if count == len(TEN_SCALES) and last == TEN_SCALES[-1]:
        return TEN_SCALES
    if count > last:
        return None
    found = [max(k + 1, round(last ** (k / (count - 1)))) for k in range(count)]
    return tuple(min(side, last - (count - 1 - k)) for k, side in enumerate(found))


def cells(ctx: Context) -> Iterator[Cell]:
    for count in STATES:
        chosen = sides(count, ctx.preset.pyramid.patch_nums)
        if chosen is None:
            continue
        preset = replace(ctx.preset, pyramid=replace(ctx.preset.pyramid, patch_nums=chosen))
        params = {"states": count, "tokens": sum(side * side for side in chosen)}
        for seed in range(ctx.seeds):
            stage = chain(preset, "full", seed)
            yield Cell(f"K{count}", f"FVAR, K = {count}: {', '.join(map(str, chosen))}", seed, params, stage)


STUDY = Study("sweep_focus_states", "Sweep of the number of focus states", cells, references=("K4",))
