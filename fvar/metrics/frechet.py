"""The Fréchet distance between two sets of features, how far it can be trusted, and its limit for endless samples.

FID = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of Gaussians fitted to both sets (Heusel et al. 2017). torch-fidelity
takes the last trace from the eigenvalues of S1 S2, a D x D matrix; that is used where both sets determine their
covariance. With fewer images than features S1 S2 is singular. Then, and for resampling, this form gives the same number
without it: where S = R^T R, the non-zero eigenvalues of S1 S2 are the squared singular values of R1 R2^T, so the trace
of the root is their sum. R is the matrix of centred features over sqrt(n - 1), or any root of a given covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

RESAMPLES = 20
EXTRAPOLATION_POINTS = 15  # as Chong and Forsyth


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D), float64: what FID compares."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]


Reference = Tensor | Statistics  # features of real images (M, D), or only their statistics


def statistics_of(features: Tensor) -> Statistics:
    """Mean and covariance of features (N, D), by torch-fidelity."""
    return Statistics(**fid_features_to_statistics(features.double()))


def fid(generated: Tensor, real: Reference) -> float:
    """FID of features (N, D), N >= 2, by torch-fidelity; by the form above where a covariance is singular."""
    if is_singular(generated, real):
        return _distance(_Gaussian.fit(generated), _Gaussian.of(real))
    first = statistics_of(generated)
    second = real if isinstance(real, Statistics) else statistics_of(real)
    return float(fid_statistics_to_metric(vars(first), vars(second), verbose=False)[KEY_METRIC_FID])


def is_singular(generated: Tensor, real: Reference) -> bool:
    """Whether one of the sets has too few images to span the space of features."""
    count = len(generated) if isinstance(real, Statistics) else min(len(generated), len(real))
    return count <= generated.shape[1]


def fid_spread(generated: Tensor, real: Reference, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Standard deviation of FID over bootstrap resamples of the generated images; the real side stays as it is.

    Only the spread is meaningful: resamples repeat images, which raises their FID.
    """
    rng, fixed = np.random.default_rng(seed), _Gaussian.of(real)
    draws = [torch.from_numpy(rng.integers(len(generated), size=len(generated))) for _ in range(resamples)]
    return float(np.std([_distance(_Gaussian.fit(generated[draw]), fixed) for draw in draws], ddof=1))


def fid_infinity(generated: Tensor, real: Reference, seed: int = 0) -> float:
    """FID extrapolated to endless generated images (Chong and Forsyth 2020, "Effectively unbiased FID and IS").

    FID of N images exceeds its limit by a term in 1/N: a line is fitted over subsets of N/5 to N images. It takes N of
    at least `images_for_infinity`, since the law does not hold where covariances are singular. The bias of a finite
    reference remains.
    """
    count, width = generated.shape
    smallest = max(count // 5, width + 1)
    rng, fixed = np.random.default_rng(seed), _Gaussian.of(real)
    generated = generated[generated.double().sum(1).argsort()]  # the draws shall not depend on the images' order
    sizes = np.linspace(smallest, count, EXTRAPOLATION_POINTS).round().astype(int)
    found = [_distance(_Gaussian.fit(generated[rng.choice(count, size, replace=False)]), fixed) for size in sizes]
    return float(np.polyfit(1 / sizes, found, 1)[1])


def images_for_infinity(width: int) -> int:
    """The fewest generated images from which `fid_infinity` is extrapolated."""
    return 2 * (width + 1)


@dataclass(frozen=True)
class _Gaussian:
    """Mean (D,) and a root (r, D) of the covariance, S = root^T root, float64."""

    mean: Tensor
    root: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> _Gaussian:
        count, width = features.shape
        mean = features.double().mean(0)
        root = (features.double() - mean) / (count - 1) ** 0.5
        return cls(mean, root if count <= width else _square_root(root.T @ root))

    @classmethod
    def of(cls, reference: Reference) -> _Gaussian:
        if isinstance(reference, Tensor):
            return cls.fit(reference)
        return cls(torch.from_numpy(reference.mu), _square_root(torch.from_numpy(reference.sigma)))


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = values.clamp(min=0).sqrt()[:, None] * vectors.T
    return root


def _distance(first: _Gaussian, second: _Gaussian) -> float:
    cross = first.root @ second.root.T
    gram = cross @ cross.T if len(cross) <= cross.shape[1] else cross.T @ cross
    trace_of_root = (
        torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
    )  # sum of singular values, at a third of the time
    traces = first.root.square().sum() + second.root.square().sum()
    return float((first.mean - second.mean).square().sum() + traces - 2 * trace_of_root)
