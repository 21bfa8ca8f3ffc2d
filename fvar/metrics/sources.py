"""Where the images of a comparison come from: a folder, an archive, a samples run directory or a data set."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fvar.config import DataConfig
from fvar.data import ImageSet, Split, open_dataset
from fvar.data.images import EXTENSIONS, Unreadable, decode, size_of, to_tensor
from fvar.errors import UserError, unknown
from fvar.metrics.features import Images
from fvar.metrics.frechet import Statistics
from fvar.rundir import RunDir

DATASETS: tuple[str, ...] = get_args(get_type_hints(DataConfig)["dataset"])
NATIVE_SIZE = {"emoji": 128, "cifar10": 32}


class ArrayImages:
    """Images in an array (N, H, W, 3) uint8."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = torch.from_numpy(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: range) -> Tensor:
        return self.pixels[indices.start : indices.stop].permute(0, 3, 1, 2)


class FolderImages:
    """All images below a folder, in the order of their paths; they must have one size and be readable."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
        if not self.paths:
            raise UserError(f"{folder} holds no images ({', '.join(kind[1:] for kind in EXTENSIONS)})")
        sizes = {_size(path): path for path in reversed(self.paths)}
        if len(sizes) > 1:
            (a, first), (b, second), *_ = sizes.items()
            raise UserError(
                f"{folder} mixes sizes: {first.name} is {a[0]} x {a[1]} px and {second.name} {b[0]} x {b[1]}; resize "
                "them with a filter that does not alias, then compare"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: range) -> Tensor:
        return torch.stack([_read(path) for path in self.paths[indices.start : indices.stop]])


def open_source(text: str, size: int | None = None, root: str = "") -> Images | Statistics:
    """What `text` names.

    A folder of images; an .npz with `arr_0` (N, H, W, 3) uint8, or with ADM's `mu` and `sigma`; the run directory of a
    samples stage; or DATASET[:SPLIT], such as emoji:heldout (a folder of that name is ./emoji). Data sets are opened at
    `size` px (None: at their own size), and those that need files find them below `root`.

    Raises `UserError` if it is none of these or cannot be used.
    """
    name, _, split = text.partition(":")
    if name in DATASETS:
        return _dataset(name, split or "all", size, root)
    path = Path(text)
    if (path / "config.json").exists():
        run = RunDir.open(path)
        if run.kind != "samples":
            raise UserError(
                f"{path} holds a {run.kind} run; images are in those of samples, such as results/runs/samples-..."
            )
        if not run.done:
            raise UserError(f"{path} is {run.status.state}; first: python -m fvar.run {path}")
        return open_archive(path / "samples.npz")
    if path.is_dir():
        return FolderImages(path)
    if path.suffix == ".npz" and path.exists():
        return open_archive(path)
    raise UserError(
        f"{text} is neither a folder, an .npz file, a samples run directory nor a data set ({', '.join(DATASETS)})"
    )


def open_archive(path: Path) -> Images | Statistics:
    """The images or statistics in an .npz. Raises `UserError` if it holds neither, or holds pickles."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "arr_0" in archive:
                return ArrayImages(_checked(path, archive["arr_0"]))
            if "mu" in archive and "sigma" in archive:
                return _statistics(path, archive["mu"], archive["sigma"])
            held = ", ".join(archive.files) or "nothing"
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        reason = "it holds Python objects, which are not loaded" if "allow_pickle" in str(error) else str(error)
        raise UserError(f"{path} cannot be read: {reason}") from error
    raise UserError(f"{path} holds {held}; expected arr_0 (N, H, W, 3) uint8, or mu and sigma")


def _dataset(name: str, split: str, size: int | None, root: str) -> ImageSet:
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    config = DataConfig(dataset=name, root=root, image_size=size or NATIVE_SIZE.get(name, 256))  # type: ignore[arg-type]
    return open_dataset(config, split)  # type: ignore[arg-type]


def _checked(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise UserError(f"{path}: arr_0 is {pixels.dtype}; expected uint8, 0 to 255")
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.size == 0:
        raise UserError(f"{path}: arr_0 has the shape {pixels.shape}; expected (N, H, W, 3)")
    return pixels


def _statistics(path: Path, mu: NDArray[np.float64], sigma: NDArray[np.float64]) -> Statistics:
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise UserError(f"{path}: mu {mu.shape} and sigma {sigma.shape} do not fit; expected (D,) and (D, D)")
    return Statistics(mu.astype(np.float64), sigma.astype(np.float64))


def _size(path: Path) -> tuple[int, int]:
    """Width and height, from the header alone."""
    try:
        return size_of(path)
    except (Unreadable, OSError) as error:
        raise UserError(f"{path} is not an image ({error}); remove it") from error


def _read(path: Path) -> Tensor:
    try:
        return to_tensor(decode(path))
    except (Unreadable, OSError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}); write it again or remove it") from error
