"""Scores samples against real images.

scores.json   metric -> value or reason, with counts and extractor
nearest.npz   with `scores.heldout`: per sample the training image (its place in the split) whose features are nearest
              to its own, `nearest` (N,) int64, and how far it is, `distance` (N,) float32
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fvar import editing
from fvar.config import PublishedConfig, SamplesConfig, ScoresConfig, TokensConfig
from fvar.data import ImageSet, open_dataset
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.machine.distributed import pick_device
from fvar.metrics import memorisation
from fvar.metrics.against import score_against
from fvar.metrics.compare import Score
from fvar.metrics.features import Extractor, Images, extract, extract_cached, load_extractor
from fvar.metrics.masked import masked_scores
from fvar.metrics.sources import ArrayImages, Published, open_archive
from fvar.metrics.spectra import aliasing_scores
from fvar.rundir import RunDir

NEAREST_FILE = "nearest.npz"


def run(run: RunDir) -> None:
    """Extract features of both sides and compare them. Inputs: samples."""
    config = run.config_as(ScoresConfig)
    device = pick_device(run.runtime.device)
    real = published(config.published) if config.published else reference(config, run.runtime.workers)
    images = real.images if isinstance(real, Published) else real
    generated = open_archive(run.input("samples").path / "samples.npz")
    assert isinstance(generated, ArrayImages)
    extractor = load_extractor(config.extractor, device=device)
    said = 0.0

    def progress(done: int, total: int, rate: float) -> None:
        nonlocal said
        if time.monotonic() - said > 1 or done == total:
            said = time.monotonic()
            run.update(step=done, steps=total, rate=rate, eta=(total - done) / rate)

    cache = feature_cache(run)

    made: dict[str, Tensor] = {}  # features of the samples, by extractor

    def features(extractor: Extractor, of: Images) -> Tensor:
        if of is generated and extractor.name in made:
            return made[extractor.name]
        run.update(note=f"{extractor.name} of the {'samples' if of is generated else 'real images'}")
        if of is not generated:
            return extract_cached(extractor, of, cache, config.batch_size, progress)
        made[extractor.name] = extract(extractor, of, config.batch_size, progress)
        return made[extractor.name]

    scores = score_against(generated, real, extractor, features, seed=config.seed)
    run.update(note="comparing")
    scores |= aliasing_scores(generated, images, features, device, config.seed)
    scores |= _masked(run.input("samples"), generated, device, run.runtime.workers)
    if config.heldout:
        train, heldout = (open_dataset(config.reference, split, run.runtime.workers) for split in ("train", "heldout"))
        known, unseen = (
            extract_cached(extractor, images, cache, config.batch_size, progress) for images in (train, heldout)
        )
        found = memorisation.compare(features(extractor, generated), known, unseen, extractor, config.seed)
        scores |= found.scores
        with atomic.replacing(run.path / NEAREST_FILE) as temporary, open(temporary, "wb") as file:
            np.savez(file, nearest=found.nearest.numpy(), distance=found.distance.numpy())
    atomic.write_json(run.path / "scores.json", {metric: found.as_dict() for metric, found in scores.items()})
    run.update(note="")
    print(", ".join(f"{found.label} {found.value:.4g}" for found in scores.values() if found.value is not None))


def _masked(samples: RunDir, generated: ArrayImages, device: torch.device, workers: int) -> dict[str, Score]:
    """Scores under the mask, of samples that complete given images; none of others."""
    config = samples.config_as(SamplesConfig)
    if config.mask == "none":
        return {}
    data = samples.input("var").input("tokens").config_as(TokensConfig).data
    given = editing.originals(data, config.count, workers)
    mask = editing.masks(given.image_size)[config.mask]
    return masked_scores(
        generated.batch,
        lambda numbers: given.batch([number % len(given) for number in numbers]),
        len(generated),
        mask,
        device,
    )


def reference(config: ScoresConfig, workers: int = 2) -> ImageSet:
    """The real images of a configuration: a split, or a class-balanced subset of it."""
    images = open_dataset(config.reference, config.split, workers)
    if not config.reference_count:
        return images
    return images.balanced(config.reference_count, config.reference.split_seed)


def published(config: PublishedConfig) -> Published:
    """The statistics of a configuration, and the images beside them. Raises `UserError` for a file without any."""
    config.require_unchanged()
    found = open_archive(Path(config.path))
    if not isinstance(found, Published):
        raise UserError(f"{config.path} holds images without mu and sigma; name ADM's reference batch")
    return found


def feature_cache(run: RunDir) -> Path:
    """Where features of real images are kept, beside runs/: all studies of these results share them."""
    return run.path.parent.parent / "cache" / "features"
