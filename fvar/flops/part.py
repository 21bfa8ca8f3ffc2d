"""One part of a training, and its cost per image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part of a training, per image: its FLOPs, and the numbers its backward pass keeps in memory."""

    name: str
    parameters: float
    forward: float
    backward: float
    kept: float = 0.0
    recomputed: float = 0.0  # FLOPs of the forward pass that are made again within the backward one

    @property
    def flops(self) -> float:
        return self.forward + self.backward + self.recomputed
