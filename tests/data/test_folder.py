"""Folders and shards: layouts, unreadable files, the cached index."""

import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fvar.config import DataConfig
from fvar.data import index, open_dataset
from fvar.errors import UserError
from fvar.machine.prefetch import prefetch


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(seed: int, size: tuple[int, int] = (40, 32), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def fill(root: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 100) -> Path:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03}.png").write_bytes(picture(1000 * label + i))
    return root


def config(root: Path) -> DataConfig:
    return DataConfig(dataset="folder", root=str(root), image_size=16)


def test_plain_class_folders_are_split_by_name(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    train, heldout = (open_dataset(config(root), split) for split in ("train", "heldout"))
    assert train.class_names == ["cat", "dog"]
    assert torch.bincount(heldout.labels).tolist() == [10, 10]
    assert torch.bincount(train.labels).tolist() == [90, 90]
    assert all(name.startswith(("cat/", "dog/")[label]) for name, label in zip(train.names, train.labels, strict=True))
    assert train.batch([0, 5, 89]).shape == (3, 3, 16, 16)


def test_train_and_val_folders_are_the_split(tmp_path: Path) -> None:
    fill(tmp_path / "train", count=5)
    fill(tmp_path / "val", count=2)
    train, heldout, both = (open_dataset(config(tmp_path), split) for split in ("train", "heldout", "all"))
    assert (len(train), len(heldout), len(both)) == (10, 4, 14)
    assert all(name.startswith("val/") for name in heldout.names)
    (tmp_path / "val" / "emu").mkdir()
    (tmp_path / "val" / "emu" / "0.png").write_bytes(picture(0))
    with pytest.raises(UserError, match="emu"):
        open_dataset(config(tmp_path), "train")


def test_a_few_unreadable_files_are_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "data")
    (root / "cat" / "007.png").write_bytes(picture(7)[:-200])
    (root / "dog" / "notes.png").write_text("not an image")
    images = open_dataset(config(root), "all")
    assert images.skipped == ["cat/007.png", "dog/notes.png"]
    assert len(images) == 199
    assert not set(images.skipped) & set(images.names)
    said = capsys.readouterr().err
    assert "2 of 201 files" in said
    assert "cat/007.png" in said


def test_more_unreadable_files_than_the_budget_are_an_error(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    for i in range(3):
        (root / "cat" / f"{i:03}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"3 of 200 .*cat/000\.png.*1\.0%"):
        open_dataset(config(root), "train")
    assert len(open_dataset(replace(config(root), bad_image_budget=0.02), "all")) == 197


def test_the_index_is_built_once_and_follows_added_files(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "data", count=6)
    checks: list[int] = []
    real = index.unreadable

    def counted(root: Path, names: Sequence[str], read: Callable[[str], bytes | Path], workers: int) -> list[str]:
        checks.append(len(names))
        return real(root, names, read, workers)

    monkeypatch.setattr(index, "unreadable", counted)
    first = open_dataset(config(root), "all").names
    assert open_dataset(config(root), "all").names == first
    assert checks == [12]
    (root / "cat" / "new.png").write_bytes(picture(5))
    assert len(open_dataset(config(root), "all")) == 13
    assert checks == [12, 13]
    for path in (cache / "indices").iterdir():
        path.write_text(path.read_text()[:-20])  # damaged: built again
    assert len(open_dataset(config(root), "all")) == 13
    assert checks == [12, 13, 13]
    assert not [path for path in root.rglob("*") if path.suffix == ".json"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "file"))
    assert len(open_dataset(config(fill(tmp_path / "data", count=2)), "all")) == 4


def test_a_file_that_breaks_after_indexing_is_named(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", count=3)
    images = open_dataset(config(root), "all")
    (root / "cat" / "001.png").write_bytes(b"gone")
    with pytest.raises(UserError, match=r"cat/001\.png"):
        images.batch(range(6))


@pytest.mark.parametrize(("make", "message"), [(lambda r: None, "not a folder"), (lambda r: r.mkdir(), "no images")])
def test_folders_that_hold_no_data_set_are_refused(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(UserError, match=message):
        open_dataset(config(tmp_path / "data"), "train")


def test_random_crops_come_from_an_image_an_eighth_larger(tmp_path: Path) -> None:
    """A ramp from left to right: a crop of 32 from 36 px starts at 0 to 4 px."""
    (tmp_path / "ramp").mkdir()
    ramp = np.tile(np.arange(36, dtype=np.uint8)[None, :, None] * 5, (36, 1, 3))
    Image.fromarray(ramp).save(tmp_path / "ramp" / "0.png")
    images = open_dataset(DataConfig(dataset="folder", root=str(tmp_path), image_size=32, crop="random"), "all")
    draws = torch.Generator().manual_seed(0)
    starts = {int(images.batch([0], draws)[0, 0, 0, 0]) // 5 for _ in range(60)}
    assert starts == {0, 1, 2, 3, 4}
    assert int(images.batch([0])[0, 0, 0, 0]) // 5 == 2


def test_reading_does_not_depend_on_threads_or_prefetching(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", count=20)
    cropped = replace(config(root), crop="random", flip=True)
    batches = [range(i, i + 8) for i in range(0, 40, 8)]
    results = []
    for workers in (1, 4):
        images, draws = open_dataset(cropped, "all", workers), torch.Generator().manual_seed(3)
        results.append(torch.cat([images.batch(numbers, draws) for numbers in batches]))
        draws.manual_seed(3)
        results.append(torch.cat(list(prefetch(partial(images.batch, generator=draws), batches, depth=2))))
    assert all(torch.equal(results[0], other) for other in results[1:])


# --------------------------------------------------------------------------------------------------------------- shards


def write_shard(path: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def shard_config(root: Path) -> DataConfig:
    return DataConfig(dataset="webdataset", root=str(root), image_size=16)


def test_shards_hold_the_images_of_their_keys(tmp_path: Path) -> None:
    for part in range(2):
        entries = []
        for i in range(10):
            entries += [(f"{i:04}.png", picture(10 * part + i)), (f"{i:04}.cls", str((i % 3) * 5).encode())]
        write_shard(tmp_path / f"train-{part:04}.tar", entries)
    write_shard(tmp_path / "val-0000.tar", [("a.png", picture(99)), ("a.cls", b"10")])
    train, heldout = open_dataset(shard_config(tmp_path), "train"), open_dataset(shard_config(tmp_path), "heldout")
    assert (len(train), len(heldout)) == (20, 1)
    assert train.class_names == ["0", "5", "10"]
    assert heldout.labels.tolist() == [2]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x").mkdir()
    (tmp_path / "one" / "x" / "x.png").write_bytes(picture(13))
    alone = open_dataset(config(tmp_path / "one"), "all").batch([0])
    assert torch.equal(train.batch([train.names.index("train-0001.tar/0003.png")]), alone)


def test_shards_without_classes_or_cut_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.tar shards"):
        open_dataset(shard_config(tmp_path), "train")
    write_shard(tmp_path / "a.tar", [("0.png", picture(0))])
    with pytest.raises(UserError, match=r"no \.cls.*a\.tar/0\.png"):
        open_dataset(shard_config(tmp_path), "train")
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    with pytest.raises(UserError, match=r"a\.tar"):
        open_dataset(shard_config(tmp_path), "train")
