"""Random numbers that belong to images, not to processes.

A step of several ranks or micro-batches computes one global batch in parts. What is drawn for an image here is the same
whichever part it is in, so that the training does not depend on how the batch was cut: every part draws the numbers of
the whole batch, a few per image, from equal generators, and takes its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_part: tuple[int, int] | None = None  # the first image of this part, and images of the whole batch


@contextlib.contextmanager
def part(first: int, whole: int) -> Iterator[None]:
    """Within it `rand` is asked for the images from `first` on of a batch of `whole`, and torch is seeded alike."""
    global _part
    before, _part = _part, (first, whole)
    try:
        yield
    finally:
        _part = before


def rand(count: int, device: torch.device) -> Tensor:
    """(count,) uniform in [0, 1): one number for each of these images, from torch's default generator."""
    if _part is None:
        return torch.rand(count, device=device)
    first, whole = _part
    return torch.rand(whole, device=device)[first : first + count]
