"""A var stage that trains in a second: an untrained tokenizer, and token stores with something to learn in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    MambaConfig,
    PyramidConfig,
    QuantiserConfig,
    RuntimeConfig,
    Signal,
    Stage,
    TeacherConfig,
    TokenizerConfig,
    TokensConfig,
    TrainConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.data.token_store import SPLITS, write_array, write_manifest
from fvar.rundir import RunDir
from fvar.stages import tokenizer as tokenizer_stage
from fvar.tokenizer.dual import SignalScaler
from fvar.tokenizer.vqvae import VQVAE

PATCH_NUMS = (1, 2, 4)
VOCAB, ALIAS_VOCAB, CLASSES, TRAIN_ITEMS = 16, 8, 3, 48
MVAR = TransformerConfig(depth=2, width=32, heads=2, mixer="mvar", mamba=MambaConfig(d_state=8, head_dim=16))
SHARED = TeacherConfig(blocks=2, heads=1, head_dim=16, gate_bias=0.0, trunk="shared")
TEACHER = TeacherConfig(blocks=1, heads=1, head_dim=16, gate_bias=0.0)
# The clip is low enough to act in most steps.
TRAIN = TrainConfig(steps=40, clip=0.2, batch_size=16, lr=0.3, eval_every=20, eval_images=12, precision="fp32")


def tokens_stage(signal: Signal, vocab: int) -> Stage:
    auto = AutoencoderConfig(ch=8, ch_mult=(1, 1), num_res_blocks=1, z_channels=4, norm_groups=4, attention=False)
    pyramid = PyramidConfig(patch_nums=PATCH_NUMS, downsample_factor=2)
    data = DataConfig(dataset="emoji", image_size=8)
    quantiser = QuantiserConfig(vocab_size=vocab)
    tokenizer = TokenizerConfig(signal=signal, data=data, pyramid=pyramid, autoencoder=auto, quantiser=quantiser)
    return Stage(TokensConfig(signal=signal, data=data), {"tokenizer": Stage(tokenizer)})


def var_stage(teacher: TeacherConfig | None = None, **changes: object) -> Stage:
    """A var stage of the tiny kind; `changes` are fields of its configuration."""
    config = VarConfig(transformer=TransformerConfig(depth=2, width=32, heads=2), teacher=teacher, train=TRAIN)
    inputs = {"tokens": tokens_stage("structure", VOCAB)}
    if teacher:
        inputs["alias"] = tokens_stage("alias", ALIAS_VOCAB)
    return Stage(dataclasses.replace(config, **changes), inputs)  # type: ignore[arg-type]


def make_run(root: Path, stage: Stage, **runtime: object) -> RunDir:
    """The run directory of a var stage, with its inputs filled in as if they had been run."""
    settings: dict[str, object] = {"device": "cpu", "threads": 1, "log_every": 1, **runtime}
    run = RunDir.create(root, stage, RuntimeConfig(**settings))  # type: ignore[arg-type]
    for role in ("tokens", "alias"):
        if role in run.input_names and not run.input(role).done:
            _fill(run.input(role))
    return run


def _fill(run: RunDir) -> None:
    """Random weights, and tokens that follow from class, position and a number per image.

    That number decides the last scale's structure tokens, and only the alias tokens tell it beforehand.
    """
    above = run.input("tokenizer")
    assert isinstance(run.config, TokensConfig)
    assert isinstance(above.config, TokenizerConfig)
    cfg = above.config
    torch.manual_seed(0)
    vqvae = VQVAE(cfg.autoencoder, cfg.quantiser, PATCH_NUMS)
    tokenizer_stage.save(above, {"vqvae": vqvae, "scaler": SignalScaler(len(PATCH_NUMS))})
    above.update(state="done")

    vocab = cfg.quantiser.vocab_size
    for split, count in zip(SPLITS, (TRAIN_ITEMS, 12), strict=True):
        labels, secret = np.arange(count) % CLASSES, np.arange(count) * 7 % 8
        for k, p in enumerate(PATCH_NUMS):
            known = secret if run.config.signal == "alias" or k == len(PATCH_NUMS) - 1 else 0 * secret
            tokens = (labels[:, None] + 3 * known[:, None] + np.arange(p * p)) % vocab
            write_array(run.path / split / f"scale_{k}.npy", tokens.astype(np.uint16))
        write_array(run.path / split / "labels.npy", labels.astype(np.int64))
    write_manifest(run, PATCH_NUMS, vocab, [str(number) for number in range(CLASSES)])
    run.update(state="done")
