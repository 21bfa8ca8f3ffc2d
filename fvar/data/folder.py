"""Folders of images in ImageNet's layout: root/{train,val}/CLASS/..., or root/CLASS/... and our own split.

As torchvision's ImageFolder, a class holds every file below its folder, at whatever depth; links are followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fvar.config import DataConfig
from fvar.data import index
from fvar.data.images import decode
from fvar.data.imageset import FileImages
from fvar.data.split import named_split
from fvar.errors import UserError
from fvar.machine.names import printable

NOT_DATA = ("__MACOSX",)  # beside hidden folders


def open_folder(config: DataConfig, workers: int) -> tuple[FileImages, list[bool] | None]:
    """All readable images by path, and which are held out: those of val/, or None where there is no such folder.

    Raises `UserError` if the folder is missing or has no class folders, if a class is empty, if val/ has classes that
    train/ lacks, or if more than `config.bad_image_budget` of the files are unreadable.
    """
    if not config.root or not os.path.isdir(config.root):
        raise UserError(f"data.root {config.root!r} is not a folder; name one that holds a folder of images per class")
    root = Path(config.root).resolve()
    groups, heldout_group = _groups(root)
    folders = [f"{group}/{name}" if group else name for group in groups for name in _folders(root / group)]
    if not folders:
        raise UserError(f"{root} holds no images in class folders; expected CLASS/FILE or train/CLASS/FILE and val/...")

    def scan() -> tuple[index.State, index.Files]:
        state: index.State = {group or ".": (root / group).stat().st_mtime_ns for group in groups}
        files: index.Files = {}
        for folder in folders:
            for inner, names in _walk(root, folder):
                state[inner] = (root / inner).stat().st_mtime_ns
                files |= {f"{inner}/{name}": None for name in names}
        return state, files

    # A folder's time changes when a file comes or goes, so a thousand times stand for a million files. A file that is
    # changed in place goes unnoticed until it is read; if it is damaged by then, reading names it.
    def state(known: Iterable[str]) -> index.State:
        return {folder: (root / folder).stat().st_mtime_ns for folder in known}

    found = index.find(root, scan, state, lambda name, _: root / name, workers)
    index.refuse_over_budget(root, found.skipped, len(found.files), config.bad_image_budget)
    names = found.names
    depth = 1 if groups == ("",) else 2  # path parts that name the class
    own = ["/".join(name.split("/", depth)[:depth]) for name in names]
    if empty := sorted(set(folders) - set(own)):
        _refuse_empty(root, empty, config.allow_empty_classes)
    classes = [folder.rpartition("/")[2] for folder in own]
    index.say_counts(root, classes)
    heldout = [name.startswith(f"{heldout_group}/") for name in names] if heldout_group else None
    class_names = sorted({name for i, name in enumerate(classes) if not (heldout and heldout[i])})
    if extra := sorted(set(classes) - set(class_names)):
        raise UserError(
            f"{root}/{heldout_group} has classes that {groups[0]} lacks: {', '.join(map(printable, extra[:5]))}"
        )
    number = {name: i for i, name in enumerate(class_names)}
    images = FileImages(
        config,
        lambda name: decode(root / name),
        names,
        [number[name] for name in classes],
        list(map(printable, class_names)),
        list(found.skipped),
        workers,
    )
    return images, heldout


def _groups(root: Path) -> tuple[tuple[str, ...], str]:
    """Where class folders lie below `root`, "" being itself, and which of these places is held out ("": none)."""
    by_split = {named_split(name): name for name in reversed(_folders(root))}
    train = by_split.get("train")
    if train is None or not _folders(root / train):  # a class of that name holds files
        return ("",), ""
    heldout = by_split.get("heldout") or by_split.get("test")
    groups = (train, heldout) if heldout else (train,)
    if heldout and not _folders(root / heldout):
        raise UserError(f"{root / heldout} holds no class folders; sort its images into folders as {train} has them")
    if others := sorted(set(_folders(root)) - set(groups)):
        index.say_once(f"{root}: left out, beside {' and '.join(groups)}: {', '.join(map(printable, others))}")
    return groups, heldout or ""


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted. Raises `UserError` for a link that leads nowhere."""
    found = []
    for entry in _entries(folder):
        if entry.is_dir():
            if entry.name not in NOT_DATA:
                found.append(entry.name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(f"{entry.path} is a link that leads nowhere; mend or remove it")
    return sorted(found)


def _walk(root: Path, folder: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """Every folder below a class folder and itself, relative to `root`, with the names of its files.

    Links are followed, though not back into a folder they lie in.
    """
    here = os.path.realpath(root / folder)
    if here in above:
        return
    files, inner = [], []
    for entry in _entries(root / folder):
        if entry.is_dir():
            inner.append(entry.name)
        elif entry.is_file() or entry.is_symlink():  # a link that leads nowhere is an unreadable file
            files.append(entry.name)
    yield folder, sorted(files)
    for name in sorted(inner):
        yield from _walk(root, f"{folder}/{name}", (*above, here))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is not hidden in a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise index.system_failure(folder.parent, folder.name, error) from error


def _refuse_empty(root: Path, empty: list[str], allowed: bool) -> None:
    some = ", ".join(map(printable, empty[: index.NAMED])) + (", ..." if len(empty) > index.NAMED else "")
    found = f"{root}: {len(empty)} class folders hold no readable image ({some})"
    if not allowed:
        raise UserError(f"{found}; fill or remove them, or leave such classes out by data.allow_empty_classes=true")
    index.say_once(f"{found}; these classes are left out")
