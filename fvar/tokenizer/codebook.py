"""The codebook as running means of what is assigned to it (Razavi et al. 2019), with restarts of codes nobody uses.

Codes that fall out of use early never get a gradient or an assignment again: the collapse that users of the original
meet at the small scales. Here a code unused for `dead_after` steps moves onto a vector of the present batch, drawn so
that every scale offers equally many: the few tokens of the coarse scales compete with the many of the fine ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fvar.config import QuantiserConfig
from fvar.machine import distributed


class EmaCodebook(nn.Module):
    """Running statistics of a codebook of V codes with C channels. All ranks must call `update` together."""

    counts: Tensor
    sums: Tensor
    unused: Tensor

    def __init__(self, cfg: QuantiserConfig, channels: int) -> None:
        super().__init__()
        self.decay, self.dead_after = cfg.ema_decay, cfg.dead_after
        self.register_buffer("counts", torch.zeros(cfg.vocab_size))  # running mean of assignments per step
        self.register_buffer("sums", torch.zeros(cfg.vocab_size, channels))  # and of the sum of assigned vectors
        # Steps since the last use; -1: no data seen yet, so the first update seeds every code from its batch.
        self.register_buffer("unused", torch.full((cfg.vocab_size,), -1, dtype=torch.int64))

    @torch.no_grad()
    def update(self, codes: Tensor, indices: list[Tensor], vectors: list[Tensor]) -> None:
        """Move `codes` (V, C) in place after a step.

        Per scale, `indices` (N_k,) names the code each of `vectors` (N_k, C) was given. A batch with a non-finite
        vector, or with none, is ignored.
        """
        index, vector = torch.cat(indices), torch.cat(vectors)
        if not len(index):  # every scale is silent
            return
        batch = torch.zeros(len(codes), 1 + vector.shape[1], device=codes.device)
        batch.index_add_(0, index, torch.cat([torch.ones_like(vector[:, :1]), vector], dim=1))
        distributed.sum_over_ranks(batch)
        if not batch.isfinite().all():
            return
        counts, sums = batch[:, 0], batch[:, 1:]
        seeding = bool((self.unused < 0).any())
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.unused.add_(1).masked_fill_(counts > 0, 0)
        met = self.counts > 0
        codes[met] = self.sums[met] / self.counts[met, None]
        dead = torch.ones_like(met) if seeding else self.unused >= self.dead_after
        if dead.any() and (self.dead_after or seeding):
            self._restart(codes, dead, vectors)

    def _restart(self, codes: Tensor, dead: Tensor, vectors: list[Tensor]) -> None:
        """Put the dead codes onto vectors of this batch, no vector twice unless there are too few."""
        wanted = int(dead.sum())
        chances = torch.cat([torch.full((len(v),), 1 / max(len(v), 1), device=codes.device) for v in vectors])
        chosen = torch.multinomial(chances, wanted, replacement=wanted > len(chances))
        fresh = torch.cat(vectors)[chosen]
        if distributed.rank() > 0:  # all ranks take what rank 0 drew
            fresh = torch.zeros_like(fresh)
        distributed.sum_over_ranks(fresh)
        codes[dead] = fresh
        # As if assigned once in this step: the next real assignments outweigh it.
        self.counts[dead] = 1 - self.decay
        self.sums[dead] = fresh * (1 - self.decay)
        self.unused[dead] = 0
