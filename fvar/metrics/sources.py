"""Where the images of a comparison come from: a folder, an archive, a samples run directory or a data set."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fvar.config import DataConfig
from fvar.data import ImageSet, Split, open_dataset
from fvar.data.images import EXTENSIONS, Unreadable, decode, size_of, to_tensor
from fvar.errors import UserError, unknown
from fvar.machine.arrays import DAMAGED
from fvar.metrics.features import Images
from fvar.metrics.frechet import Statistics
from fvar.metrics.inception import SPATIAL_WIDTH
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
        self.paths = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and not path.is_dir()
        )
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


@dataclass(frozen=True)
class Published:
    """A reference as ADM publishes them: statistics of all real images, and perhaps some of the images."""

    statistics: Statistics  # of features (2048,)
    spatial: Statistics | None  # of what lies where (inception.SPATIAL_WIDTH,), for sFID
    images: ArrayImages | None


def open_source(text: str, size: int | None = None, root: str = "") -> Images | Published:
    """What `text` names.

    A folder of images; an .npz with `arr_0` (N, H, W, 3) uint8, ADM's `mu` and `sigma`, or both; the run directory of a
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
            raise UserError(f"{path} is {run.status.state}; first: python -m fvar.run {shlex.quote(str(path))}")
        return open_archive(path / "samples.npz")
    if path.is_dir():
        return FolderImages(path)
    if path.suffix == ".npz" and path.exists():
        return open_archive(path)
    raise UserError(
        f"{text} is neither a folder, an .npz file, a samples run directory nor a data set ({', '.join(DATASETS)})"
    )


def open_archive(path: Path) -> ArrayImages | Published:
    """The images or statistics in an .npz. Raises `UserError` if it holds neither, or holds pickles."""
    held = _arrays(path, ("arr_0", "mu", "sigma", "mu_s", "sigma_s"))
    images = ArrayImages(_checked(path, held["arr_0"])) if "arr_0" in held else None
    statistics, spatial = _statistics(path, held, ""), _statistics(path, held, "_s")
    if spatial is not None and len(spatial.mu) != SPATIAL_WIDTH:
        raise UserError(f"{path}: mu_s has {len(spatial.mu)} values; expected {SPATIAL_WIDTH}, as ADM's evaluator")
    if statistics is not None:
        return Published(statistics, spatial, images)
    if images is None:
        raise UserError(
            f"{path} holds {', '.join(held) or 'nothing'}; expected arr_0 (N, H, W, 3) uint8, or mu and sigma"
        )
    return images


def _arrays(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """The arrays of these names in an .npz; of all others the name and an empty array."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it holds a single array without a name, as .npy files do; save it by numpy.savez")
        with archive:
            return {name: archive[name] if name in names else np.empty(0) for name in archive.files}
    except DAMAGED as error:
        reason = "it holds Python objects, which are not loaded" if "allow_pickle" in str(error) else str(error)
        raise UserError(f"{path} cannot be read: {' '.join(reason.split())}") from error


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


def _statistics(path: Path, held: Mapping[str, NDArray[Any]], suffix: str) -> Statistics | None:
    """mu and sigma of that suffix; None where the file has neither. Raises `UserError` if no images can have them."""
    names = [f"mu{suffix}", f"sigma{suffix}"]
    present = [name for name in names if name in held]
    if not present:
        return None
    if len(present) < 2:
        raise UserError(f"{path} holds {present[0]} without its other half; expected {' and '.join(names)}")
    mu, sigma = (held[name] for name in names)
    where = f"{path}: {names[0]} {mu.shape} and {names[1]} {sigma.shape}"
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        raise UserError(f"{where} do not fit; expected (D,) and (D, D)")
    if not all(array.dtype.kind in "fiu" for array in (mu, sigma)):
        raise UserError(f"{where} are {mu.dtype} and {sigma.dtype}; expected real numbers")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{where} hold values that are not finite")
    scale = float(np.abs(sigma).max())
    if np.abs(sigma - sigma.T).max() > 1e-5 * scale:
        raise UserError(f"{path}: {names[1]} is not symmetric, so it is not a covariance")
    try:  # which fails where an eigenvalue is clearly negative; rounding may leave them a little below zero
        np.linalg.cholesky((sigma + sigma.T) / 2 + 1e-4 * max(scale, 1e-300) * np.eye(len(mu)))
    except np.linalg.LinAlgError as error:
        raise UserError(f"{path}: {names[1]} has negative eigenvalues, so it is not a covariance") from error
    return Statistics(mu, (sigma + sigma.T) / 2)


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
