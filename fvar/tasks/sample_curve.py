"""FID and KID of samples of a network in training: one point of the convergence figure."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import torch
from torch import Tensor

from fvar.config import CurveConfig
from fvar.data import ImageSet
from fvar.metrics.compare import score
from fvar.metrics.features import extract, extract_cached, load_extractor
from fvar.metrics.frechet import fid
from fvar.metrics.sources import ArrayImages
from fvar.models.var import VAR
from fvar.sampling import image_seeds, prepare, sample
from fvar.tokenizer.vqvae import VQVAE
from fvar.training.probes import Cancelled


class SampleCurve:
    """Samples and scores as the stages `samples` and `scores` do, with networks of its own and numbered seeds.

    Every point uses the same seeds and labels, so that neighbouring points differ by the weights alone.
    """

    def __init__(self, config: CurveConfig, student: VAR, vqvae: VQVAE, real: ImageSet, cache: Path) -> None:
        self.config, self.real, self.cache = config, real, cache
        self.device = student.pos_start.device
        # Copies: sampling lowers their precision in place. Made, as the extractor, before the training draws numbers.
        self.var, self.vqvae = copy.deepcopy(student).requires_grad_(False), copy.deepcopy(vqvae)
        prepare(self.var, self.vqvae, config.samples.precision, self.device)
        self.extractor = load_extractor(config.scores.extractor, device=self.device)

    def __call__(self, weights: dict[str, Tensor], stopping: threading.Event) -> dict[str, float]:
        """`fid_<count>` and `kid_<count>` of the student's `weights`."""

        def go_on(*_: object) -> None:
            if stopping.is_set():
                raise Cancelled

        scores, count = self.config.scores, self.config.samples.count
        self.var.load_state_dict(weights)
        real = extract_cached(self.extractor, self.real, self.cache, scores.batch_size, go_on)
        parts = []
        for first in range(0, count, self.config.samples.batch_size):
            go_on()
            parts.append(self._images(range(first, min(first + self.config.samples.batch_size, count))))
        images = ArrayImages(torch.cat(parts).permute(0, 2, 3, 1).numpy())
        features = extract(self.extractor, images, scores.batch_size, go_on)
        values = {f"fid_{count}": fid(features, real)}
        kid = score(features, real, self.extractor, ("kid",), scores.seed)["kid"].value
        return values if kid is None else {**values, f"kid_{count}": kid}

    def _images(self, indices: range) -> Tensor:
        """(B, 3, S, S) uint8, on the CPU."""
        cfg = self.config.samples
        labels = torch.tensor(indices) % self.var.num_classes
        made = sample(
            self.var,
            self.vqvae,
            labels.to(self.device),
            guidance=cfg.guidance,
            top_k=cfg.top_k,
            top_p=cfg.top_p,
            seeds=image_seeds(cfg.seed, indices),
        )
        return made.images.cpu()
