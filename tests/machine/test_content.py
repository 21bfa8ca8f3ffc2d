"""What identifies a folder of data: names, sizes and bytes, wherever it lies."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fvar.errors import UserError
from fvar.machine import content


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("cat/0.png", "cat/1.png", "dog/deep/0.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 100)
    return tmp_path / "data"


def in_place(path: Path, data: bytes) -> None:
    """Other bytes under the same size and time."""
    status = path.stat()
    assert len(data) == status.st_size
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_copy_elsewhere_is_the_same_data(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "link").symlink_to(root)
    found = {content.digest(str(tmp_path / name)) for name in ("data", "copy", "link")}
    assert len(found) == 1
    assert len(found.pop()) == 32


CHANGES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda root: (root / "cat" / "0.png").write_bytes(b"x" * 900),
    "a bit less": lambda root: (root / "cat" / "0.png").write_bytes(b"x" * 899),
    "a new file": lambda root: (root / "cat" / "2.png").write_bytes(b""),
    "a file less": lambda root: (root / "dog" / "deep" / "0.png").unlink(),
    "a name": lambda root: (root / "cat" / "0.png").rename(root / "cat" / "2.png"),
    "a class": lambda root: (root / "cat").rename(root / "emu"),
    "a name that is not UTF-8": lambda root: os.rename(root / "cat" / "0.png", os.fsencode(root / "cat") + b"/\xff"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_another_content(root: Path, change: str) -> None:
    before = content.digest(str(root))
    CHANGES[change](root)
    assert content.digest(str(root)) != before


def test_what_is_not_data_does_not_count(root: Path) -> None:
    before = content.digest(str(root))
    (root / "README").write_text("about these data")
    (root / "cat" / ".DS_Store").write_text("")
    (root / "dog" / "loop").symlink_to(root / "dog")
    os.utime(root / "cat" / "0.png")
    assert content.digest(str(root)) == before


def test_only_shards_count_where_data_are_shards(root: Path) -> None:
    with pytest.raises(UserError, match=r"no file fits \*\.tar"):
        content.digest(str(root), "*.tar")
    (root / "a.tar").write_bytes(b"a")
    before = content.digest(str(root), "*.tar")
    (root / "cat" / "0.png").unlink()
    assert content.digest(str(root), "*.tar") == before


def test_files_are_read_once_and_again_when_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    real = content._digest_of

    def counted(root: Path, name: str, whole: bool) -> str:
        reads.append(name)
        return real(root, name, whole)

    monkeypatch.setattr(content, "_digest_of", counted)
    before = content.digest(str(root))
    assert content.digest(str(root)) == before
    assert len(reads) == 3
    in_place(root / "cat" / "0.png", b"x" * 900)
    assert content.digest(str(root)) == before  # trusted by size and time
    assert content.digest(str(root), verify=True) != before
    assert len(reads) == 6
    (root / "cat" / "1.png").write_bytes(b"y" * 900)
    content.digest(str(root))
    assert reads[6:] == ["cat/1.png"]


def test_of_large_data_a_fixed_sample_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "FULL", 1000)
    monkeypatch.setattr(content, "SAMPLED", 2)
    monkeypatch.setattr(content, "PIECE", 10)
    before, changed = content.digest(str(root)), set()
    for path in sorted(root.rglob("*.png")):
        data = path.read_bytes()
        path.write_bytes(b"x" * len(data))
        changed.add(content.digest(str(root)) != before)
        path.write_bytes(data[:300] + b"x" + data[301:])  # in the middle: not read
        assert content.digest(str(root)) == before
        path.write_bytes(data + b"x")  # sizes are those of all files
        assert content.digest(str(root)) != before
        path.write_bytes(data)
    assert changed == {True, False}


def test_verifying_large_data_finds_what_the_sample_misses(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "FULL", 1000)
    monkeypatch.setattr(content, "PIECE", 10)
    before = content.digest(str(root), verify=True)
    path = root / "cat" / "0.png"
    data = path.read_bytes()
    in_place(path, data[:300] + b"x" + data[301:])
    assert content.digest(str(root)) == before
    with pytest.raises(UserError, match=r"1 files changed though .* such as cat/0\.png"):
        content.digest(str(root), verify=True)
    in_place(path, data)
    assert content.digest(str(root), verify=True) == before


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be listed \(.*nowhere: No such file"):
        content.digest(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data"):
        content.digest(str(tmp_path / "empty"))


def test_a_cache_that_cannot_be_written_is_done_without(root: Path, cache: Path) -> None:
    before = content.digest(str(root))
    shutil.rmtree(cache)
    cache.write_text("")
    assert content.digest(str(root)) == before
