"""The token store: right tokens, lined up, resumable, and refused when anything differs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fvar.config import DataConfig, RuntimeConfig, Signal, Stage, TokenizerConfig, TokensConfig
from fvar.data import Split, open_dataset, to_float
from fvar.data.token_store import TokenStore, write_array
from fvar.errors import UserError
from fvar.rundir import RunDir
from fvar.stages import tokenizer as tokenizer_stage
from fvar.stages import tokens as tokens_stage
from fvar.tasks.tokenizer import TokenizerTask
from fvar.tokenizer.bundle import load_tokenizer
from tests.tasks.test_tokenizer import config

Inputs = tuple[Path, Stage, Stage]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A root with an untrained structure and an untrained alias tokenizer, marked as done."""
    root, stages = tmp_path_factory.mktemp("runs"), []
    for signal in ("structure", "alias"):
        tokenizer = config(signal=signal)
        stage = Stage(tokenizer)
        run = RunDir.create(root, stage, RuntimeConfig())
        task = TokenizerTask(tokenizer, torch.device("cpu"))
        torch.nn.init.normal_(task.vqvae.quantize.embedding.weight)
        tokenizer_stage.save(run, task.state_modules())
        run.update(state="done")
        stages.append(stage)
    return root, stages[0], stages[1]


def data_of(item: Stage | RunDir) -> DataConfig:
    """The data set of a tokenizer or a token store."""
    assert isinstance(item.config, TokenizerConfig | TokensConfig)
    return item.config.data


def _stage(tokenizer: Stage, batch_size: int, signal: Signal = "structure", data: DataConfig | None = None) -> Stage:
    data = data or dataclasses.replace(data_of(tokenizer), crop="random", flip=True, crops=2)
    return Stage(TokensConfig(signal, data, batch_size), {"tokenizer": tokenizer})


def write(
    root: Path, tokenizer: Stage, signal: Signal = "structure", data: DataConfig | None = None, batch_size: int = 50
) -> RunDir:
    stage = _stage(tokenizer, batch_size, signal, data)
    run = RunDir.create(root, stage, RuntimeConfig())
    tokens_stage.run(run)
    return run


@pytest.fixture(scope="module")
def store_run(trained: Inputs) -> RunDir:
    return write(trained[0], trained[1])


def test_store_holds_what_the_tokenizer_says_of_each_image(trained: Inputs, store_run: RunDir) -> None:
    store = TokenStore.open(store_run)
    tokenizer = load_tokenizer(store_run.input("tokenizer"))
    splits: dict[Split, list[int]] = {"train": [0, 300, 700], "heldout": [0, 100]}
    for split, items in splits.items():
        images = open_dataset(data_of(store_run), split)
        tokens, labels = getattr(store, split).batch(items)
        expected = tokenizer.encode_images(to_float(images.batch(items)))
        assert all(torch.equal(a, b) for a, b in zip(tokens, expected, strict=True))
        assert torch.equal(labels, images.labels[items])


def test_copies_beyond_the_first_are_augmented_and_the_heldout_images_are_not(store_run: RunDir) -> None:
    store = TokenStore.open(store_run)
    count = len(open_dataset(data_of(store_run), "train"))
    assert len(store) == 2 * count
    assert len(store.heldout) == len(open_dataset(data_of(store_run), "heldout"))
    assert np.array_equal(store.labels[:count], store.labels[count:])
    assert (store.indices[-1][:count] != store.indices[-1][count:]).any()
    assert [scale.dtype == np.uint16 and scale.shape[1] for scale in store.indices] == [1, 4, 16]


def test_stores_of_one_data_set_and_seed_line_up_whatever_they_hold(trained: Inputs, store_run: RunDir) -> None:
    root, structure, alias = trained
    ours = TokenStore.open(store_run)
    other_batch = TokenStore.open(write(root, structure, batch_size=33))
    assert all(np.array_equal(a, b) for a, b in zip(ours.indices, other_batch.indices, strict=True))
    residuals = TokenStore.open(write(root, alias, signal="alias"))
    ours.require_same_items(residuals)
    shorter = write(root, alias, signal="alias", data=dataclasses.replace(data_of(alias), crops=1))
    with pytest.raises(UserError, match="drawn differently"):
        ours.require_same_items(TokenStore.open(shorter))


@pytest.mark.parametrize(("change", "named"), [({"flip": False}, "flip"), ({"crop": "center"}, "crop")])
def test_stores_of_other_crops_or_flips_are_not_taken_for_the_same_images(
    trained: Inputs, store_run: RunDir, change: dict[str, Any], named: str
) -> None:
    other = write(trained[0], trained[2], signal="alias", data=dataclasses.replace(data_of(store_run), **change))
    with pytest.raises(UserError, match=rf"data\.{named} is"):
        TokenStore.open(store_run).require_same_items(TokenStore.open(other))


def test_stores_of_other_seeds_are_not_taken_for_the_same_images(trained: Inputs, store_run: RunDir) -> None:
    stage = Stage(TokensConfig("structure", data_of(store_run), seed=1), {"tokenizer": trained[1]})
    run = RunDir.create(trained[0], stage, RuntimeConfig())
    tokens_stage.run(run)
    with pytest.raises(UserError, match="seed is 0 and 1"):
        TokenStore.open(store_run).require_same_items(TokenStore.open(run))


@pytest.mark.parametrize("coder", [1, 2])
def test_the_sharpest_residual_is_silent_and_stored_as_zeros_by_either_tokenizer(trained: Inputs, coder: int) -> None:
    tokenizer = trained[coder]
    assert isinstance(tokenizer, Stage)
    store = TokenStore.open(write(trained[0], tokenizer, signal="alias"))
    assert store.silent == (2,)
    assert not store.train.indices[2].any()
    assert not store.heldout.indices[2].any()
    assert store.train.indices[1].any()


def test_structure_tokenizer_also_codes_residuals_but_not_the_other_way_round(trained: Inputs) -> None:
    root, structure, alias = trained
    assert isinstance(structure.config, TokenizerConfig)
    without_dual = TokenStore.open(write(root, structure, signal="alias"))
    assert without_dual.vocab_size == structure.config.quantiser.vocab_size
    with pytest.raises(UserError, match="alias tokenizer"):
        write(root, alias, signal="structure")


def test_interrupted_stage_codes_only_what_is_missing(
    trained: Inputs, store_run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded: list[str] = []

    def notes(path: Path, array: NDArray[Any]) -> None:
        coded.append(path.name)
        write_array(path, array)

    def dies_after_three(path: Path, array: NDArray[Any]) -> None:
        if len(coded) == 3:
            raise KeyboardInterrupt
        notes(path, array)

    monkeypatch.setattr(tokens_stage, "write_array", dies_after_three)
    with pytest.raises(KeyboardInterrupt):
        write(trained[0], trained[1], batch_size=64)
    coded.append("resumed")  # lets the rest through
    run = RunDir.create(trained[0], _stage(trained[1], 64), RuntimeConfig())
    torn = sorted((run.path / "parts").iterdir())[1]
    torn.write_bytes(b"")
    coded.remove(torn.name)  # it is coded again
    monkeypatch.setattr(tokens_stage, "write_array", notes)
    resumed = TokenStore.open(write(trained[0], trained[1], batch_size=64))
    parts = [name for name in coded if "-" in name]
    assert len(parts) == len(set(parts))
    whole = TokenStore.open(store_run)
    assert all(np.array_equal(a, b) for a, b in zip(resumed.indices, whole.indices, strict=True))


@pytest.mark.parametrize("damage", ["flip a bit", "cut", "remove"])
def test_damaged_files_are_named(trained: Inputs, damage: str) -> None:
    run = write(trained[0], trained[1], batch_size=70 + len(damage))
    path = run.path / "heldout" / "scale_1.npy"
    content = bytearray(path.read_bytes())
    if damage == "flip a bit":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-2])
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"heldout/scale_1\.npy"):
        TokenStore.open(run)


def test_a_store_of_another_tokenizer_pyramid_or_data_set_is_refused(trained: Inputs) -> None:
    run = write(trained[0], trained[1], batch_size=90)
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**manifest, "signature": "0" * 16}))
    for use in (TokenStore.open, tokens_stage.run):
        with pytest.raises(UserError, match="0000000000000000"):
            use(run)


def test_images_of_another_size_are_refused(trained: Inputs) -> None:
    with pytest.raises(UserError, match="16 px"):
        write(trained[0], trained[1], data=DataConfig(dataset="emoji", image_size=32))
