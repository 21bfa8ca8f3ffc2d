"""The transformer's block: a list of residuals, all modulated by the class (AdaLN).

Of which residuals it consists is a specification, `transformer.mixer` in the configuration: VAR's block has two,
M-VAR's three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fvar.config import Residual, TransformerConfig
from fvar.machine import per_image
from fvar.models.attention import PrefixAttention, ScaleAttention, SelfAttention
from fvar.models.gradients import modulated_norm, without_autocast
from fvar.models.mamba import Mamba2

BLOCK = 1 << 18  # numbers of a pass in the cache: 1 MiB of float32


class FeedForward(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        quick = hidden.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        out: Tensor = self.fc2(gelu_(hidden) if quick else F.gelu(hidden, approximate="tanh"))
        return out


def gelu_(x: Tensor) -> Tensor:
    """GELU, tanh-approximated, in place, as x sigmoid(u) with u = sqrt(8/pi) (x + 0.044715 x^3); x contiguous.

    For sampling on a CPU, in half the time of torch's (2 % of sampling d16 in float32): in place it touches no new
    memory, and a sigmoid costs a third of a tanh. All passes over a block stay in the cache, and in float32, so
    bfloat16 is rounded but once.
    """
    slope = math.sqrt(8 / math.pi)
    for block in torch.split(x.view(-1), BLOCK):
        exact = block.to(torch.promote_types(x.dtype, torch.float32))
        gate = exact.square().mul_(0.044715 * slope).add_(slope).mul_(exact).sigmoid_()
        block.copy_(gate.mul_(exact))
    return x


class Modulation(nn.Sequential):
    """`count` modulations per channel from a class embedding: SiLU, then one linear layer."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(dim, count * dim))
        self.count = count

    @property
    def linear(self) -> nn.Linear:
        return cast(nn.Linear, self[1])

    def forward(self, condition: Tensor) -> Tensor:
        """(B, C) -> (count, B, 1, C).

        Not in mixed precision: with one row per image, rounding the weights takes longer than their product.
        """
        with without_autocast(condition):
            out: Tensor = self[1](self[0](condition))
        return out.view(len(condition), self.count, 1, -1).transpose(0, 1)


class Mixer(Protocol):
    """A residual through which tokens see each other: a module, as far as a block needs to know it."""

    def __call__(self, x: Tensor, cache: Any = None) -> Tensor:
        """The whole sequence x (B, L, C) or, with a cache, the newest scale of it; returns (B, L, C)."""

    def new_cache(self, batch: int, like: Tensor) -> Any:
        """What sampling keeps of earlier scales, before there are any; on the device and in the dtype of `like`."""


# Where a state dict has a residual, and what makes it.
Make = Callable[[TransformerConfig, Sequence[int]], nn.Module]
PARTS: dict[Residual, tuple[str, Make]] = {
    "prefix_attention": ("attn", PrefixAttention),
    "scale_attention": ("attn", ScaleAttention),
    "mamba2": ("mamba", lambda cfg, _: Mamba2(cfg.dim, cfg.mamba)),
    "feed_forward": ("ffn", lambda cfg, _: FeedForward(cfg.dim, round(cfg.dim * cfg.mlp_ratio))),
}


class Block(nn.Module):
    """x + gamma_i part_i(scale_i, shift_i on LN x), for the parts `cfg.residuals` one after the other.

    The last is the feed-forward, those before it are mixers. The modulations are in the order gamma_1, gamma_2, ...,
    scale_1, ..., shift_1, .... They depend on the class alone, so `modulation = modulate(condition)` (M, B, 1, C) is
    computed once per step or sample and passed in; M is three per part.

    With `shared_aln` one linear layer, outside, makes the modulations of all blocks, and a block has only an offset.
    """

    attn: SelfAttention
    ffn: FeedForward

    def __init__(self, cfg: TransformerConfig, patch_nums: Sequence[int], drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm_eps = cfg.norm_eps
        self.parts = [PARTS[residual][0] for residual in cfg.residuals]
        for residual in cfg.residuals:
            name, make = PARTS[residual]
            self.add_module(name, make(cfg, patch_nums))
        if cfg.shared_aln:
            self.ada_gss = nn.Parameter(torch.randn(1, 1, 3 * len(self.parts), cfg.dim) / cfg.dim**0.5)
        else:
            self.ada_lin = Modulation(cfg.dim, 3 * len(self.parts))

    @property
    def mixers(self) -> list[Mixer]:
        """All parts but the feed-forward."""
        return [cast(Mixer, getattr(self, name)) for name in self.parts[:-1]]

    def modulate(self, condition: Tensor) -> Tensor:
        """The modulations (M, B, 1, C) of class embeddings (B, C), or of the shared modulations (M, B, 1, C)."""
        if condition.dim() == 2:
            made: Tensor = self.ada_lin(condition)
            return made
        return condition + self.ada_gss.permute(2, 0, 1, 3)

    def new_caches(self, batch: int, like: Tensor) -> list[Any]:
        """What its mixers keep while sampling; see `Mixer.new_cache`."""
        return [mixer.new_cache(batch, like) for mixer in self.mixers]

    def forward(self, x: Tensor, modulation: Tensor, caches: Sequence[Any] | None = None) -> Tensor:
        """One block on x (B, L, C), the whole sequence or, with the mixers' caches, the newest scale of it."""
        return self.feed_forward(self.mix(x, modulation, caches), modulation)

    def mix(self, x: Tensor, modulation: Tensor, caches: Sequence[Any] | None = None) -> Tensor:
        """All residuals but the last, Eq. 9: X_L = WSA(E(r_k)) (B, L, C), with the block's input in place of E(r_k)."""
        parts = modulation.unbind(0)
        for index, mixer in enumerate(self.mixers):
            gamma, scale, shift = parts[index :: len(self.parts)]
            out = mixer(modulated_norm(x, scale, shift, self.norm_eps), caches[index] if caches else None)
            x = torch.addcmul(x, self._kept(gamma), out)
        return x

    def feed_forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """The last residual."""
        gamma, scale, shift = modulation.unbind(0)[len(self.parts) - 1 :: len(self.parts)]
        out = self.ffn(modulated_norm(x, scale, shift, self.norm_eps))
        return torch.addcmul(x, self._kept(gamma), out)

    def _kept(self, gamma: Tensor) -> Tensor:
        """Drop path: gamma (B, 1, C) is zeroed for a random part of the samples, and raised for the others."""
        if not (self.training and self.drop_path > 0):
            return gamma
        keep = 1 - self.drop_path
        return gamma * (per_image.rand(len(gamma), gamma.device)[:, None, None] < keep) / keep


class Head(nn.Module):
    """The modulated norm before the classifier; its modulations are in the order scale, shift."""

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        self.ada_lin = Modulation(dim, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalise and modulate x (B, L, C) by the class embedding (B, C)."""
        scale, shift = self.ada_lin(condition)
        return modulated_norm(x, scale, shift, self.norm_eps)
