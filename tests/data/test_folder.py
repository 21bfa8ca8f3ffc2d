"""Folders and shards: layouts, unreadable files, the cached index."""

import errno
import io
import os
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

    def counted(root: Path, names: Sequence[str], read: Callable[[str], bytes | Path], workers: int) -> dict[str, str]:
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


def broken_avif() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "AVIF")
    return buffer.getvalue()[:400]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("broken.jpg", broken_avif()),
        ("texture.dds", b"DDS " + (124).to_bytes(4, "little") + bytes(120)),
        ("texture.blp", b"BLP2" + bytes(200)),
        ("empty.png", b""),
        ("float.tif", b"II*\0" + bytes(8)),
    ],
)
def test_whatever_a_decoder_raises_counts_against_the_budget_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes
) -> None:
    root = fill(tmp_path / "data")
    (root / "dog" / name).write_bytes(data)
    assert open_dataset(config(root), "all").skipped == [f"dog/{name}"]
    assert f"1 of 201 files cannot be read as images (dog/{name}: " in capsys.readouterr().err


def test_a_repaired_file_is_read_again(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    file, whole = root / "cat" / "007.png", picture(7)
    file.write_bytes(whole[:-200])
    assert open_dataset(config(root), "all").skipped == ["cat/007.png"]
    file.write_bytes(whole)  # the folder's time stays as it was
    repaired = open_dataset(config(root), "all")
    assert repaired.skipped == []
    assert "cat/007.png" in repaired.names


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_an_error_of_the_system_is_not_a_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Neither while the index is made, which so remembers nothing, nor later."""
    root, real = fill(tmp_path / "data", count=6), Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "003.png":
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", fail)
            with pytest.raises(UserError, match=rf"003\.png: the system cannot read it \({os.strerror(number)}\)"):
                open_dataset(config(root), "all").batch(range(12))
        assert len(open_dataset(config(root), "all")) == 12  # now it is in the index


def test_a_class_holds_what_lies_below_its_folder_at_any_depth(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", count=4)
    (root / "cat" / "indoors" / "old").mkdir(parents=True)
    (root / "cat" / "indoors" / "a.png").write_bytes(picture(1))
    (root / "cat" / "indoors" / "old" / "b.png").write_bytes(picture(2))
    (root / "cat" / "loop").symlink_to(root / "cat")
    (root / "elsewhere").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "c.png").write_bytes(picture(3))
    (root / "elsewhere" / "link").symlink_to(tmp_path / "linked")
    (root / ".hidden").mkdir()
    images = open_dataset(config(root), "all")
    assert images.class_names == ["cat", "dog", "elsewhere"]
    assert torch.bincount(images.labels).tolist() == [6, 4, 1]
    assert {"cat/indoors/a.png", "cat/indoors/old/b.png", "elsewhere/link/c.png"} <= set(images.names)
    (root / "cat" / "indoors" / "old" / "d.png").write_bytes(picture(4))
    assert len(open_dataset(config(root), "all")) == 12


def test_the_count_of_every_class_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "data", count=4)
    (root / "cat" / "more.png").write_bytes(picture(1))
    for split in ("train", "heldout"):
        open_dataset(config(root), split)
    assert capsys.readouterr().err.count("9 images in 2 classes: cat 5, dog 4") == 1


@pytest.mark.parametrize("kind", ["empty", "unreadable"])
def test_an_empty_class_is_refused_unless_allowed(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill(tmp_path / "data")
    (root / "emu").mkdir()
    if kind == "unreadable":
        (root / "emu" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 class folders hold no readable image \(emu\).*allow_empty_classes"):
        open_dataset(config(root), "train")
    assert open_dataset(replace(config(root), allow_empty_classes=True), "all").class_names == ["cat", "dog"]
    assert "(emu); these classes are left out" in capsys.readouterr().err


def test_links_that_lead_nowhere_are_not_dropped_silently(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert open_dataset(config(root), "all").skipped == ["cat/gone.png"]
    (root / "emu").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="emu is a link that leads nowhere"):
        open_dataset(config(root), "all")


@pytest.mark.parametrize(("train", "val"), [("train", "validation"), ("Train", "Val"), ("training", "valid")])
def test_other_names_of_the_split_folders_are_understood(tmp_path: Path, train: str, val: str) -> None:
    fill(tmp_path / train, count=5)
    fill(tmp_path / val, count=2)
    fill(tmp_path / "test", count=3)  # left out: it has no place in training or validation
    sizes = [len(open_dataset(config(tmp_path), split)) for split in ("train", "heldout", "all")]
    assert sizes == [10, 4, 14]


def test_test_images_are_held_out_where_there_are_none_for_validation(tmp_path: Path) -> None:
    fill(tmp_path / "train", count=5)
    fill(tmp_path / "test", count=2)
    assert [len(open_dataset(config(tmp_path), split)) for split in ("train", "heldout")] == [10, 4]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, ("boat", "train"), count=10)
    assert open_dataset(config(tmp_path), "all").class_names == ["boat", "train"]


def test_validation_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", count=5)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(picture(0))
    with pytest.raises(UserError, match="val holds no class folders"):
        open_dataset(config(tmp_path), "train")


def test_a_split_without_images_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", count=1)
    with pytest.raises(UserError, match="one image per class"):
        open_dataset(config(root), "heldout")
    with pytest.raises(UserError, match=r"data\.holdout 0 keeps no images"):
        open_dataset(DataConfig(dataset="emoji", image_size=16, holdout=0.0), "heldout")


def test_names_that_are_not_utf_8_are_read_and_can_be_shown(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", count=4)
    odd = os.fsencode(root) + b"/\xff\xe9t\xe9"
    os.mkdir(odd)
    for i in range(4):
        with open(odd + b"/%d\xfe.png" % i, "wb") as file:
            file.write(picture(i))
    for _ in range(2):  # from the disk, then from the cache
        images = open_dataset(config(root), "all")
        assert images.class_names == ["cat", "dog", r"\xff\xe9t\xe9"]
        assert images.batch(range(12)).shape == (12, 3, 16, 16)
        assert len(open_dataset(config(root), "heldout")) == 3


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


def labelled(key: str, seed: int, label: str = "0", image: str = "png", cls: str = "cls") -> list[tuple[str, bytes]]:
    return [(f"{key}.{image}", picture(seed)), (f"{key}.{cls}", label.encode())]


def test_members_are_read_as_webdataset_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        *labelled("n0144_0000", 0, "a", "JPEG", "cls"),
        *labelled("n0144_0001", 1, "b", "PNG", "CLS"),
        *labelled("./deep.er/0001", 2, "a"),
        ("./deep.er/0001.seg.png", picture(3)),  # belongs to the key 0001 and is not its image
        ("._n0144_0000.JPEG", b"resource fork"),
        ("__MACOSX/._x.png", b"resource fork"),
        ("0007.seg.png", picture(4)),
    ]
    write_shard(tmp_path / "a.tar", entries)
    images = open_dataset(shard_config(tmp_path), "all")
    assert images.names == ["a.tar/deep.er/0001.png", "a.tar/n0144_0000.JPEG", "a.tar/n0144_0001.PNG"]
    assert [images.class_names[label] for label in images.labels] == ["a", "a", "b"]
    assert "1 keys of a.tar hold no image, such as a.tar/0007" in capsys.readouterr().err


def test_shards_in_upper_case_count_and_lost_ones_are_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "A.TAR", labelled("0", 1))
    assert len(open_dataset(shard_config(tmp_path), "all")) == 1
    (tmp_path / "b.tar").symlink_to(tmp_path / "gone.tar")
    with pytest.raises(UserError, match=r"b\.tar is a link that leads nowhere"):
        open_dataset(shard_config(tmp_path), "all")


def test_shards_without_any_image_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("0.b.png", picture(0)), ("0.cls", b"0")])
    with pytest.raises(UserError, match="hold no images"):
        open_dataset(shard_config(tmp_path), "train")


def test_members_that_are_links_are_what_they_lead_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in labelled("x/0", 1):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, kind, target in (("y/1.png", tarfile.LNKTYPE, "x/0.png"), ("y/1.cls", tarfile.SYMTYPE, "../x/0.cls")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    images = open_dataset(shard_config(tmp_path), "all")
    assert images.names == ["a.tar/x/0.png", "a.tar/y/1.png"]
    assert torch.equal(*images.batch([0, 1]))


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("imagenet1k-train-{}.tar", "imagenet1k-validation-{}.tar"),
        ("TRAIN_{}.tar", "VAL_{}.tar"),
        ("train{}.tar", "test{}.tar"),
    ],
)
def test_shards_named_after_their_split_are_split_by_that(tmp_path: Path, train: str, val: str) -> None:
    for part in range(2):
        write_shard(tmp_path / train.format(part), [e for i in range(3) for e in labelled(f"{i}", 10 * part + i)])
    write_shard(tmp_path / val.format(0), [e for i in range(4) for e in labelled(f"{i}", 50 + i)])
    assert [len(open_dataset(shard_config(tmp_path), split)) for split in ("train", "heldout")] == [6, 4]
    write_shard(tmp_path / "extra-0.tar", labelled("0", 1))
    with pytest.raises(UserError, match=r"extra-0\.tar is named neither"):
        open_dataset(shard_config(tmp_path), "train")


def test_test_shards_are_left_out_beside_those_for_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, label in (("train", "0"), ("val", "0"), ("test", "-1")):
        write_shard(tmp_path / f"{split}-0.tar", labelled("0", 1, label))
    assert len(open_dataset(shard_config(tmp_path), "all")) == 2
    assert "1 shards of a test split are left out" in capsys.readouterr().err


def test_validation_shards_with_classes_that_training_lacks_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", labelled("0", 1, "3"))
    write_shard(tmp_path / "val-0.tar", labelled("0", 1, "7"))
    with pytest.raises(UserError, match="classes that training lacks: 7"):
        open_dataset(shard_config(tmp_path), "train")
