"""The samples and scores stages on a random model, from directory to files."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    PyramidConfig,
    QuantiserConfig,
    RuntimeConfig,
    SamplesConfig,
    ScoresConfig,
    Stage,
    TokenizerConfig,
    TokensConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.metrics import features
from fvar.models.var import VAR
from fvar.rundir import RunDir
from fvar.stages import samples, scores
from fvar.tokenizer.bundle import COMPANION_FILE, MODEL_FILE
from fvar.tokenizer.dual import SignalScaler
from fvar.tokenizer.vqvae import VQVAE
from tests.tiny import awake

DATA = DataConfig(dataset="emoji", image_size=6)
COUNT, CLASSES = 30, 9


def scores_stage(**changes):
    tokenizer = TokenizerConfig(
        data=DATA,
        pyramid=PyramidConfig(patch_nums=(1, 2, 3), downsample_factor=2),
        autoencoder=AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, norm_groups=4),
        quantiser=QuantiserConfig(vocab_size=40, reading="latent_area"),
    )
    tokens = Stage(TokensConfig(data=DATA), {"tokenizer": Stage(tokenizer)})
    var = Stage(VarConfig(transformer=TransformerConfig(depth=2, width=32, heads=2)), {"tokens": tokens})
    made = Stage(SamplesConfig(count=COUNT, batch_size=2, precision="fp32", **changes), {"var": var})
    return Stage(ScoresConfig(reference=DATA, reference_count=40), {"samples": made})


def create(root, stage):
    """Run directories of the chain, the networks above the samples random but finished."""
    run = RunDir.create(root, stage, RuntimeConfig(device="cpu"))
    config = run.input("samples").input("var").input("tokens").input("tokenizer").config
    vqvae = VQVAE(config.autoencoder, config.quantiser, config.pyramid.patch_nums)
    torch.manual_seed(0)
    torch.nn.init.normal_(vqvae.quantize.embedding.weight)
    var_run = run.input("samples").input("var")
    var = VAR(var_run.config.transformer, CLASSES, 40, 4, (1, 2, 3))
    awake(var)
    tokenizer_run = var_run.input("tokens").input("tokenizer")
    save_file({key: value.contiguous() for key, value in vqvae.state_dict().items()}, tokenizer_run.path / MODEL_FILE)
    scaler = {f"scaler.{key}": value for key, value in SignalScaler(3).state_dict().items()}
    save_file(scaler, tokenizer_run.path / COMPANION_FILE)
    save_file({key: value.contiguous() for key, value in var.state_dict().items()}, var_run.path / MODEL_FILE)
    return run


@pytest.fixture
def run(tmp_path):
    return create(tmp_path / "results" / "runs", scores_stage())


def load(run):
    with np.load(run.path / "samples.npz", allow_pickle=False) as archive:
        return archive["arr_0"], archive["labels"]


def test_samples_are_class_balanced_uint8_images_with_a_labelled_grid(run):
    made = run.input("samples")
    samples.run(made)
    images, labels = load(made)
    assert images.shape == (COUNT, 6, 6, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert set(np.bincount(labels, minlength=CLASSES)) == {3, 4}
    assert len({image.tobytes() for image in images}) > COUNT // 2
    with Image.open(made.path / "grid.png") as grid:
        assert grid.size == (130 + 4 * 8, CLASSES * 8)
    assert not (made.path / "shards").exists()
    assert (made.status.step, made.status.steps) == (COUNT, COUNT)


def test_a_killed_sampling_continues_and_ends_with_the_same_images(run, tmp_path, monkeypatch):
    whole = run.input("samples")
    samples.run(whole)
    killed = create(tmp_path / "again" / "runs", scores_stage()).input("samples")
    calls = []

    def dies_later(*args, **kwargs):
        calls.append(kwargs["seeds"])
        if len(calls) == samples.BATCHES_PER_SHARD + 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    real = samples.sample
    monkeypatch.setattr(samples, "sample", dies_later)
    with pytest.raises(KeyboardInterrupt):
        samples.run(killed)
    assert not (killed.path / "samples.npz").exists()
    assert [path.name for path in (killed.path / "shards").iterdir()] == ["000.npz"]
    before = len(calls)
    samples.run(killed)
    assert len(calls) - before == COUNT // 2 - samples.BATCHES_PER_SHARD  # the finished shard was not made again
    np.testing.assert_array_equal(load(killed)[0], load(whole)[0])


def test_a_damaged_shard_is_made_again(run):
    made = run.input("samples")
    samples.run(made)
    expected = load(made)[0]
    shard = made.path / "shards" / "000.npz"
    shard.parent.mkdir()
    shard.write_bytes((made.path / "samples.npz").read_bytes()[:500])
    samples.run(made)
    np.testing.assert_array_equal(load(made)[0], expected)


def test_another_seed_gives_other_images(run, tmp_path):
    first, second = run.input("samples"), create(tmp_path / "other", scores_stage(seed=1)).input("samples")
    for made in (first, second):
        samples.run(made)
    assert not np.array_equal(load(first)[0], load(second)[0])


@pytest.fixture
def toy_network(monkeypatch):
    """Colours of the four quarters, in place of Inception."""
    calls = []

    class Quarters(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, images):
            calls.append(len(images))
            return torch.nn.functional.adaptive_avg_pool2d(images.float() * self.weight, 2).flatten(1)

    def toy(weights):
        return features.Extractor("inception-torchscript", Quarters(), 12, None, "no classifier")

    monkeypatch.setitem(features.EXTRACTORS, "inception-torchscript", toy)
    return calls


def test_scores_name_counts_and_extractor_and_leave_reasons_for_blanks(run, toy_network):
    samples.run(run.input("samples"))
    scores.run(run)
    body = json.loads((run.path / "scores.json").read_text())
    pixels = {"spectral_distance", "top_octave"}
    assert set(body) == {"fid", "fid_infinity", "kid", "precision", "recall", "is"} | pixels
    for key, entry in body.items():
        extractor = None if key in pixels else "inception-torchscript"
        assert (entry["count"], entry["reference_count"], entry["extractor"]) == (COUNT, 40, extractor)
    assert body["top_octave"]["value"] > 0
    assert body["fid"]["label"] == f"FID@{COUNT}"
    assert body["fid"]["value"] > 0
    assert 0 <= body["precision"]["value"] <= 1
    assert body["kid"]["subset_size"] == COUNT // 2
    assert body["is"]["value"] is None
    assert body["is"]["reason"] == "no classifier"


def test_features_of_the_real_images_are_computed_once(run, toy_network):
    samples.run(run.input("samples"))
    scores.run(run)
    first = (run.path / "scores.json").read_text()
    assert sum(toy_network) == COUNT + 40
    scores.run(run)
    assert sum(toy_network) == 2 * COUNT + 40
    assert (run.path / "scores.json").read_text() == first
    kept = list((run.path.parent.parent / "cache" / "features").glob("inception-*.npy"))
    assert len(kept) == 1
    kept[0].write_bytes(kept[0].read_bytes()[:300])  # damaged: computed again
    scores.run(run)
    assert sum(toy_network) == 3 * COUNT + 80
    assert (run.path / "scores.json").read_text() == first
    shutil.rmtree(kept[0].parent)


def test_the_reference_is_a_class_balanced_subset_of_its_split(run):
    real = scores.reference(run.config)
    assert len(real) == 40
    assert torch.bincount(real.labels).max() - torch.bincount(real.labels).min() <= 1
    assert len(scores.reference(ScoresConfig(reference=DATA))) == 1669
