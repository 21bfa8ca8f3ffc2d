"""The embedded emoji: 1,854 images in 9 classes that come with the package (see emoji/README.md)."""

from __future__ import annotations

import csv
import functools
import importlib.resources
import io
import zipfile

import torch
from torch import Tensor

from fvar.config import DataConfig
from fvar.data.images import decode, resize_shorter, resized_side, to_tensor
from fvar.data.imageset import MemoryImages
from fvar.errors import UserError

NATIVE_SIZE = 128  # px


def open_emoji(config: DataConfig) -> MemoryImages:
    """All emoji at `config.image_size`, by file name.

    64 px and other sizes below 128 are Lanczos-reduced from the stored 128 px.
    """
    if config.image_size > NATIVE_SIZE:
        raise UserError(f"data.image_size {config.image_size}: the embedded emoji have {NATIVE_SIZE} px; ask for less")
    names, categories = _index()
    class_names = sorted(set(categories))
    labels = [class_names.index(category) for category in categories]
    load = functools.partial(_pixels, resized_side(config.image_size, config.crop))
    return MemoryImages(config, load, names, labels, class_names)


@functools.cache
def _index() -> tuple[list[str], list[str]]:
    """File names and categories, by file name."""
    with _archive() as archive:
        rows = sorted(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())), key=lambda row: row["file"])
    return [row["file"] for row in rows], [row["category"] for row in rows]


@functools.lru_cache(maxsize=2)  # a run needs one size, a comparison of sizes two
def _pixels(side: int) -> Tensor:
    """(N, 3, side, side) uint8, decoded once per process."""
    names, _ = _index()
    with _archive() as archive:
        return torch.stack([to_tensor(resize_shorter(decode(archive.read(name)), side)) for name in names])


def _archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(
        io.BytesIO(importlib.resources.files("fvar.data").joinpath("emoji/emoji128.zip").read_bytes())
    )
