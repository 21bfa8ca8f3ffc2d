"""PSNR, SSIM, L1 and rFID of what a tokenizer decodes from its first k scales (see fvar.metrics.reconstruction)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fvar.data import ImageSet, to_float, to_uint8
from fvar.metrics.compare import Score, score
from fvar.metrics.features import Extractor, Progress
from fvar.metrics.ssim import WINDOW, ssim
from fvar.tokenizer.bundle import Tokenizer
from fvar.tokenizer.losses import psnr
from fvar.tokenizer.quantiser import bicubic


@dataclass(frozen=True)
class ScaleQuality:
    """Means over the images decoded from the scales 1 to `scale`, in all `tokens` tokens; None is not defined there."""

    scale: int
    tokens: int
    psnr: float | None  # dB, to the image
    psnr_view: float | None  # dB, to the view L_k enlarged to the image; alias: to the residual A_k
    ssim: float | None
    l1: float | None
    rfid: Score
    rkid: Score


@torch.no_grad()
def reconstruct(
    tokenizer: Tokenizer,
    images: ImageSet,
    extractor: Extractor | str,
    batch_size: int = 32,
    progress: Progress | None = None,
    seed: int = 0,
) -> list[ScaleQuality]:
    """Quality after each scale, in one pass over the images.

    In place of an `extractor` may stand the reason for leaving rFID and rKID blank. `seed` draws KID's subsets.
    """
    found = [_Scale() for _ in tokenizer.patch_nums]
    real, started = _Scale(), time.monotonic()
    alias = tokenizer.config.signal == "alias"
    if alias:
        extractor = "a residual is not a picture"
    for first in range(0, len(images), batch_size):
        pixels = images.batch(range(first, min(first + batch_size, len(images)))).to(tokenizer.device)
        views = tokenizer.views(to_float(pixels))
        made = tokenizer.decode_prefixes(tokenizer.vqvae.indices(views))
        for k, scale in enumerate(found):
            if alias:
                scale.add_residual(made[k], tokenizer.scaler.restore(k, views[k]))
            else:
                scale.add_picture(to_uint8(made[k]), pixels, _target(tokenizer, views, k))
                scale.add_features(to_uint8(made[k]), extractor)
        real.add_features(pixels, extractor)
        if progress:
            done = first + len(pixels)
            progress(done, len(images), done / (time.monotonic() - started))
    counts = [sum(p * p for p in tokenizer.patch_nums[:k]) for k in range(1, len(found) + 1)]
    return [scale.quality(k, counts[k - 1], real.features, extractor, seed) for k, scale in enumerate(found, 1)]


def _target(tokenizer: Tokenizer, views: list[Tensor], k: int) -> Tensor | None:
    """What the first k + 1 scales were trained to show (B, 3, S, S); None if that was nothing."""
    side = tokenizer.config.data.image_size
    if tokenizer.config.quantiser.reading == "latent_area" and k < len(views) - 1:
        return None
    return bicubic(views[k], side).clamp(-1, 1)


@dataclass
class _Scale:
    """Values of one scale, image by image."""

    values: dict[str, list[Tensor]] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)

    def add_picture(self, made: Tensor, pixels: Tensor, target: Tensor | None) -> None:
        """Compare 8-bit reconstructions with 8-bit images and with a target in [-1, 1]."""
        self._note("psnr", psnr(to_float(made), to_float(pixels)))
        self._note("l1", (made.float() - pixels.float()).abs().mean((1, 2, 3)) / 255)
        if target is not None:
            self._note("psnr_view", psnr(to_float(made), target))
        if min(pixels.shape[-2:]) >= WINDOW:
            self._note("ssim", ssim(made, pixels))

    def add_residual(self, made: Tensor, target: Tensor) -> None:
        self._note("psnr_view", psnr(made, target))

    def add_features(self, pixels: Tensor, extractor: Extractor | str) -> None:
        if not isinstance(extractor, str):
            self.features.append(extractor.network(pixels).cpu())

    def quality(
        self, scale: int, tokens: int, real: list[Tensor], extractor: Extractor | str, seed: int
    ) -> ScaleQuality:
        if isinstance(extractor, str):
            fid, kid = (Score(name, None, extractor) for name in ("rFID", "rKID"))
        else:
            scores = score(torch.cat(self.features), torch.cat(real), extractor, ("fid", "kid"), seed)
            fid, kid = (Score(**(vars(scores[key]) | {"label": f"r{scores[key].label}"})) for key in ("fid", "kid"))
        means = {name: float(torch.cat(values).mean()) for name, values in self.values.items()}
        return ScaleQuality(
            scale, tokens, means.get("psnr"), means.get("psnr_view"), means.get("ssim"), means.get("l1"), fid, kid
        )

    def _note(self, name: str, values: Tensor) -> None:
        self.values.setdefault(name, []).append(values.cpu())
