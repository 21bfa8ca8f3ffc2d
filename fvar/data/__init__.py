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
from fvar.errors import UserError

__all__ = ["ImageSet", "Split", "open_dataset", "to_float", "to_uint8"]

Split = Literal["train", "heldout", "all"]


def open_dataset(config: DataConfig, split: Split, workers: int = 2) -> ImageSet:
    """Open one side of a data set; `workers` threads decode where images are read from files.

    Raises `UserError` if the data are missing, hold no classes, have more unreadable images than
    `config.bad_image_budget`, or none in this split.
    """
    images, own_heldout = _open(config, workers)
    if not len(images):
        raise UserError(f"data set {config.dataset} {config.root} holds no images")
    if split == "all":
        return images
    mask = own_heldout
    if mask is None:
        mask = heldout_mask(images.names, images.labels.tolist(), config.holdout, config.split_seed)
    chosen = [index for index, held in enumerate(mask) if held == (split == "heldout")]
    if not chosen:
        raise UserError(_why_empty(config, split, own_heldout is not None))
    return images.select(chosen)


def _why_empty(config: DataConfig, split: Split, own: bool) -> str:
    if own or split == "train":
        return f"data set {config.dataset} {config.root} has no {split} images; add some"
    if not config.holdout:
        return "data.holdout 0 keeps no images for validation, which every training needs; raise it, 0.1 for a tenth"
    return (
        f"data set {config.dataset} {config.root} has one image per class, so that none can be held out; add images, "
        "or folders train and val that hold the same classes"
    )


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
