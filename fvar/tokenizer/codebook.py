"""The codebook as running means of what is assigned to it (Razavi et al. 2019), with restarts of codes nobody uses.

Codes that fall out of use early never get a gradient or an assignment again: the collapse that users of the original
meet at the small scales. Here a code unused for `dead_after` steps moves onto a vector of the present batch, drawn so
that every scale offers equally many: the few tokens of the coarse scales compete with the many of the fine ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        sound = batch.isfinite().all()
        counts, sums = torch.where(sound, batch, 0.0).split((1, vector.shape[1]), dim=1)
        seeding = (self.unused < 0).any()
        moved = torch.where(sound, 1 - self.decay, 0.0)
        self.counts.lerp_(counts[:, 0], moved)
        self.sums.lerp_(sums, moved)
        unused = torch.where(counts[:, 0] > 0, 0, self.unused + 1)
        self.unused.copy_(torch.where(sound, unused, self.unused))
        met = sound & (self.counts > 0)
        codes.copy_(torch.where(met[:, None], self.sums / self.counts[:, None], codes))
        dead = seeding | (self.unused >= self.dead_after) if self.dead_after else seeding.expand_as(self.unused)
        self._restart(codes, sound & dead, vectors)

    def _restart(self, codes: Tensor, dead: Tensor, vectors: list[Tensor]) -> None:
        """Put the dead codes (V,) bool onto vectors of this batch, no vector twice unless there are too few.

        It takes the same work whether any is dead or none: to ask would be to wait for the device.
        """
        chances = torch.cat([torch.full((len(v),), 1 / max(len(v), 1), device=codes.device) for v in vectors])
        place = dead.cumsum(0) - 1  # of each dead code among them
        chosen = drawn(chances, len(codes), place[-1] + 1)[place.clamp_min(0)]
        fresh = torch.cat(vectors)[chosen]
        if distributed.rank() > 0:  # all ranks take what rank 0 drew
            fresh = torch.zeros_like(fresh)
        distributed.sum_over_ranks(fresh)
        fresh = fresh.to(codes.dtype)
        codes.copy_(torch.where(dead[:, None], fresh, codes))
        # As if assigned once in this step: the next real assignments outweigh it.
        self.counts.masked_fill_(dead, 1 - self.decay)
        self.sums.copy_(torch.where(dead[:, None], fresh * (1 - self.decay), self.sums))
        self.unused.masked_fill_(dead, 0)


def drawn(chances: Tensor, count: int, wanted: Tensor) -> Tensor:
    """Indices (count,) drawn by their `chances` (N,), of which only the first `wanted` (0-d) are meant.

    None comes twice as long as there are enough. What `torch.multinomial` draws, but without a look at the numbers.
    """
    few = count > len(chances)  # more may be wanted than there are
    again = chances.new_empty(0)
    if few:
        devices = [chances.device] if chances.is_cuda else []
        with torch.random.fork_rng(devices):
            again = torch.multinomial(chances, count, replacement=True)
    keys = chances / torch.empty_like(chances).exponential_()
    once = keys.topk(min(count, len(chances))).indices
    if not few:
        return once
    return torch.where(wanted > len(chances), again, F.pad(once, (0, count - len(once))))
