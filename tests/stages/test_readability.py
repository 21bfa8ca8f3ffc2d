"""The stage that reads words off a tokenizer: what it writes, and that it measures the tokenizer and nothing else."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fvar.config import DataConfig, PyramidConfig, ReadabilityConfig, RuntimeConfig, Stage
from fvar.data.text import page_names, render
from fvar.errors import UserError
from fvar.metrics import ocr
from fvar.rundir import RunDir
from fvar.stages import readability as stage
from fvar.stages import tokenizer as tokenizer_stage
from tests.tasks.test_tokenizer import config

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None, reason="rapidocr-onnxruntime is not installed"
)
SIDE, WORDS = 32, 8
SIZES = [8, 10, 12, 16]


class Known:
    """A tokenizer of two scales: the first shows the page in blocks of 8 px, the second the page as it is."""

    patch_nums = (2, 8)

    def __init__(self, reading: str = "focus", signal: str = "structure") -> None:
        self.config = SimpleNamespace(
            signal=signal, quantiser=SimpleNamespace(reading=reading), data=SimpleNamespace(image_size=SIDE)
        )
        self.vqvae = SimpleNamespace(indices=lambda views: views)

    def views(self, x: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(x, 2), x]

    def decode_prefixes(self, views: list[Tensor]) -> list[Tensor]:
        return [F.interpolate(F.avg_pool2d(views[-1], 8), scale_factor=8), views[-1]]


def made(root: Path) -> RunDir:
    """The stage's run directory."""
    settings = dataclasses.replace(
        config(train__steps=1, train__eval_every=1, train__eval_images=8, train__batch_size=4),
        data=DataConfig(dataset="text", image_size=SIDE),
        pyramid=PyramidConfig(patch_nums=Known.patch_nums, downsample_factor=4),
    )
    reads = Stage(ReadabilityConfig(words=WORDS), {"tokenizer": Stage(settings)})
    return RunDir.create(root, reads, RuntimeConfig(device="cpu"))


def rates(run: RunDir) -> dict[tuple[str, int, int], float]:
    body = json.loads((run.path / "readability.json").read_text())
    return {(row["picture"], row["scale"], row["size"]): row["value"] for row in body["rates"]}


def test_an_untrained_tokenizer_leaves_nothing_to_read_of_clean_words(tmp_path: Path) -> None:
    run = made(tmp_path)
    tokenizer_stage.run(run.input("tokenizer"))  # a single step, which teaches nothing
    stage.run(run)
    found = rates(run)
    kinds = [("original", 0), ("view", 1), ("reconstruction", 1), ("reconstruction", 2)]
    assert list(found) == [(*kind, size) for size in SIZES for kind in kinds]
    for size in SIZES:
        assert found["original", 0, size] < 0.05
        assert found["reconstruction", 2, size] > 0.9
    assert run.status.step == len(SIZES)


def test_what_a_scale_shows_decides_what_is_read_off_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path)
    monkeypatch.setattr(stage, "load_tokenizer", lambda *_: Known())
    stage.run(run)
    found = rates(run)
    for size in SIZES:
        assert found["reconstruction", 2, size] == found["original", 0, size]
        assert found["reconstruction", 1, size] > 0.8
        assert found["original", 0, size] <= found["view", 1, size] <= found["reconstruction", 1, size]


def test_vars_own_tokenizer_has_no_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path)
    monkeypatch.setattr(stage, "load_tokenizer", lambda *_: Known("latent_area"))
    stage.run(run)
    assert not [kind for kind, *_ in rates(run) if kind == "view"]


def test_the_example_is_the_word_that_was_cut_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path)
    monkeypatch.setattr(stage, "load_tokenizer", lambda *_: Known())
    stage.run(run)
    body = json.loads((run.path / "readability.json").read_text())
    examples = {(row["picture"], row["scale"], row["size"]): row for row in body["examples"]}
    reader = ocr.load_reader(1)
    with np.load(run.path / "words.npz", allow_pickle=False) as archive:
        assert len(archive.files) == len(examples)
        for (kind, scale, size), row in examples.items():
            picture = archive[f"{size}/{kind}/{scale}"]
            assert reader.read([torch.from_numpy(picture).permute(2, 0, 1)]) == [row["read"]]
            words = {word.text for name in page_names("heldout", size) for word in render(name, SIDE).words}
            assert row["text"] in words


def test_an_alias_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "load_tokenizer", lambda *_: Known(signal="alias"))
    with pytest.raises(UserError, match="makes no pictures"):
        stage.run(made(tmp_path))


def test_as_many_words_are_read_as_were_asked_for() -> None:
    with pytest.raises(UserError, match=r"ReadabilityConfig\.words"):
        ReadabilityConfig(words=0)
    counted = stage.measure(Known(), ocr.load_reader(1), 8, ReadabilityConfig(words=7))  # type: ignore[arg-type]
    assert {rate.words for rate in counted.rates.values()} == {7}


def test_without_the_ocr_the_stage_fails_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install rapidocr-onnxruntime"):
        stage.run(run)
    assert not (run.path / "readability.json").exists()
