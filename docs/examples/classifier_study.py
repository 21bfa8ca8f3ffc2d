"""Which parts of a small classifier of handwritten digits earn their keep? scikit-learn's, in fvar's workbench.

python -m studies.run digits --plugin docs.examples.classifier_study --seeds 3
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from analysis.metrics import Metric
from fvar.config import Stage, StageConfig
from fvar.plugins import StageKind
from fvar.rundir import RunDir
from studies.study import Cell, Context, Study


@dataclass(frozen=True)
class DigitsConfig(StageConfig):
    """Trains a perceptron on 8 x 8 px digits, and counts what it gets right of those held out. Inputs: none."""

    kind: ClassVar[str] = "digits"
    REVISION: ClassVar[int] = 1  # 1: first
    hidden: int = 32  # units of the one hidden layer
    scaled: bool = True  # pixels to mean 0 and variance 1
    stop_early: bool = False  # keep a tenth of the training images to end on
    seed: int = 0


def run(run: RunDir) -> Mapping[str, float]:
    from sklearn.datasets import load_digits
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    config = run.config_as(DigitsConfig)
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=0.5, random_state=config.seed, stratify=labels)
    network = MLPClassifier(config.hidden, early_stopping=config.stop_early, max_iter=400, random_state=config.seed)
    model = make_pipeline(StandardScaler() if config.scaled else FunctionTransformer(), network)
    model.fit(parts[0], parts[2])
    for step, loss in enumerate(network.loss_curve_, 1):
        run.log_metrics(step, {"loss": loss})
    return {"accuracy": model.score(parts[1], parts[3]), "log_loss": log_loss(parts[3], model.predict_proba(parts[1]))}


VARIANTS = {"full": {}, "narrow": {"hidden": 8}, "unscaled": {"scaled": False}, "early": {"stop_early": True}}


def cells(ctx: Context) -> Iterator[Cell]:
    for variant, changes in VARIANTS.items():
        for seed in range(ctx.seeds):
            yield Cell(variant, variant, seed, {"variant": variant}, Stage(DigitsConfig(seed=seed, **changes)))


STAGES = (StageKind(DigitsConfig, run, numbers=("accuracy", "log_loss")),)
COLUMNS = (Metric("accuracy", "Accuracy %", 2, "higher", scale=100), Metric("log_loss", "Log loss", 3, "lower"))
STUDY = Study("digits", "Digits: what a small classifier needs", cells, references=("full",), columns=COLUMNS)
