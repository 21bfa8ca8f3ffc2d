"""Whether a generator repeats its training images (Meehan, Chaudhuri, Dasgupta 2020: data-copying).

A generator that has learnt the distribution makes images as far from their nearest training image as images held out
from the training are from theirs. One that copies makes them nearer:

    C = P(d(sample) < d(held out)),    d(x): distance of x's features to those of the nearest training image

C is 0.5 of a fair generator, 1 of a copier, and near 0 of one that misses the distribution: then it says nothing of
copies. z is the Mann-Whitney U in standard deviations from 0.5, positive towards copying; Meehan et al. print -z. Their
test runs in cells of the space, ours in the whole of it, as held-out images are few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fvar.metrics.compare import Score, score
from fvar.metrics.features import Extractor

BLOCK = 1024  # rows of the distance matrix at a time


@dataclass(frozen=True)
class Memorisation:
    """What `compare` finds: scores, and per sample its nearest training image (N,) int64 and the distance (N,)."""

    scores: dict[str, Score]
    nearest: Tensor
    distance: Tensor


def compare(generated: Tensor, train: Tensor, heldout: Tensor, extractor: Extractor, seed: int = 0) -> Memorisation:
    """Features (N, D) of samples, of all training images and of all held-out ones.

    Keys of the scores: "fid_heldout" and "kid_heldout", to be read beside FID and KID against the training images, and
    "copied", C above.
    """
    distance, nearest = nearest_of(generated, train)
    scores = {
        f"{key}_heldout": found
        for key, found in score(generated, heldout, extractor, ("fid", "kid"), seed).items()
        if key in ("fid", "kid")
    }
    share, z = share_nearer(distance, nearest_of(heldout, train)[0])
    reason = "" if len(heldout) else "no image was held out"
    details = {"z": z, "heldout_count": len(heldout)}
    value = share if len(heldout) else None
    scores["copied"] = Score(
        f"Copied@{len(generated)}", value, reason, len(generated), len(train), extractor.name, details
    )
    return Memorisation(scores, nearest, distance)


def nearest_of(features: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Per row of `features` (N, D) the distance to the nearest row of `known` (M, D), and the number of that row."""
    if not len(features):
        return features.new_empty(0), torch.empty(0, dtype=torch.int64)
    nearest = torch.cat([torch.cdist(block, known).argmin(1) for block in torch.split(features, BLOCK)])
    # By matrix products, distances of near copies would be rounding; those of the pairs found are exact.
    return (features - known[nearest]).norm(dim=1), nearest


def share_nearer(distances: Tensor, others: Tensor) -> tuple[float, float]:
    """P(a < b) + P(a = b) / 2 over pairs of `distances` (N,) and `others` (M,), and its z under "equally far"."""
    n, m = len(distances), len(others)
    if not n or not m:
        return math.nan, math.nan
    ordered = others.double().sort().values
    below = torch.searchsorted(ordered, distances.double())
    upto = torch.searchsorted(ordered, distances.double(), right=True)
    share = float((m - (below + upto).double() / 2).mean() / m)
    return share, (share - 0.5) / math.sqrt((n + m + 1) / (12 * n * m))
