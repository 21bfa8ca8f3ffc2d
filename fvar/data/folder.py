"""Folders of images in ImageNet's layout: root/{train,val}/CLASS/FILE, or root/CLASS/FILE and our own split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fvar.config import DataConfig
from fvar.data import index
from fvar.data.images import decode
from fvar.data.imageset import FileImages
from fvar.errors import UserError


def open_folder(config: DataConfig, workers: int) -> tuple[FileImages, list[bool] | None]:
    """All readable images by path, and which are held out: those of val/, or None where there is no such folder.

    Raises `UserError` if the folder is missing or has no class folders, if val/ has classes that train/ lacks, or if
    more than `config.bad_image_budget` of the files are unreadable.
    """
    if not config.root or not Path(config.root).is_dir():
        raise UserError(f"data.root {config.root!r} is not a folder; name one that holds a folder of images per class")
    root = Path(config.root).resolve()
    own_split = (root / "train").is_dir() and (root / "val").is_dir()
    folders = _class_folders(root, ("train", "val") if own_split else (".",))
    # A folder's time changes when a file comes or goes, so a thousand times stand for a million files. A file that is
    # changed in place goes unnoticed until it is read; if it is damaged by then, reading names it.
    state = {folder: (root / folder).stat().st_mtime_ns for folder in folders}
    found = index.cached(root, state, lambda: _build(root, list(folders), workers))
    names, skipped = found["names"], found["skipped"]
    index.refuse_over_budget(root, skipped, len(names) + len(skipped), config.bad_image_budget)
    if not names:
        raise UserError(f"{root} holds no images in class folders; expected CLASS/FILE or train/CLASS/FILE and val/...")
    classes = [Path(name).parent.name for name in names]
    heldout = [name.startswith("val/") for name in names] if own_split else None
    class_names = sorted({name for i, name in enumerate(classes) if not (heldout and heldout[i])})
    if extra := sorted(set(classes) - set(class_names)):
        raise UserError(f"{root}/val has classes that train lacks: {', '.join(extra[:5])}")
    number = {name: i for i, name in enumerate(class_names)}
    images = FileImages(
        config,
        lambda name: decode(root / name),
        names,
        [number[name] for name in classes],
        class_names,
        skipped,
        workers,
    )
    return images, heldout


def _class_folders(root: Path, groups: tuple[str, ...]) -> list[str]:
    """Paths of the class folders relative to `root`, sorted."""
    return sorted(
        str((Path(group) / entry.name).as_posix())
        for group in groups
        for entry in os.scandir(root / group)
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _build(root: Path, folders: list[str], workers: int) -> dict[str, Any]:
    names = sorted(
        f"{folder}/{entry.name}"
        for folder in folders
        for entry in os.scandir(root / folder)
        if entry.is_file() and not entry.name.startswith(".")
    )
    bad = set(index.unreadable(root, names, lambda name: root / name, workers))
    return {"names": [name for name in names if name not in bad], "skipped": sorted(bad)}
