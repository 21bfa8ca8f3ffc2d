"""Features of images: which networks there are, how a set is run through one, and where the result is kept."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch_fidelity.utils import create_feature_extractor

import fvar.data
from fvar.errors import UserError, unknown
from fvar.machine import atomic
from fvar.machine.arrays import DAMAGED
from fvar.machine.precision import full_precision
from fvar.machine.prefetch import prefetch
from fvar.metrics import inception

SHIPPED = Path(fvar.data.__file__).parent / "emoji"  # see its README

Progress = Callable[[int, int, float], None]  # images done, images in all, images per second


class Images(Protocol):
    """What can be scored; `fvar.data.ImageSet` is one."""

    def __len__(self) -> int: ...

    def batch(self, indices: range) -> Tensor:
        """(B, 3, H, W) uint8."""


@dataclass(frozen=True)
class Extractor:
    """A network that describes images.

    `network` maps uint8 (B, 3, H, W) to float32 (B, D). `head` (classes, D) turns features into the logits of the
    Inception Score; `no_head` says why it is missing. `spatial` describes what lies where, for sFID: (B, S) float32.
    """

    name: str
    network: nn.Module
    width: int
    head: Tensor | None = None
    no_head: str = ""
    spatial: nn.Module | None = None

    def of_places(self) -> Extractor | None:
        """The extractor of what `spatial` gives, if it gives anything."""
        if self.spatial is None:
            return None
        return Extractor(f"{self.name}-spatial", self.spatial, inception.SPATIAL_WIDTH)


def _packaged_inception(weights: Path | None) -> Extractor:
    if weights is not None:
        raise UserError("--weights: inception-torchscript is a packaged network; for a file, use --extractor inception")
    network, head = inception.Inception(inception.packaged()), inception.found_head()
    reason = "" if head is not None else "the packaged Inception network has no classifier; use --extractor inception"
    return Extractor("inception-torchscript", network, inception.WIDTH, head, reason, inception.SpatialMap(network))


def _fidelity_inception(weights: Path | None) -> Extractor:
    network = inception.Inception(inception.downloaded(weights))
    return Extractor("inception", network, inception.WIDTH, network.head, "", inception.SpatialMap(network))


def _of_torch_fidelity(name: str, theirs: str, layer: str, width: int) -> Callable[[Path | None], Extractor]:
    """An extractor that torch-fidelity downloads, and that is used as it comes."""

    def load(weights: Path | None) -> Extractor:
        if weights is not None:
            raise UserError(f"--weights: torch-fidelity fetches {name} itself; a file is read for inception only")
        try:
            module = create_feature_extractor(theirs, [layer], cuda=False, verbose=False)
        except (OSError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{name} cannot be had ({reason}); use --extractor inception-torchscript") from error
        return Extractor(name, _FirstOutput(module), width, None, f"the Inception Score needs Inception, not {name}")

    return load


class _FirstOutput(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.module(images)[0]
        return features


EXTRACTORS: dict[str, Callable[[Path | None], Extractor]] = {
    "inception-torchscript": _packaged_inception,  # offline; IS where the download lies there already
    "inception": _fidelity_inception,  # torch-fidelity's download, or a file; also IS
    "vgg16": _of_torch_fidelity("vgg16", "vgg16", "fc2_relu", 4096),
    "dinov2": _of_torch_fidelity("dinov2", "dinov2-vit-b-14", "dinov2", 768),
    "clip": _of_torch_fidelity("clip", "clip-vit-b-32", "clip", 512),
}


def load_extractor(name: str, weights: Path | None = None, device: torch.device | str = "cpu") -> Extractor:
    """The extractor called `name`, never a substitute. Raises `UserError` if it is unknown or cannot be had."""
    if name not in EXTRACTORS:
        raise unknown("extractor", name, EXTRACTORS)
    extractor = EXTRACTORS[name](weights)
    extractor.network.to(device)
    return extractor


# ------------------------------------------------------------------------------------------------------------- features


def extract(extractor: Extractor, images: Images, batch_size: int = 64, progress: Progress | None = None) -> Tensor:
    """Features (N, D) float32, on the CPU, in the order of the images, on a GPU too in full precision."""
    device = next(iter(extractor.network.state_dict().values())).device
    features = torch.empty(len(images), extractor.width)
    started = time.monotonic()
    with full_precision():
        for indices, batch in _read_ahead(images, batch_size):
            features[indices.start : indices.stop] = extractor.network(batch.to(device)).cpu()
            if progress:
                progress(indices.stop, len(images), indices.stop / (time.monotonic() - started))
    return features


def extract_cached(
    extractor: Extractor,
    images: Images,
    folder: Path,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Tensor:
    """`extract`, kept in `folder`, if that can be written, under the extractor's name and the content of the images.

    Features of the images that the smallest presets score against come with the package.
    """
    path = folder / f"{extractor.name}-{fingerprint(images, batch_size)}.npy"
    for place in (path, SHIPPED / path.name):
        with contextlib.suppress(*DAMAGED):  # not there, or not whole: compute it
            known = torch.from_numpy(np.load(place, allow_pickle=False))
            if known.shape == (len(images), extractor.width) and known.dtype == torch.float32:
                return known
    features = extract(extractor, images, batch_size, progress)
    with contextlib.suppress(OSError), atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, features.numpy(), allow_pickle=False)
    return features


def fingerprint(images: Images, batch_size: int = 64) -> str:
    """32 hex digits that change with any pixel of any image, and with their order."""
    digest = hashlib.blake2b(digest_size=16)
    for _, batch in _read_ahead(images, batch_size):
        for image in batch:
            digest.update(str(tuple(image.shape)).encode())
            digest.update(image.contiguous().numpy())
    return digest.hexdigest()


def _read_ahead(images: Images, size: int) -> Iterator[tuple[range, Tensor]]:
    """Batches in order, each decoded by another thread while the one before is in use."""
    slices = [range(start, min(start + size, len(images))) for start in range(0, len(images), size)]
    yield from zip(slices, prefetch(images.batch, slices), strict=True)
