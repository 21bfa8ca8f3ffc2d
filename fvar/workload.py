"""How much a stage of any kind has to compute: FLOPs, counted as `fvar.estimate` does, without opening an image.

Only networks are counted: nothing that reads images, resamples, takes statistics of features or recognises text. Never
imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
import os

from fvar.config import (
    DataConfig,
    PyramidConfig,
    ReadabilityConfig,
    SamplesConfig,
    ScoresConfig,
    SpeedConfig,
    Stage,
    TokenizerConfig,
    TokensConfig,
    VarConfig,
)
from fvar.estimate import estimate

IMAGES = {"emoji": 1_854, "text": 2_240, "cifar10": 60_000}  # of all splits
IMAGENET_IMAGES = 1_331_167  # with the validation set's; shards are taken for it
UNKNOWN = 1.0  # of a plugin's stage: each then is expected to take as long as those before it
INCEPTION = 11.4e9  # FLOPs per image of 299 px, by torch's counter


def flops(stage: Stage) -> float:
    """Of the whole stage; never 0, so that speeds can be measured by it."""
    config = stage.config
    if isinstance(config, TokenizerConfig):
        return estimate(stage).flops
    if isinstance(config, VarConfig):
        return estimate(stage).flops + _curve(stage, config)
    if isinstance(config, TokensConfig):
        return images(config.data) * config.data.crops * _forward(stage.inputs["tokenizer"], coding=True)
    if isinstance(config, SamplesConfig):
        return _sampling(stage.inputs["var"], config)
    if isinstance(config, ScoresConfig):
        samples = stage.inputs["samples"].config
        return _scoring(samples.count if isinstance(samples, SamplesConfig) else 0)
    if isinstance(config, SpeedConfig):
        return _timing(config)
    if not isinstance(config, ReadabilityConfig):
        return UNKNOWN
    tokenizer = stage.inputs["tokenizer"]
    return IMAGES["text"] * (_forward(tokenizer, coding=True) + _forward(tokenizer, coding=False))


def images(data: DataConfig) -> int:
    """How many images a data set has, both splits: counted where they are files, else ImageNet's unless it is known."""
    counted = _files_below(data.root) if data.dataset == "folder" and data.root else 0
    return counted or IMAGES.get(data.dataset, IMAGENET_IMAGES)


@functools.cache
def _files_below(root: str) -> int:
    return sum(len(files) for _, _, files in os.walk(root, followlinks=True))


def _forward(tokenizer: Stage, *, coding: bool) -> float:
    """FLOPs per image of the half of a tokenizer that makes tokens, or of that which makes images of them."""
    config = tokenizer.config
    assert isinstance(config, TokenizerConfig)
    return _half(config, coding)


@functools.cache  # asked for each seed of a plan
def _half(config: TokenizerConfig, coding: bool) -> float:
    """Coarse views are decoded in training alone, and never where only the sharp view is read."""
    if config.signal == "structure" and not coding:
        config = dataclasses.replace(config, quantiser=dataclasses.replace(config.quantiser, reading="latent_area"))
    bill = estimate(Stage(config))
    return sum(part.forward for part in bill.parts if (part.name in ("encoder", "quantiser")) == coding)


def _sampling(var: Stage, config: SamplesConfig) -> float:
    """Every scale once through the network, with and without the class where there is guidance, and the decoder."""
    student = sum(part.forward for part in estimate(var).parts if part.name == "student")
    decoder = _forward(var.inputs["tokens"].inputs["tokenizer"], coding=False)
    return config.count * ((2 if config.guidance else 1) * student + decoder)


def _timing(config: SpeedConfig) -> float:
    """Every batch of every round, through each network and the decoder."""
    auto = config.autoencoder
    pyramid = PyramidConfig(config.patch_nums, auto.downsample_factor)
    data = DataConfig(image_size=pyramid.image_size)
    tokenizer = TokenizerConfig(data=data, pyramid=pyramid, autoencoder=auto, quantiser=config.quantiser)
    tokens = Stage(TokensConfig(data=data), {"tokenizer": Stage(tokenizer)})
    sampled = SamplesConfig((config.warmup + config.rounds) * sum(config.batches), config.guidance)
    made = (dataclasses.replace(config.transformer, mixer=mixer) for mixer in config.mixers)
    return sum(_sampling(Stage(VarConfig(transformer), {"tokens": tokens}), sampled) for transformer in made)


def _scoring(samples: int) -> float:
    """Features of the samples. Those of the real images are kept: only the first stage computes them."""
    return INCEPTION * max(samples, 1)


def _curve(stage: Stage, config: VarConfig) -> float:
    """Samples drawn and scored while the network trains."""
    if not config.curve.every:
        return 0.0
    points = config.train.steps // config.curve.every
    scoring = _scoring(config.curve.samples.count)
    return points * (_sampling(stage, config.curve.samples) + scoring)
