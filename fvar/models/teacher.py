"""The high-frequency residual teacher: the deployment network plus Alias-Gate Cross-Attention in its last blocks.

With X_L (B, L, C) what a block's mixers leave to its feed-forward (Eq. 9) and E_a the alias embedding, Eq. 10 and 11:

    Z = X_L + alpha * Attn(X_L W_Q, E_a(a) W_K, E_a(a) W_V) W_O,    alpha = sigmoid(X_L W_Q W_alpha + b) in [0, 1]^C

Z then goes on through the block's feed-forward as X_L would. With alpha = 0 the teacher is the deployment network.
X_L enters W_Q after the trunk's weightless layer norm, since its size grows with the depth. The gate reads the queries,
so that a full C x C matrix for it does not double the cost of the whole.
The teacher exists while training only. It draws no random numbers (no drop path), so it leaves the student's alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fvar.config import TeacherConfig, TransformerConfig
from fvar.models.attention import scale_ends
from fvar.models.blocks import Block
from fvar.models.gradients import prefixes
from fvar.models.var import VAR, Trunk, VarOutput, initialise_blocks, remember_or_recompute


class AliasEmbedding(nn.Module):
    """E_a: code, scale and position of the alias tokens, as wide as one cross-attention."""

    def __init__(self, vocab_size: int, dim: int, patch_nums: Sequence[int], silent: Collection[int] = ()) -> None:
        super().__init__()
        self.patch_nums = tuple(patch_nums)
        self.heard = [k for k in range(len(self.patch_nums)) if k not in silent]
        self.code = nn.Embedding(vocab_size, dim)
        self.scale = nn.Embedding(len(self.patch_nums), dim)
        self.position = nn.Parameter(torch.empty(1, sum(self.patch_nums[k] ** 2 for k in self.heard), dim))
        for table in (self.code.weight, self.scale.weight, self.position):
            nn.init.trunc_normal_(table, std=0.5)

    def forward(self, indices: Sequence[Tensor]) -> Tensor:
        """Embed alias tokens, one (B, p_k^2) int64 tensor per scale, as (B, L_A, D): those of the scales heard."""
        found = [tokens.shape[1] for tokens in indices]
        if found != [p * p for p in self.patch_nums]:
            raise ValueError(f"alias tokens must number {[p * p for p in self.patch_nums]} per scale, found {found}")
        if not self.heard:
            return self.position.expand(len(indices[0]), -1, -1)
        levels = [self.scale.weight[k].expand(self.patch_nums[k] ** 2, -1) for k in self.heard]
        embedded: Tensor = self.code(torch.cat([indices[k] for k in self.heard], dim=1)) + torch.cat(levels)
        return embedded + self.position


class AliasGateCrossAttention(nn.Module):
    """alpha * Attn(X_L W_Q, E_a W_K, E_a W_V) W_O: few narrow heads (Eq. 10) and a gate per channel (Eq. 11).

    Queries of scale k see the alias tokens of scales <= k ("own") or < k ("before"), but for `silent` ones. Each scale
    attends to that prefix only, so there is no mask. Queries that see no alias token, or lie outside the last
    `last_scales`, receive zero.
    """

    def __init__(
        self, dim: int, cfg: TeacherConfig, scale_ends: Sequence[int], norm_eps: float, silent: Collection[int] = ()
    ) -> None:
        super().__init__()
        inner = cfg.heads * cfg.head_dim
        self.heads = cfg.heads
        self.norm_eps = norm_eps
        self.query = nn.Linear(dim, inner, bias=False)
        self.key = nn.Linear(inner, inner, bias=False)
        self.value = nn.Linear(inner, inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False)
        self.gate = nn.Linear(inner, dim) if cfg.gate == "sigmoid" else None
        for linear in (self.query, self.key, self.value):
            nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)  # unit variance in, unit variance out
        small = math.sqrt(1 / (3 * dim))  # as the trunk's layers: the added term starts no larger than X_L
        nn.init.trunc_normal_(self.out.weight, std=small)
        if self.gate is not None:
            nn.init.trunc_normal_(self.gate.weight, std=small)
            nn.init.constant_(self.gate.bias, cfg.gate_bias)

        ranges = list(pairwise((0, *scale_ends)))
        first = len(ranges) - cfg.last_scales if cfg.last_scales else 0
        heard = [0 if k in silent else end - start for k, (start, end) in enumerate(ranges)]
        upto = list(accumulate(heard)) if cfg.visibility == "own" else [0, *accumulate(heard[:-1])]
        # (start, end, visible): queries start ... end see the first `visible` of the alias tokens
        spans = [(start, end, seen) for (start, end), seen in zip(ranges, upto, strict=True)][max(first, 0) :]
        self.spans = [span for span in spans if span[2] > 0]

    def forward(self, x: Tensor, alias: Tensor) -> Tensor:
        """The term added to X_L: x (B, L, C), alias (B, L_A, D) -> (B, L, C)."""
        if not self.spans:
            return torch.zeros_like(x)
        begin = self.spans[0][0]  # the spans are the tail of the sequence
        normed = F.layer_norm(x[:, begin:], x.shape[-1:], eps=self.norm_eps)
        queries = self.query(normed)
        q, k, v = (self._split(t) for t in (queries, self.key(alias), self.value(alias)))
        scales = q.split([end - start for start, end, _ in self.spans], dim=2)
        seen = [seen for _, _, seen in self.spans]
        parts = map(F.scaled_dot_product_attention, scales, prefixes(k, seen), prefixes(v, seen))
        added: Tensor = self.out(torch.cat(list(parts), dim=2).transpose(1, 2).flatten(2))
        if self.gate is not None:
            added = added * torch.sigmoid(self.gate(queries))
        return F.pad(added, (0, 0, begin, 0))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, H, n, D / H)


class Teacher(nn.Module):
    """Deployment network plus AG-XAttn, with parameters of its own.

    Trunk "separate": a whole second VAR. Trunk "shared": the student's embeddings, first blocks and classifier, read as
    constants (detached), and last `blocks` blocks of its own. So in both cases the teacher's cross-entropy trains
    exactly this module's parameters, never the student's, and the student's losses never train these.

    `network` is what the deployment network has too, a VAR or the last blocks of one; `alias` and `cross` are AG-XAttn.
    With `teacher.alias` "none" there is none of that: the teacher is a second deployment network (self-distillation).

    Alias tokens of the scales that are `silent` (from 0) stand for nothing and are not read.

    Raises ValueError where `teacher.blocks` or `teacher.last_scales` exceeds what the network has.
    """

    network: VAR | nn.ModuleList

    def __init__(
        self,
        cfg: TransformerConfig,
        teacher: TeacherConfig,
        num_classes: int,
        vocab_size: int,
        z_channels: int,
        patch_nums: Sequence[int],
        alias_vocab_size: int,
        silent: Collection[int] = (),
    ) -> None:
        super().__init__()
        if teacher.blocks > cfg.depth:
            raise ValueError(f"teacher.blocks must be at most the depth {cfg.depth}, found {teacher.blocks}")
        if not 0 <= teacher.last_scales <= len(patch_nums):
            raise ValueError(f"teacher.last_scales must be 0 to {len(patch_nums)}, found {teacher.last_scales}")
        self.cfg = dataclasses.replace(cfg, drop_path=0.0)
        self.scale_ends = scale_ends(patch_nums)
        if teacher.trunk == "shared":
            self.network = nn.ModuleList(Block(self.cfg, patch_nums, drop_path=0.0) for _ in range(teacher.blocks))
            initialise_blocks(self.layers, self.cfg)
        else:
            self.network = VAR(self.cfg, num_classes, vocab_size, z_channels, patch_nums)
        self.own = teacher.blocks  # last blocks with AG-XAttn, which it shares with no student
        self.alias: AliasEmbedding | None = None
        self.cross = nn.ModuleList()
        if teacher.reads_alias:
            self.alias = AliasEmbedding(alias_vocab_size, teacher.heads * teacher.head_dim, patch_nums, silent)
            self.cross.extend(
                AliasGateCrossAttention(cfg.dim, teacher, self.scale_ends, cfg.norm_eps, silent)
                for _ in range(teacher.blocks)
            )

    @property
    def layers(self) -> list[Block]:
        """Its own blocks, typed."""
        return cast("list[Block]", list(self.network.blocks if isinstance(self.network, VAR) else self.network))

    @property
    def trunk_before(self) -> int:
        """What to pass to the student's forward: how many last blocks are the teacher's own; 0 where it shares none."""
        return 0 if isinstance(self.network, VAR) else self.own

    def copy_deployment(self, student: VAR) -> None:
        """Start from the student's weights, so that features of both are comparable from the first step."""
        if isinstance(self.network, VAR):
            self.network.load_state_dict(student.state_dict())
            return
        for mine, theirs in zip(self.layers, student.layers[-len(self.layers) :], strict=True):
            mine.load_state_dict(theirs.state_dict())

    def forward(
        self,
        labels: Tensor,
        var_input: Tensor,
        alias_indices: Sequence[Tensor],
        *,
        features: int = 0,
        trunk: Trunk | None = None,
    ) -> VarOutput:
        """Logits of every structure token given coarser structure and visible alias tokens.

        Parameters
        ----------
        labels
            (B,), dropped already: the same the student got.
        var_input
            (B, L - n_1, Cz), as the student's.
        alias_indices
            Per scale (B, p_k^2) int64; not looked at without AG-XAttn.
        features
            How many of the last blocks' outputs to return; at most `blocks` where the trunk is shared.
        trunk
            Of the student's output for these inputs, asked for with `trunk_before`; only where it is shared.
        """
        own = self.own
        outputs = []
        classify: Callable[[Tensor, Tensor], Tensor]
        if isinstance(self.network, VAR):
            x, condition = self.network.embed(labels, var_input)
            modulating, classify = self.network.modulating(condition), self.network.classify
            for block in self.layers[:-own]:
                x = self.network.run_block(block, x, modulating)
                outputs.append(x)
        elif trunk is None or features > own:
            raise ValueError(f"a shared trunk needs the student's trunk, and at most {own} features, found {features}")
        else:
            x, condition, modulating = (t.detach() for t in (trunk.hidden, trunk.condition, trunk.modulating))
            classify = trunk.classify
        alias = [] if self.alias is None else [self.alias(alias_indices)]
        for number, block in enumerate(self.layers[-own:]):
            x = self._run_block(block, self.cross[number] if alias else None, x, modulating, *alias)
            outputs.append(x)
        return VarOutput(classify(x, condition), outputs[len(outputs) - features :])

    def _run_block(self, block: Block, cross: nn.Module | None, x: Tensor, *others: Tensor) -> Tensor:
        """A block whose feed-forward reads Z (Eq. 10, 11) in place of X_L. `others`: modulating; alias with `cross`."""

        def apply(x: Tensor, modulating: Tensor, *alias: Tensor) -> Tensor:
            modulation = block.modulate(modulating)
            x = block.mix(x, modulation)  # X_L, Eq. 9
            return block.feed_forward(x if cross is None else x + cross(x, *alias), modulation)

        return remember_or_recompute(apply, x, *others, recompute=self.cfg.checkpointing)
