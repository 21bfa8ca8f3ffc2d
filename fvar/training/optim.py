"""The original VAR's optimiser: fused AdamW, weight decay on matrices only, warm-up, plateau, linear decay.

Or Muon in its place, at the presets that have minutes (`fvar.training.muon`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fvar.config import TrainConfig
from fvar.training import sharding
from fvar.training.muon import Muon

# Tables and scales that have two or more dimensions and still must not shrink: scale embeddings, positions, the
# codebook, the attention's logit scale, the offsets of a shared modulation. `word_embed` is a linear map despite its
# name, and decays. So does the class embedding if `decay_classes`.
NOT_DECAYED = ("class_emb", "lvl_embed", "pos_", "scale_mul", "ada_gss", "embedding", "codebook")


def decays(name: str, parameter: Tensor, *, classes: bool = False) -> bool:
    """Whether weight decay applies: to weights of linear and convolution layers, and to those of the `classes`."""
    parts = re.split("[./]", name)
    if classes and "class_emb" in parts:
        return True
    matrix = parameter.ndim >= 2 and not name.endswith("bias")
    return matrix and not any(part.startswith(NOT_DECAYED) for part in parts)


def peak_lr(config: TrainConfig) -> float:
    """The learning rate at its highest: `lr` per 256 images (VAR)."""
    return config.lr * config.batch_size / 256


def lr_factor(config: TrainConfig, step: int) -> float:
    """The rate of step `step` (from 0) as a share of the peak (VAR).

    Rises linearly from `warmup_from` during the first `warmup` of the steps, stays at 1 for `flat` of the rest, then
    falls linearly and reaches `final` at the last step.
    """
    warmup = config.warmup * config.steps
    if step < warmup:
        return config.warmup_from + (1 - config.warmup_from) * step / warmup
    progress = min((step - warmup) / max(config.steps - 1 - warmup, 1), 1.0)
    falling = max(progress - config.flat, 0.0) / (1 - config.flat)
    return 1 - (1 - config.final) * falling


def adamw(named: Iterable[tuple[str, nn.Parameter]], config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW with two groups, one that decays and one that does not."""
    return torch.optim.AdamW(_groups(named, config), lr=peak_lr(config), betas=config.betas, fused=True)


def _groups(named: Iterable[tuple[str, nn.Parameter]], config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters with their weight decay; the groups that have any."""
    members: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in named:
        members[decays(name, parameter, classes=config.decay_classes)].append(parameter)
    decay = {True: config.weight_decay, False: 0.0}
    return [{"params": members[wanted], "weight_decay": decay[wanted]} for wanted in members if members[wanted]]


def make(named: Sequence[tuple[str, nn.Parameter]], config: TrainConfig) -> torch.optim.AdamW:
    """The optimiser that the configuration names."""
    if config.optimiser == "adamw":
        return adamw(named, config)
    matrices = [parameter for name, parameter in named if decays(name, parameter)]
    rest = _groups([(name, parameter) for name, parameter in named if not decays(name, parameter)], config)
    return Muon(matrices, rest, lr=peak_lr(config), betas=config.betas, weight_decay=config.weight_decay)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate `lr`."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def step_where(optimiser: torch.optim.AdamW, wanted: Tensor) -> None:
    """Take the optimiser's step if `wanted` (0-d bool) is true; a GPU decides by itself, without being waited for.

    Fused optimisers leave out what `torch.amp.GradScaler` marks as overflown, by the attribute that is set here.
    """
    optimiser.found_inf = (~wanted).float()  # type: ignore[attr-defined]
    optimiser.step()


def pack(optimiser: torch.optim.Optimizer, named: Sequence[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors `<parameter>/<moment>`, so that it can be stored without pickle."""
    return {
        f"{name}/{key}": value for name, parameter in named for key, value in optimiser.state.get(parameter, {}).items()
    }


def unpack(
    optimiser: torch.optim.Optimizer, named: Sequence[tuple[str, nn.Parameter]], flat: dict[str, Tensor]
) -> None:
    """Restore what `pack` took. Learning rate and decay follow from the configuration, not from here."""
    parameters = dict(named)
    optimiser.state.clear()
    for path, value in flat.items():
        name, _, key = path.rpartition("/")
        parameter = parameters[name]
        # AdamW keeps its step count in float32 on the parameter's device when it is fused.
        optimiser.state[parameter][key] = sharding.like(value, parameter)
