"""Scores samples against real images: `scores.json`, metric -> value or reason, with counts and extractor."""

from __future__ import annotations

import time

from fvar import atomic
from fvar.config import ScoresConfig
from fvar.data import ImageSet, balanced_subset, open_dataset
from fvar.metrics.compare import score
from fvar.metrics.features import extract, extract_cached, load_extractor
from fvar.metrics.sources import ArrayImages, open_archive
from fvar.rundir import RunDir
from fvar.training.distributed import pick_device


def run(run: RunDir) -> None:
    """Extract features of both sides and compare them. Inputs: samples."""
    config = run.config
    assert isinstance(config, ScoresConfig)
    device = pick_device(run.runtime.device)
    real = reference(config, run.runtime.workers)
    generated = open_archive(run.input("samples").path / "samples.npz")
    assert isinstance(generated, ArrayImages)
    extractor = load_extractor(config.extractor, device=device)
    said = 0.0

    def progress(done: int, total: int, rate: float) -> None:
        nonlocal said
        if time.monotonic() - said > 1 or done == total:
            said = time.monotonic()
            run.update(step=done, steps=total, rate=rate, eta=(total - done) / rate)

    run.update(note="features of the real images")
    cache = run.path.parent.parent / "cache" / "features"  # beside runs/: shared by all studies of these results
    real_features = extract_cached(extractor, real, cache, config.batch_size, progress)
    run.update(note="features of the samples")
    features = extract(extractor, generated, config.batch_size, progress)
    run.update(note="comparing")
    scores = score(features, real_features, extractor, seed=config.seed)
    atomic.write_json(run.path / "scores.json", {metric: found.as_dict() for metric, found in scores.items()})
    run.update(note="")


def reference(config: ScoresConfig, workers: int = 2) -> ImageSet:
    """The real images of a configuration: a split, or a class-balanced subset of it."""
    images = open_dataset(config.reference, config.split, workers)
    if not config.reference_count:
        return images
    chosen = balanced_subset(images.names, images.labels.tolist(), config.reference_count, config.reference.split_seed)
    return images.select(chosen)
