"""Shards as webdataset packs them: tar files with KEY.jpg (or png, webp) and KEY.cls, the class as text.

A key ends at the first dot of its file's name, and what follows is read in lower case, as webdataset does. Shards are
random-access here: an index holds where each image lies in its tar, and the standard library reads it. Shards named
after training and validation (train-0000.tar, imagenet1k-validation-00.tar) are split by that; otherwise the split is
by image name.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fvar.config import DataConfig
from fvar.data import index
from fvar.data.images import decode
from fvar.data.imageset import FileImages
from fvar.data.split import named_split
from fvar.errors import UserError
from fvar.machine.names import printable

KINDS = ("jpg", "jpeg", "png", "webp")


def open_shards(config: DataConfig, workers: int) -> tuple[FileImages, list[bool] | None]:
    """All readable images by shard and key, and which are held out, if shard names say so.

    Raises `UserError` if there are no shards, a shard is damaged, an image has no class, validation shards have classes
    that training lacks, or more than `config.bad_image_budget` of the images are unreadable.
    """
    root = Path(config.root).resolve()
    present = _tars(root) if config.root else []
    if not present:
        raise UserError(f"data.root {config.root!r} holds no .tar shards; name the folder they lie in")
    shards, heldout_shards = _split(root, present)

    def state(_: Iterable[str]) -> index.State:
        return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in shards}

    def read(name: str, place: Sequence[Any]) -> bytes:
        offset, size, _ = place
        with open(root / name.partition("/")[0], "rb") as file:
            return os.pread(file.fileno(), size, offset)

    found = index.find(root, lambda: (state(()), _scan(root, shards)), state, read, workers)
    index.refuse_over_budget(root, found.skipped, len(found.files), config.bad_image_budget)
    names = found.names
    classes: list[str] = [found.files[name][2] for name in names]
    heldout = [name.partition("/")[0] in heldout_shards for name in names] if heldout_shards else None
    learned = {label for i, label in enumerate(classes) if not (heldout and heldout[i])}
    if extra := sorted(set(classes) - learned):
        raise UserError(
            f"{root}: validation shards have classes that training lacks: {', '.join(map(printable, extra[:5]))}"
        )
    index.say_counts(root, classes)
    class_names = sorted(learned, key=int) if all(name.isdecimal() for name in learned) else sorted(learned)
    number = {name: i for i, name in enumerate(class_names)}
    images = FileImages(
        config,
        lambda name: decode(read(name, found.files[name])),
        names,
        [number[label] for label in classes],
        list(map(printable, class_names)),
        list(found.skipped),
        workers,
    )
    return images, heldout


def _tars(root: Path) -> list[Path]:
    """The shards in a folder, sorted. Raises `UserError` for a link that leads nowhere and for a failing system."""
    try:
        found = sorted(path for path in root.iterdir() if path.suffix.lower() == ".tar" and path.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise index.system_failure(root.parent, root.name, error) from error
    for path in found:
        if not path.exists():
            raise UserError(f"{path} is a link that leads nowhere; mend or remove it")
    return [path for path in found if path.is_file()]


def _split(root: Path, shards: list[Path]) -> tuple[list[Path], set[str]]:
    """The shards in use and the names of the held-out ones, none where their names do not say which those are."""
    named = {path: named_split(path.stem) for path in shards}
    kinds = set(named.values())
    heldout = "heldout" if "heldout" in kinds else "test"
    if not {"train", heldout} <= kinds:
        return shards, set()
    if stray := [path.name for path, split in named.items() if split is None]:
        raise UserError(
            f"{root}: {stray[0]} is named neither after training nor after validation, as the other shards are; "
            "rename it or move it away"
        )
    used = [path for path, split in named.items() if split in ("train", heldout)]
    if left := [path.name for path in shards if path not in used]:
        index.say_once(f"{root}: {len(left)} shards of a test split are left out, such as {left[0]}")
    return used, {path.name for path in used if named[path] == heldout}


def _scan(root: Path, shards: list[Path]) -> index.Files:
    """Name -> [offset, size, class] of every image. Raises `UserError` for a damaged shard or a missing class."""
    places: dict[str, tuple[int, int]] = {}
    keys: dict[str, str] = {}
    labels: dict[str, str] = {}
    for shard in shards:
        seen: set[str] = set()
        for name, member, tar in _members(shard):
            folder, _, file = name.rpartition("/")
            stem, _, kind = file.partition(".")
            key, kind = "/".join(filter(None, (shard.name, folder, stem))), kind.lower()
            seen.add(key)
            if kind in KINDS:
                places[f"{shard.name}/{name}"], keys[f"{shard.name}/{name}"] = (member.offset_data, member.size), key
            elif kind == "cls":
                content = tar.extractfile(member)
                labels[key] = content.read().decode(errors="replace").strip() if content else ""
        if lost := sorted(seen - set(keys.values())):
            index.say_once(f"{root}: {len(lost)} keys of {shard.name} hold no image, such as {printable(lost[0])}")
    if not places:
        kinds = ", ".join(f"KEY.{kind}" for kind in KINDS)
        raise UserError(f"{root}: the shards hold no images ({kinds}; a key ends at the first dot)")
    if orphans := [name for name in places if not labels.get(keys[name])]:
        raise UserError(f"{root}: {len(orphans)} images have no .cls beside them, such as {printable(orphans[0])}")
    return {name: [*place, labels[keys[name]]] for name, place in places.items()}


def _members(shard: Path) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """The files in a shard by name, links as what they lead to; hidden ones (macOS's ._NAME) are not data."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
                    continue
                if member.issym():
                    member = tar.getmember(posixpath.normpath(posixpath.join(name, "..", member.linkname)))
                elif member.islnk():
                    member = tar.getmember(member.linkname)
                if member.isfile():
                    yield name, member, tar
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise UserError(f"{shard} is damaged ({error}); fetch it again or remove it") from error
    except OSError as error:
        raise index.system_failure(shard.parent, shard.name, error) from error
