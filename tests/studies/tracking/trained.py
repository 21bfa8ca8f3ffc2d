"""A cell that was really trained, as far as its files tell: tiny networks with random weights."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    PyramidConfig,
    QuantiserConfig,
    SamplesConfig,
    ScoresConfig,
    Stage,
    TokenizerConfig,
    TokensConfig,
    TrainConfig,
    VarConfig,
)
from fvar.rundir import RunDir
from fvar.tokenizer.dual import SignalScaler
from tests import fakes, tiny

DATA = DataConfig(image_size=8)
PYRAMID = PyramidConfig(patch_nums=(1, 2, 4), downsample_factor=2)
AUTOENCODER = AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=tiny.CHANNELS, norm_groups=4)
QUANTISER = QuantiserConfig(vocab_size=tiny.VOCAB, reading="latent_area")


def chain(seed: int) -> Stage:
    tokenizer = TokenizerConfig(data=DATA, pyramid=PYRAMID, autoencoder=AUTOENCODER, quantiser=QUANTISER)
    tokens = Stage(TokensConfig(data=DATA), {"tokenizer": Stage(tokenizer)})
    var = Stage(VarConfig(tiny.CFG, train=TrainConfig(steps=5, seed=seed)), {"tokens": tokens})
    samples = Stage(SamplesConfig(count=fakes.COUNT, guidance=2.0, seed=seed, precision="fp32"), {"var": var})
    return Stage(ScoresConfig(reference=DATA), {"samples": samples})


def train(results: Path, stage: Stage, seed: int) -> None:
    """What a training leaves, with random weights."""
    fakes.finish(results, stage, 0.5, seed)
    found = {part.kind: RunDir.open(results / "runs" / part.name) for part in stage.chain()}
    vqvae = tiny.vqvae(PYRAMID.patch_nums)
    save_file(vqvae.state_dict(), found["tokenizer"].path / "model.safetensors")
    scaler = {f"scaler.{key}": value for key, value in SignalScaler(3).state_dict().items()}
    save_file(scaler, found["tokenizer"].path / "companion.safetensors")
    network = tiny.var(patch_nums=PYRAMID.patch_nums, seed=seed)
    save_file(network.state_dict(), found["var"].path / "model.safetensors")
    manifest = {"class_names": [f"class {number}" for number in range(tiny.CLASSES)]}
    (found["tokens"].path / "manifest.json").write_text(json.dumps(manifest))
