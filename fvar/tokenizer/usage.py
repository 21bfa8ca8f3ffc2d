"""How much of a codebook is in use: the share of codes met and the perplexity, per scale and over all scales."""

from __future__ import annotations

import torch
from torch import Tensor


class CodebookUsage:
    """Counts codes per scale over many batches."""

    def __init__(self, patch_nums: tuple[int, ...], vocab_size: int) -> None:
        self.patch_nums = patch_nums
        self.counts = torch.zeros(len(patch_nums), vocab_size, dtype=torch.float64)

    def add(self, indices: list[Tensor]) -> None:
        """Count the tokens of a batch; entry k holds those of scale k, int64, of any shape."""
        for row, index in zip(self.counts, indices, strict=True):
            row += torch.bincount(index.flatten().cpu(), minlength=row.numel())

    def summary(self) -> dict[str, float]:
        """`usage` in [0, 1] and `perplexity` (at most the vocabulary) over all scales, and per scale as `usage/<p_k>`.

        A scale cannot use more codes than it has tokens: its share is of the smaller of the two.
        """
        values = {"usage": _share(self.counts.sum(0)), "perplexity": _perplexity(self.counts.sum(0))}
        for side, row in zip(self.patch_nums, self.counts, strict=True):
            values |= {f"usage/{side}": _share(row), f"perplexity/{side}": _perplexity(row)}
        return values


def _share(counts: Tensor) -> float:
    possible = min(counts.numel(), int(counts.sum()))
    return float((counts > 0).sum() / possible) if possible else 0.0


def _perplexity(counts: Tensor) -> float:
    if not counts.any():
        return 0.0
    p = counts / counts.sum()
    return float(torch.special.entr(p).sum().exp())
