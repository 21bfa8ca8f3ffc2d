"""What the noise of Eq. 3 is for: beta from none to ten times the paper's 1e-3 to 1e-2.

    python -m studies.run sweep_noise --preset smoke

The noise is on the focused views while tokenizers train; the paper says it keeps covariances full-rank and the training
stable (Sec. 3.2). Each strength has tokenizers of its own.
"""

from collections.abc import Iterator
from dataclasses import replace

from studies.study import Cell, Context, Study
from studies.variants import chain

STRENGTHS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)  # times the preset's own


def cells(ctx: Context) -> Iterator[Cell]:
    first, last = ctx.preset.pyramid.beta
    for strength in STRENGTHS:
        beta = (first * strength, last * strength)
        preset = replace(ctx.preset, pyramid=replace(ctx.preset.pyramid, beta=beta))
        label = f"FVAR, noise {beta[0]:.2g} to {beta[1]:.2g}"
        for seed in range(ctx.seeds):
            yield Cell(f"noise{strength:g}", label, seed, {"beta": beta[1]}, chain(preset, "full", seed))


STUDY = Study("sweep_noise", "Sweep of the noise on focused views", cells, references=("noise1",))
