"""Scores of images against whatever the reference is: images, or what somebody published of them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor

from fvar.errors import UserError
from fvar.metrics.compare import METRICS, Score, no_sfid, score, sfid
from fvar.metrics.features import Extractor, Images
from fvar.metrics.sources import Published

Extract = Callable[[Extractor, Images], Tensor]  # features of images, or what was found before


def score_against(
    generated: Images,
    real: Images | Published,
    extractor: Extractor,
    extract: Extract,
    metrics: Collection[str] = METRICS,
    seed: int = 0,
) -> dict[str, Score]:
    """`score` of the features of both sides, and "sfid".

    Against published statistics FID and sFID are those to the whole set they describe; everything else needs images and
    uses those that were published beside them. sFID is given where it is asked for, and beside FID for published
    statistics. Raises `UserError` for statistics of another network's features.
    """
    published = real if isinstance(real, Published) else None
    images = real.images if isinstance(real, Published) else real
    if published and len(published.statistics.mu) != extractor.width:
        raise UserError(f"mu has {len(published.statistics.mu)} features, but {extractor.name} has {extractor.width}")
    found: dict[str, Score] = {}
    of_features = [name for name in metrics if name != "sfid"]
    if of_features:
        full = published.statistics if published else None
        reference = full if images is None else extract(extractor, images)
        assert reference is not None, "a reference holds statistics or images"
        found |= score(extract(extractor, generated), reference, extractor, of_features, seed, full=full)
    if "sfid" in metrics or (published and "fid" in metrics):
        found["sfid"] = _sfid(generated, real, extractor, extract, seed)
    return found


def _sfid(generated: Images, real: Images | Published, extractor: Extractor, extract: Extract, seed: int) -> Score:
    places = extractor.of_places()
    if places is None:
        return no_sfid(len(generated), f"sFID is defined by a map within Inception, not by {extractor.name}", extractor)
    if not isinstance(real, Published):
        return sfid(extract(places, generated), extract(places, real), extractor, seed)
    if real.spatial is None:
        return no_sfid(len(generated), "the reference holds no mu_s and sigma_s", extractor)
    return sfid(extract(places, generated), real.spatial, extractor, seed)
