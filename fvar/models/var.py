"""VAR, the deployment network: a transformer that predicts one token map after another, coarse to fine.

State-dict keys and shapes are those of the original (FoundationVision/VAR) or, where the blocks are M-VAR's, of M-VAR's
code (OliverRensu/MVAR): their checkpoints load strictly and ours load there. In this file B is the batch, K the number
of scales, p_k the side of scale k's token map, n_k = p_k^2, L = sum of n_k, C the width, Cz the channels of the
tokenizer's latent and V its vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from fvar.config import TransformerConfig
from fvar.machine import per_image
from fvar.models.attention import scale_ends
from fvar.models.blocks import Block, Head, Modulation


@dataclass
class Trunk:
    """What a teacher shares: `hidden` (B, L, C), which enters the last blocks, the class embedding `condition` (B, C),
    `modulating` (see `VAR.modulating`), and the student's classifier as a constant."""

    hidden: Tensor
    condition: Tensor
    modulating: Tensor
    classify: Callable[[Tensor, Tensor], Tensor]


@dataclass
class VarOutput:
    """`logits` (B, L, V); `features`: the last blocks' outputs (B, L, C), in order; `trunk` where it was asked for."""

    logits: Tensor
    features: list[Tensor] = field(default_factory=list)
    trunk: Trunk | None = None
    _log_probs: Tensor | None = field(default=None, init=False)

    @property
    def log_probs(self) -> Tensor:
        """ln p of every token (B, L, V), float32; computed once for all losses.

        Not a `functools.cached_property`: before Python 3.12 its lock would break the graph of torch.compile.
        """
        if self._log_probs is None:
            self._log_probs = self.logits.float().log_softmax(-1)
        return self._log_probs


class VAR(nn.Module):
    """Class-conditional transformer over the token maps of `patch_nums`.

    Parameters
    ----------
    cfg
        Depth, width, heads, regularisation.
    num_classes
        Labels are 0 ... num_classes - 1; `num_classes` itself means "unconditional".
    vocab_size
        V, the tokenizer's codebook.
    z_channels
        Cz.
    patch_nums
        Sides p_k, coarse to fine.
    """

    lvl_1L: Tensor
    attn_bias_for_masking: Tensor

    def __init__(
        self, cfg: TransformerConfig, num_classes: int, vocab_size: int, z_channels: int, patch_nums: Sequence[int]
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.vocab_size = vocab_size
        self.num_classes = num_classes
        self.z_channels = z_channels
        self.patch_nums = tuple(patch_nums)
        self.scale_ends = scale_ends(patch_nums)
        first, length, dim = self.scale_ends[0], self.scale_ends[-1], cfg.dim

        rates = [cfg.drop_path_peak * i / max(cfg.depth - 1, 1) for i in range(cfg.depth)]
        self.blocks = nn.ModuleList(Block(cfg, self.patch_nums, rate) for rate in rates)
        self.head_nm = Head(dim, cfg.norm_eps)
        self.head = nn.Linear(dim, vocab_size)
        if cfg.shared_aln:
            self.shared_ada_lin = Modulation(dim, 3 * len(cfg.residuals))
        self.word_embed = nn.Linear(z_channels, dim)
        self.class_emb = nn.Embedding(num_classes + 1, dim)
        self.pos_start = nn.Parameter(torch.empty(1, first, dim))
        self.pos_1LC = nn.Parameter(torch.empty(1, length, dim))
        self.lvl_embed = nn.Embedding(len(self.patch_nums), dim)

        sizes = torch.tensor([p * p for p in self.patch_nums])
        level = torch.repeat_interleave(torch.arange(len(sizes)), sizes, output_size=length)
        self.register_buffer("lvl_1L", level[None])
        # Attention needs no mask; this one is here because the originals' checkpoints carry it.
        prefix = "prefix_attention" in cfg.residuals
        seen = level[:, None] >= level[None, :] if prefix else level[:, None] == level[None, :]
        self.register_buffer("attn_bias_for_masking", torch.where(seen, 0.0, -torch.inf)[None, None])
        self._initialise()

    def _initialise(self) -> None:
        """VAR's initial values; see `initialise_blocks` for those of the blocks."""
        std = initial_std(self.cfg)
        initialise_blocks(self.layers, self.cfg)
        shared = [self.shared_ada_lin] if self.cfg.shared_aln else []
        for part in (self.head_nm, self.head, *shared, self.word_embed, self.class_emb, self.lvl_embed):
            draw(part, std)
        for table in (self.pos_start, self.pos_1LC):
            nn.init.trunc_normal_(table, std=std)
        with torch.no_grad():
            self.head.weight.mul_(0.02)
            self.head_nm.ada_lin.linear.weight.mul_(0.5)

    @property
    def layers(self) -> list[Block]:
        """The blocks, typed."""
        return cast("list[Block]", list(self.blocks))

    # -------------------------------------------------------------------------------------------------------- training

    def drop_labels(self, labels: Tensor) -> Tensor:
        """Replace a random share `cfg.label_drop` of the labels (B,) by "unconditional".

        Call it once per step while training and give student and teacher the same result: `forward` drops none itself.
        """
        drawn = per_image.rand(len(labels), labels.device)
        return torch.where(drawn < self.cfg.label_drop, self.num_classes, labels)

    def forward(self, labels: Tensor, var_input: Tensor, *, features: int = 0, trunk_before: int = 0) -> VarOutput:
        """Logits of every token given all coarser scales (teacher forcing).

        Parameters
        ----------
        labels
            (B,) classes, or `num_classes` for "unconditional".
        var_input
            (B, L - n_1, Cz), the input of scales 2 ... K (`VQVAE.var_input`).
        features
            How many of the last blocks' outputs to return.
        trunk_before
            Return what enters that many last blocks, for a teacher that shares this trunk.
        """
        x, condition = self.embed(labels, var_input)
        modulating = self.modulating(condition)
        trunk, outputs = None, []
        for index, block in enumerate(self.layers):
            if trunk_before == len(self.blocks) - index:
                trunk = Trunk(x, condition, modulating, self.classify_as_constant)
            x = self.run_block(block, x, modulating)
            if index >= len(self.blocks) - features:
                outputs.append(x)
        return VarOutput(self.classify(x, condition), outputs, trunk)

    def embed(self, labels: Tensor, var_input: Tensor) -> tuple[Tensor, Tensor]:
        """The transformer's input (B, L, C) and the class embedding (B, C)."""
        condition = self.class_emb(labels)
        first = condition[:, None] + self.pos_start
        x = torch.cat((first, self.word_embed(var_input).to(first.dtype)), dim=1)
        return x + self.position(), condition

    def modulating(self, condition: Tensor) -> Tensor:
        """What the blocks make their modulations of: `condition` (B, C), or the shared modulations (M, B, 1, C)."""
        made: Tensor = self.shared_ada_lin(condition) if self.cfg.shared_aln else condition
        return made

    def run_block(self, block: Block, x: Tensor, modulating: Tensor) -> Tensor:
        """One of the blocks on x (B, L, C)."""

        def apply(x: Tensor, modulating: Tensor) -> Tensor:
            out: Tensor = block(x, block.modulate(modulating))
            return out

        return remember_or_recompute(apply, x, modulating, recompute=self.cfg.checkpointing)

    def classify(self, x: Tensor, condition: Tensor) -> Tensor:
        """Logits (B, n, V) of the last block's output (B, n, C)."""
        logits: Tensor = self.head(self.head_nm(x, condition))
        return logits

    def classify_as_constant(self, x: Tensor, condition: Tensor) -> Tensor:
        """The same, but no gradient reaches the classifier's weights."""
        for module, inputs in ((self.head_nm, (condition,)), (self.head, ())):
            weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
            x = functional_call(module, weights, (x, *inputs))
        return x

    def position(self) -> Tensor:
        """Level plus position embedding (1, L, C)."""
        level: Tensor = self.lvl_embed(self.lvl_1L)
        return level + self.pos_1LC


def remember_or_recompute(apply: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """`apply(*inputs)`; `recompute` trades its activations for a second forward pass within the backward one."""
    if recompute and torch.is_grad_enabled():
        out: Tensor = checkpoint(apply, *inputs, use_reentrant=False)
        return out
    return apply(*inputs)


class ScaleByScale:
    """Runs a VAR one scale at a time for sampling, remembering what its mixers need and all that the class decides."""

    def __init__(self, var: VAR, labels: Tensor) -> None:
        self.var = var
        self.scale = 0
        self.condition: Tensor = var.class_emb(labels)  # (B, C)
        modulating = var.modulating(self.condition)
        self.modulations = [block.modulate(modulating) for block in var.layers]
        self.position = var.position()
        self.caches = [block.new_caches(len(labels), self.condition) for block in var.layers]

    def logits(self, next_map: Tensor | None) -> Tensor:
        """Logits (B, n_k, V) of the next scale k.

        `next_map` (B, Cz, p_k, p_k) is that scale's input, None for the first.
        """
        var, end = self.var, self.var.scale_ends[self.scale]
        if next_map is None:
            x = self.condition[:, None] + var.pos_start
        else:
            x = var.word_embed(next_map.flatten(2).transpose(1, 2).to(self.condition.dtype))
        x = x + self.position[:, end - x.shape[1] : end]
        for block, modulation, caches in zip(var.layers, self.modulations, self.caches, strict=True):
            x = block(x, modulation, caches)
        self.scale += 1
        return var.classify(x, self.condition)


def initial_std(cfg: TransformerConfig) -> float:
    """sqrt(1 / 3C): of VAR's initial weights, unless said otherwise."""
    return math.sqrt(1 / (3 * cfg.dim))


def draw(module: nn.Module, std: float) -> None:
    """Truncated normals for the weights of all linear layers and embeddings, zeros for the biases.

    Those of convolutions are of width 0.02, whatever `std`, as in M-VAR's code.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding, nn.Conv1d)):
            nn.init.trunc_normal_(part.weight, std=0.02 if isinstance(part, nn.Conv1d) else std)
        if isinstance(part, (nn.Linear, nn.Conv1d)) and part.bias is not None:
            nn.init.zeros_(part.bias)


def initialise_blocks(blocks: Sequence[Block], cfg: TransformerConfig) -> None:
    """VAR's initial values of some of its blocks.

    At the start the residual branches are nearly closed: what makes gamma of the modulations is `gamma_factor` of the
    rest. Of M-VAR's three gammas that holds for the first two, as in its code (see READINGS.md).
    """
    c, count = cfg.dim, 3 * len(cfg.residuals)
    for block in blocks:
        draw(block, initial_std(cfg))
        with torch.no_grad():
            block.attn.proj.weight.div_(math.sqrt(2 * cfg.depth))
            block.ffn.fc2.weight.div_(math.sqrt(2 * cfg.depth))
            if cfg.shared_aln:
                made = block.ada_gss.view(count * c, 1).normal_(std=c**-0.5)
            else:
                made = block.ada_lin.linear.weight
            made.mul_(0.5)
            made[: 2 * c].mul_(cfg.gamma_factor)
