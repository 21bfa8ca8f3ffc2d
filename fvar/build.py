"""Builds what stages would build, without data, memory or a device: what a run would refuse, before any training.

    python -m fvar.build < stages.json

reads a list of {"name", "kind", "config", "inputs"}, inputs first, and prints one line per stage that cannot be built.
Networks are made on torch's meta device, which computes shapes alone. Exit status 2 where a stage cannot be built.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from fvar import plugins
from fvar.config import (
    STAGE_CONFIGS,
    DataConfig,
    ReadabilityConfig,
    ScoresConfig,
    SpeedConfig,
    Stage,
    TokenizerConfig,
    TokensConfig,
    VarConfig,
)
from fvar.errors import UserError, one_line, run_main, unknown
from fvar.estimate import CLASSES, IMAGENET_CLASSES
from fvar.plain import from_dict

T = TypeVar("T")


def problems(stages: Iterable[Stage]) -> list[str]:
    """Why stages cannot be built, a line each; empty where all can."""
    found = []
    for stage in stages:
        try:
            if check := CHECKS.get(stage.kind):
                check(stage)
        except Exception as error:  # whatever a network's constructor raises
            found.append(f"{stage.name} cannot be built: {one_line(error)}")
    return found


def _tokenizer(stage: Stage) -> None:
    from fvar.focus import pyramid
    from fvar.tokenizer.codebook import EmaCodebook
    from fvar.tokenizer.discriminator import PatchDiscriminator
    from fvar.tokenizer.vqvae import VQVAE

    config = _config(stage, TokenizerConfig)
    if config.signal == "alias" and config.quantiser.reading == "latent_area":
        raise UserError("an alias tokenizer cannot read latent_area; set quantiser.reading to focus or independent")
    pyramid.from_config(config.pyramid)
    with torch.device("meta"):
        vqvae = VQVAE(config.autoencoder, config.quantiser, config.pyramid.patch_nums)
        EmaCodebook(config.quantiser, config.autoencoder.z_channels)
        if config.loss.adversarial > 0:
            PatchDiscriminator(config.loss.discriminator_ch)
        vqvae.encoder(torch.empty(2, 3, config.data.image_size, config.data.image_size))


def _tokens(stage: Stage) -> None:
    config, upstream = _config(stage, TokensConfig), _config(stage.inputs["tokenizer"], TokenizerConfig)
    if config.data.image_size != upstream.data.image_size:
        raise UserError(
            f"data.image_size is {config.data.image_size}, but the tokenizer learns at {upstream.data.image_size} px"
        )
    if config.signal == "structure" and upstream.signal == "alias":
        raise UserError("its tokenizer is one of alias residuals, which cannot code structure")


def _var(stage: Stage) -> None:
    from fvar.models.teacher import Teacher
    from fvar.models.var import VAR
    from fvar.stages.var import require_fit, require_frozen

    config = _config(stage, VarConfig)
    data, structure = _coder(stage.inputs["tokens"])
    classes, scales = CLASSES.get(data.dataset, IMAGENET_CLASSES), structure.pyramid.patch_nums
    shape = (classes, structure.quantiser.vocab_size, structure.autoencoder.z_channels, scales)
    weights = config.distill.scale_weights
    with torch.device("meta"):
        VAR(config.transformer, *shape)
        if config.teacher:
            codes = 0
            if config.teacher.reads_alias:
                alias = _coder(stage.inputs["alias"])[1]
                codes = alias.quantiser.vocab_size
                if alias.pyramid.patch_nums != scales:
                    raise UserError(f"alias tokens have scales {alias.pyramid.patch_nums}, structure tokens {scales}")
            if weights and len(weights) != len(scales):
                raise UserError(f"distill.scale_weights must hold {len(scales)} weights, found {len(weights)}")
            require_fit(config, config.teacher)
            if config.teacher.learns == "frozen":
                require_frozen(config.teacher, stage.inputs)
            Teacher(config.transformer, config.teacher, *shape, codes)
    if config.curve.every:
        _known_extractor(config.curve.scores.extractor)


def _scores(stage: Stage) -> None:
    _known_extractor(_config(stage, ScoresConfig).extractor)


def _readability(stage: Stage) -> None:
    _config(stage, ReadabilityConfig)
    if _config(stage.inputs["tokenizer"], TokenizerConfig).signal == "alias":
        raise UserError("an alias tokenizer makes no pictures to read")


def _speed(stage: Stage) -> None:
    from fvar.stages.speed import networks

    with torch.device("meta"):
        networks(_config(stage, SpeedConfig))


CHECKS: dict[str, Callable[[Stage], None]] = {
    "tokenizer": _tokenizer,
    "tokens": _tokens,
    "var": _var,
    "scores": _scores,
    "readability": _readability,
    "speed": _speed,
}


def _known_extractor(name: str) -> None:
    from fvar.metrics.features import EXTRACTORS

    if name not in EXTRACTORS:
        raise unknown("extractor", name, EXTRACTORS)


def _coder(tokens: Stage) -> tuple[DataConfig, TokenizerConfig]:
    """Data and tokenizer of a token store."""
    return _config(tokens, TokensConfig).data, _config(tokens.inputs["tokenizer"], TokenizerConfig)


def _config(stage: Stage, kind: type[T]) -> T:
    if not isinstance(stage.config, kind):
        raise UserError(f"{stage.name} stands where a stage with a {kind.__name__} is needed")
    return stage.config


def main() -> int:
    """The command line."""
    plugins.load()
    stages: dict[str, Stage] = {}
    for body in json.load(sys.stdin):
        config = from_dict(STAGE_CONFIGS[body["kind"]], body["config"])
        stages[body["name"]] = Stage(config, {role: stages[name] for role, name in body["inputs"].items()})
    found = problems(stages.values())
    print("\n".join(found))
    return 2 if found else 0


if __name__ == "__main__":
    run_main(main)
