"""Images: `open_dataset` gives any of the data sets as an `ImageSet`."""

from __future__ import annotations

from typing import Literal

from fvar.config import DataConfig
from fvar.data.cifar10 import open_cifar10
from fvar.data.embedded import open_emoji
from fvar.data.folder import open_folder
from fvar.data.images import to_float, to_uint8
from fvar.data.imageset import ImageSet
from fvar.data.shards import open_shards
from fvar.data.split import heldout_mask
from fvar.data.text import open_text

__all__ = ["ImageSet", "Split", "open_dataset", "to_float", "to_uint8"]

Split = Literal["train", "heldout", "all"]


def open_dataset(config: DataConfig, split: Split, workers: int = 2) -> ImageSet:
    """Open one side of a data set; `workers` threads decode where images are read from files.

    Raises `UserError` if the data are missing, hold no classes, or have more unreadable images than
    `config.bad_image_budget`.
    """
    images, own_heldout = _open(config, workers)
    if split == "all":
        return images
    mask = own_heldout
    if mask is None:
        mask = heldout_mask(images.names, images.labels.tolist(), config.holdout, config.split_seed)
    return images.select([index for index, held in enumerate(mask) if held == (split == "heldout")])


def _open(config: DataConfig, workers: int) -> tuple[ImageSet, list[bool] | None]:
    """Everything there is, and the held-out mask of data sets that come with a split of their own."""
    match config.dataset:
        case "emoji":
            return open_emoji(config), None
        case "text":
            return open_text(config)
        case "cifar10":
            return open_cifar10(config)
        case "folder":
            return open_folder(config, workers)
        case "webdataset":
            return open_shards(config, workers)
