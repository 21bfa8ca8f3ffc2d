"""Shards as webdataset packs them: tar files with KEY.jpg (or png, webp) and KEY.cls, the class as text.

Shards are random-access here: an index holds where each image lies in its tar, and the standard library reads it.
Shards whose names begin with "val" are held out if others begin with "train"; otherwise the split is by image name.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

from fvar.config import DataConfig
from fvar.data import index
from fvar.data.images import decode
from fvar.data.imageset import FileImages
from fvar.errors import UserError

KINDS = ("jpg", "jpeg", "png", "webp")


def open_shards(config: DataConfig, workers: int) -> tuple[FileImages, list[bool] | None]:
    """All readable images by shard and key, and which are held out, if shard names say so.

    Raises `UserError` if there are no shards, a shard is damaged, an image has no class, or more than
    `config.bad_image_budget` of the images are unreadable.
    """
    root = Path(config.root).resolve()
    shards = sorted(root.glob("*.tar")) if config.root else []
    if not shards:
        raise UserError(f"data.root {config.root!r} holds no .tar shards; name the folder they lie in")
    state = {shard.name: [shard.stat().st_size, shard.stat().st_mtime_ns] for shard in shards}
    found = index.cached(root, state, lambda: _build(root, shards, workers))
    places, classes, skipped = found["places"], found["classes"], found["skipped"]
    index.refuse_over_budget(root, skipped, len(places) + len(skipped), config.bad_image_budget)
    names = sorted(places)
    present = {classes[name] for name in names}
    numeric = all(name.isdecimal() for name in present)
    class_names = sorted(present, key=int) if numeric else sorted(present)
    number = {name: i for i, name in enumerate(class_names)}
    images = FileImages(
        config,
        lambda name: decode(_bytes(root, name, places[name])),
        names,
        [number[classes[name]] for name in names],
        class_names,
        skipped,
        workers,
    )
    heldout = [name.startswith("val") for name in names]
    return images, heldout if any(name.startswith("train") for name in names) and any(heldout) else None


def _bytes(root: Path, name: str, place: tuple[int, int]) -> bytes:
    """The stored file `SHARD/KEY.KIND`, which lies at (offset, size) in its shard."""
    with open(root / name.partition("/")[0], "rb") as file:
        return os.pread(file.fileno(), place[1], place[0])


def _build(root: Path, shards: list[Path], workers: int) -> dict[str, Any]:
    places: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as tar:
                for member in tar:
                    key, _, kind = member.name.rpartition(".")
                    if kind in KINDS:
                        places[f"{shard.name}/{member.name}"] = (member.offset_data, member.size)
                    elif kind == "cls" and (file := tar.extractfile(member)):
                        labels[f"{shard.name}/{key}"] = file.read().decode().strip()
        except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{shard} is damaged ({error}); fetch it again or remove it") from error
    classes = {name: labels.get(name.rpartition(".")[0], "") for name in places}
    if orphans := [name for name, label in classes.items() if not label]:
        raise UserError(f"{root}: {len(orphans)} images have no .cls beside them, such as {orphans[0]}")
    bad = index.unreadable(root, sorted(places), lambda name: _bytes(root, name, places[name]), workers)
    for name in bad:
        del places[name]
    return {"places": places, "classes": classes, "skipped": bad}
