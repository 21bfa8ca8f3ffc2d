"""Which items a step trains on: pure functions of the seed and the step number.

Nothing here has state, so a resumed run needs only the step, and the order does not depend on the number of ranks.
"""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from fvar.machine.seeds import seed_for


def global_batch(size: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Item indices (batch_size,) int64 of step `step` over all ranks.

    The stream is one seeded permutation of the `size` items per epoch, epoch after epoch; batches run over the seam.
    """
    if size < 1:
        raise ValueError("the data set has no training item to draw from")
    parts, position, missing = [], step * batch_size, batch_size
    while missing:
        epoch, offset = divmod(position, size)
        parts.append(_permutation(size, seed, epoch)[offset : offset + missing])
        position, missing = position + len(parts[-1]), missing - len(parts[-1])
    return torch.cat(parts)


def split_batch(batch_size: int, world_size: int, rank: int, accumulate: int) -> list[range]:
    """This rank's micro-batches, as places in the global batch: over all ranks every place once, in order."""
    return _cut(_cut(range(batch_size), world_size)[rank], accumulate)


def _cut(places: range, parts: int) -> list[range]:
    """Even parts, the longer ones first."""
    size, longer = divmod(len(places), parts)
    starts = [number * size + min(number, longer) for number in range(parts + 1)]
    return [places[a:b] for a, b in itertools.pairwise(starts)]


@functools.lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed_for(seed, "epoch", epoch)))
