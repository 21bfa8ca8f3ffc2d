"""The stage as a run directory: what it leaves, and that a stopped one ends the same."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fvar.config import RuntimeConfig, Stage
from fvar.data import open_dataset, to_float
from fvar.errors import Interrupted, UserError
from fvar.metrics.reconstruction import measure
from fvar.rundir import RunDir
from fvar.stages import tokenizer as stage
from fvar.tasks.tokenizer import TokenizerBatch, TokenizerTask
from fvar.tokenizer.bundle import load_tokenizer
from tests.tasks.test_tokenizer import config


def made(root: Path, **changes: object) -> RunDir:
    settings = config(train__steps=6, train__eval_every=3, train__eval_images=16, **changes)
    return RunDir.create(root, Stage(settings), RuntimeConfig(device="cpu", log_every=1, checkpoint_steps=2))


@pytest.mark.parametrize("signal", ["structure", "alias"])
def test_stage_leaves_weights_a_sheet_and_metrics_and_its_tokenizer_can_be_used(tmp_path: Path, signal: str) -> None:
    run = made(tmp_path, signal=signal)
    stage.run(run)
    tokenizer = load_tokenizer(run)
    assert set(load_file(run.path / "model.safetensors")) == set(tokenizer.vqvae.state_dict())
    rows = 4 if signal == "structure" else 2 * len(tokenizer.scaler.audible_scales)
    assert Image.open(run.path / "reconstruction.png").size == (12 * 20, rows * 20)
    assert {"psnr", "usage", "perplexity/4"} <= set(run.metrics("heldout")[-1])
    x = to_float(open_dataset(tokenizer.config.data, "heldout").batch(range(5)))
    indices = tokenizer.encode_images(x)
    assert [tuple(index.shape) for index in indices] == [(5, 1), (5, 4), (5, 16)]
    sides = [16, 16, 16] if signal == "structure" else [4, 8, 16]
    assert [made.shape[-1] for made in tokenizer.decode_prefixes(indices)] == sides
    assert "usage" in stage.summary(run)


def test_what_the_finished_tokenizer_keeps_is_logged_scale_by_scale(tmp_path: Path) -> None:
    run = made(tmp_path, rfid_images=9)
    stage.run(run)
    (record,) = run.metrics("reconstruction")
    assert record["step"] == 6
    body = measure(run, count=9)
    for k, row in enumerate(body["scales"], start=1):
        assert record[f"psnr/scale{k}"] == row["psnr"]
        assert record[f"rfid_9/scale{k}"] == row["rfid"]["value"] > 0
    assert "ssim/scale3" in record


def test_images_of_one_colour_train_to_the_end_though_no_variance_is_there_to_explain(tmp_path: Path) -> None:
    """1 - error / power is then 0/0 or x/0; the stage used to fail in the sentence that closes its log."""
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (16, 16), (128, 128, 128)).save(tmp_path / "images" / label / f"{number}.png")
    run = made(tmp_path, data__dataset="folder", data__root=str(tmp_path / "images"), train__batch_size=4)
    stage.run(run)
    assert not math.isfinite(run.metrics("heldout")[-1]["explained"])
    assert "explained variance" in stage.summary(run)


def test_stopped_and_continued_stage_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halted = made(tmp_path / "a"), made(tmp_path / "b")
    stage.run(whole)
    plain = TokenizerTask.after_step

    def stops(task: TokenizerTask, step: int, batches: Sequence[TokenizerBatch]) -> None:
        plain(task, step, batches)
        if step == 4:
            raise Interrupted("as if by a signal")

    with monkeypatch.context() as patch:
        patch.setattr(TokenizerTask, "after_step", stops)
        with pytest.raises(Interrupted):
            stage.run(halted)
    assert not (halted.path / "model.safetensors").exists()
    stage.run(halted)
    for file in ("model.safetensors", "companion.safetensors"):
        expected, found = load_file(whole.path / file), load_file(halted.path / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_run_without_weights_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m fvar\.run"):
        load_tokenizer(made(tmp_path))
