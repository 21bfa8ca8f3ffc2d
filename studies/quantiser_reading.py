"""What is quantised: the residual of each focused view, each view on its own, or VAR's latent area pyramid.

    python -m studies.run quantiser_reading --preset smoke

The paper tokenises views in pixels, VAR scales in latents (see READINGS.md). `focus` keeps VAR's residual and decoding
path; `independent` codes every view anew (FlexVAR's way); `latent_area` is VAR's own, the baseline. None has a teacher,
so that nothing but the tokens differs.
"""

from collections.abc import Iterator

from fvar.config import Reading
from studies.study import Cell, Context, Study
from studies.variants import chain

READINGS: dict[Reading, str] = {
    "focus": "focused views, residual",
    "independent": "focused views, each on its own",
    "latent_area": "VAR's latent area pyramid",
}


def cells(ctx: Context) -> Iterator[Cell]:
    for reading, label in READINGS.items():
        for seed in range(ctx.seeds):
            stage = chain(ctx.preset, "baseline" if reading == "latent_area" else "no_teacher", seed, reading=reading)
            yield Cell(reading, label, seed, {"reading": reading}, stage)


STUDY = Study("quantiser_reading", "What the quantiser codes", cells, references=("latent_area",))
