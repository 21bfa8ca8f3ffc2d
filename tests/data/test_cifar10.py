"""CIFAR-10: both forms, and the download."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fvar.config import DataConfig
from fvar.data import cifar10, open_dataset
from fvar.errors import UserError

Data = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    cifar10._pixels.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def ten_per_file(monkeypatch: pytest.MonkeyPatch) -> Data:
    """Pixels (6, 10, 3, 32, 32) and labels (6, 10) of ten images a file in place of ten thousand."""
    monkeypatch.setattr(cifar10, "PER_FILE", 10)
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 10, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, (6, 10))


def write_binary(folder: Path, data: Data) -> None:
    folder.mkdir(parents=True)
    for name, images, classes in zip(cifar10.FILES, *data, strict=True):
        records = np.concatenate([classes[:, None].astype(np.uint8), images.reshape(10, -1)], axis=1)
        records.tofile(folder / f"{name}.bin")


def write_sheets(folder: Path, data: Data) -> None:
    folder.mkdir(parents=True)
    for name, images in zip(cifar10.FILES, data[0], strict=True):
        Image.fromarray(images.transpose(0, 2, 3, 1).reshape(10, 1024, 3)).save(folder / f"{name}.png")
    (folder / "train_lables.json").write_text(json.dumps(data[1][:5].ravel().tolist()))
    (folder / "test_lables.json").write_text(json.dumps(data[1][5].tolist()))


def config(root: Path | None = None) -> DataConfig:
    return DataConfig(dataset="cifar10", root=str(root or ""), image_size=32)


def assert_holds(config: DataConfig, data: Data) -> None:
    pixels, labels = data
    train, heldout = open_dataset(config, "train"), open_dataset(config, "heldout")
    assert (len(train), len(heldout)) == (50, 10)
    assert torch.equal(train.batch(range(50)), torch.from_numpy(pixels[:5].reshape(50, 3, 32, 32)))
    assert heldout.labels.tolist() == labels[5].tolist()
    assert train.class_names[3] == "cat"


def test_both_forms_hold_the_same_images(tmp_path: Path, ten_per_file: Data) -> None:
    write_binary(tmp_path / "cifar-10-batches-bin", ten_per_file)
    write_sheets(tmp_path / "sheets", ten_per_file)
    for root in (tmp_path, tmp_path / "sheets"):
        assert_holds(config(root), ten_per_file)


def test_a_damaged_file_is_named(tmp_path: Path, ten_per_file: Data) -> None:
    write_binary(tmp_path / "data", ten_per_file)
    (tmp_path / "data" / "data_batch_2.bin").write_bytes(b"short")
    with pytest.raises(UserError, match=r"data_batch_2\.bin is damaged"):
        open_dataset(config(tmp_path / "data"), "train")


def test_a_folder_without_it_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz there.*or leave data\.root empty"):
        open_dataset(config(tmp_path), "train")


# ------------------------------------------------------------------------------------------------------- the download


class Server(http.server.ThreadingHTTPServer):
    fetched = 0


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        Server.fetched += 1
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ten_per_file: Data) -> Iterator[Path]:
    """The archive on a web server of this machine."""
    write_binary(tmp_path / "site" / "cifar-10-batches-bin", ten_per_file)
    archive = tmp_path / "site" / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "site" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    Server.fetched = 0
    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(archive.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    yield archive
    server.shutdown()
    server.server_close()


def test_without_a_root_it_is_downloaded_once_into_the_cache(site: Path, cache: Path, ten_per_file: Data) -> None:
    assert_holds(config(), ten_per_file)
    fetched = Server.fetched
    assert_holds(config(), ten_per_file)
    assert Server.fetched == fetched > 0
    assert [path.name for path in cache.iterdir()] == ["cifar10"]


def test_an_archive_of_another_sum_is_refused_and_leaves_nothing(site: Path, cache: Path) -> None:
    site.write_bytes(site.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"could not be fetched to .*fetch and unpack it by hand"):
        open_dataset(config(), "train")
    assert not list(cache.iterdir())


def test_offline_it_says_what_to_do_in_one_line(monkeypatch: pytest.MonkeyPatch, ten_per_file: Data) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    with pytest.raises(UserError, match=r"could not be fetched .*Connection refused.*--data cifar10:DIR") as caught:
        open_dataset(config(), "train")
    assert "\n" not in str(caught.value)
