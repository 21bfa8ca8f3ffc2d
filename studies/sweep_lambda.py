"""How strongly to distil: a grid over the two weights of Eq. 13 around the paper's (1.0, 0.5).

    python -m studies.run sweep_lambda --preset smoke

Only the transformer's training differs, so the whole grid shares one pair of tokenizers and of token stores. At (0, 0)
the teacher has no say.
"""

from collections.abc import Iterator

from fvar.config import DistillConfig
from studies.study import Cell, Context, Study
from studies.variants import chain

FEATURE_WEIGHTS = (0.0, 0.5, 1.0, 2.0)
LOGIT_WEIGHTS = (0.0, 0.25, 0.5, 1.0)


def cells(ctx: Context) -> Iterator[Cell]:
    for feat in FEATURE_WEIGHTS:
        for logit in LOGIT_WEIGHTS:
            distill = DistillConfig(lambda_feat=feat, lambda_logit=logit)
            params = {"lambda_feat": feat, "lambda_logit": logit}
            for seed in range(ctx.seeds):
                stage = chain(ctx.preset, "full", seed, distill=distill)
                yield Cell(f"feat{feat:g}-logit{logit:g}", f"FVAR, lambda = ({feat:g}, {logit:g})", seed, params, stage)


STUDY = Study("sweep_lambda", "Sweep of the distillation weights", cells, references=("feat1-logit0.5",))
