"""Numbers from features: FID, KID, precision, recall and the Inception Score, computed by torch-fidelity.

torch-fidelity's convention throughout: input 1 is generated, input 2 is real.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from fvar.errors import unknown
from fvar.metrics.features import Extractor
from fvar.metrics.frechet import (
    RESAMPLES,
    Reference,
    Statistics,
    fid,
    fid_infinity,
    fid_spread,
    images_for_infinity,
    is_singular,
)
from fvar.plain import finite

NAMES = {  # of the scores that a metric gives: key, label
    "fid": (("fid", "FID"), ("fid_infinity", "FIDinf")),
    "kid": (("kid", "KID"),),
    "prc": (("precision", "Precision"), ("recall", "Recall")),
    "is": (("is", "IS"),),
}
METRICS = tuple(NAMES)
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # torch-fidelity's defaults
KID_BESIDE_FID = 10_000  # fewer images: FID is biased, and never stands alone
NEIGHBOURS = 3  # of precision and recall (Kynkäänniemi et al. 2019)
IS_SPLITS = 10
WHOLE_MATRIX = 10_000  # images up to which precision and recall hold whole distance matrices
PRC_BLOCK = 2500  # rows of a distance matrix at a time beyond that


@dataclass(frozen=True)
class Score:
    """One number, or the reason why there is none."""

    label: str  # as a table prints it, with the number of generated images: "FID@256"
    value: float | None
    reason: str = ""
    count: int = 0  # generated images
    reference_count: int | None = None  # real images; None where only their statistics are known
    extractor: str | None = None  # None: measured on pixels
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, details beside the rest; a value that is not finite is a blank with that reason."""
        body = asdict(self)
        if self.value is not None and not math.isfinite(self.value):
            body["reason"] = f"it came out as {self.value}"
        details: dict[str, Any] = body.pop("details")
        plain: dict[str, Any] = finite(body | details)
        return plain


def score(
    generated: Tensor,
    real: Reference,
    extractor: Extractor,
    metrics: Collection[str] = METRICS,
    seed: int = 0,
    kid_subset_size: int = KID_SUBSET_SIZE,
    full: Statistics | None = None,
) -> dict[str, Score]:
    """Compare features (N, D) of generated with those of real images.

    `full` are the statistics of the set that the real images were taken from: FID is that to the whole set.

    Keys of the result: "fid", "fid_infinity", "kid", "precision", "recall", "is". What cannot be computed is a blank
    with its reason. With fewer than `KID_BESIDE_FID` generated images FID brings KID along.
    `seed` draws KID's subsets, which hold `kid_subset_size` images or half of the smaller set. Raises `UserError` for
    an unknown metric.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
    count, width = generated.shape

    def label(key: str, name: str, value: float | None, reason: str = "", **details: Any) -> dict[str, Score]:
        known = len(real) if isinstance(real, Tensor) else None
        return {key: Score(f"{name}@{count}", value, reason, count, known, extractor.name, details)}

    needs_images = "the reference holds statistics only, no images"
    scores: dict[str, Score] = {}
    if reason := _not_finite(generated, real):
        for key, name in (pair for metric in metrics for pair in NAMES[metric]):
            scores |= label(key, name, None, reason)
        return scores
    if "fid" in metrics:
        whole = real if full is None else full
        known = len(whole) if isinstance(whole, Tensor) else None
        scores["fid"] = _frechet("FID", generated, whole, extractor.name, seed)
        value, reason = None, f"the extrapolation needs {images_for_infinity(width):,} generated images"
        if count >= images_for_infinity(width):
            value, reason = fid_infinity(generated, whole, seed), ""
        scores["fid_infinity"] = Score(f"FIDinf@{count}", value, reason, count, known, extractor.name)
    if "kid" in metrics or ("fid" in metrics and count < KID_BESIDE_FID):
        if not isinstance(real, Tensor):
            scores |= label("kid", "KID", None, needs_images)
        elif min(count, len(real)) < 4:
            scores |= label("kid", "KID", None, "KID needs at least 4 images on either side")
        else:
            size = min(kid_subset_size, count // 2, len(real) // 2)
            found = kid_features_to_metric(
                generated, real, kid_subsets=KID_SUBSETS, kid_subset_size=size, rng_seed=seed, verbose=False
            )
            spread = {"spread": found[KEY_METRIC_KID_STD], "subsets": KID_SUBSETS, "subset_size": size}
            scores |= label("kid", "KID", found[KEY_METRIC_KID_MEAN], **spread)
    if "prc" in metrics:
        pair = (("precision", "Precision", KEY_METRIC_PRECISION), ("recall", "Recall", KEY_METRIC_RECALL))
        if not isinstance(real, Tensor):
            reason, found = needs_images, {}
        elif min(count, len(real)) <= NEIGHBOURS:
            reason, found = f"needs more than {NEIGHBOURS} images on either side", {}
        else:
            reason, found = "", precision_recall(generated, real)
        for key, name, theirs in pair:
            scores |= label(key, name, found.get(theirs), reason, neighbours=NEIGHBOURS)
    if "is" in metrics:
        if extractor.head is None:
            scores |= label("is", "IS", None, extractor.no_head)
        elif count < IS_SPLITS:
            scores |= label("is", "IS", None, f"needs at least {IS_SPLITS} images")
        else:
            logits = generated @ extractor.head.cpu().T  # without the bias, as in the original
            found = isc_features_to_metric(logits, splits=IS_SPLITS)
            scores |= label("is", "IS", found[KEY_METRIC_ISC_MEAN], spread=found[KEY_METRIC_ISC_STD], splits=IS_SPLITS)
    return scores


def _not_finite(generated: Tensor, real: Reference) -> str:
    """Which features are NaN or infinite, as one sentence; empty where all are numbers."""
    sides = {"generated": generated} | ({"real": real} if isinstance(real, Tensor) else {})
    counts = {side: int((~features.isfinite().all(1)).sum()) for side, features in sides.items()}
    bad = [f"{count} of {len(sides[side])} {side} images" for side, count in counts.items() if count]
    return f"the extractor gave features that are not finite for {' and '.join(bad)}" if bad else ""


def sfid(generated: Tensor, real: Reference, extractor: Extractor, seed: int = 0) -> Score:
    """FID of what lies where: of features (N, S) by `extractor.of_places()`, real ones or their statistics."""
    if reason := _not_finite(generated, real):
        return no_sfid(len(generated), reason, extractor)
    return _frechet("sFID", generated, real, extractor.name, seed)


def no_sfid(count: int, reason: str, extractor: Extractor) -> Score:
    """The blank in place of an sFID."""
    return Score(f"sFID@{count}", None, reason, count, None, extractor.name)


def _frechet(name: str, generated: Tensor, real: Reference, extractor: str, seed: int) -> Score:
    """The Fréchet distance with its spread, and a note where it is biased."""
    count, width = generated.shape
    known = len(real) if isinstance(real, Tensor) else None
    if min(count, count if known is None else known) < 2:
        return Score(
            f"{name}@{count}", None, "a covariance needs at least 2 images on either side", count, known, extractor
        )
    singular = f"fewer images than {width} features: the covariance is singular and {name} is biased upwards; see KID"
    details = {
        "spread": fid_spread(generated, real, seed),
        "resamples": RESAMPLES,
        "note": singular if is_singular(generated, real) else "",
    }
    return Score(f"{name}@{count}", fid(generated, real), "", count, known, extractor, details)


def precision_recall(generated: Tensor, real: Tensor) -> dict[str, float]:
    """Improved precision and recall: the share of one set within the other's balls to the third neighbour.

    Large sets are compared block by block: 50,000 x 50,000 features fit into 8 GiB.
    """
    small = max(len(generated), len(real)) <= WHOLE_MATRIX
    found: dict[str, float] = prc_features_to_metric(
        generated,
        real,
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=WHOLE_MATRIX if small else PRC_BLOCK,
        save_cpu_ram=not small,
        verbose=False,
    )
    return found
