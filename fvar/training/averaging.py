"""Exponential moving average of the trained parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fvar.training import sharding


class AveragedWeights:
    """Averages `a <- decay a + (1 - decay) w` after every step, starting from the initial weights."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.averages = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, wanted: Tensor) -> None:
        """Take the present weights into the average where `wanted` (0-d bool) is true."""
        weight = wanted.float() * (1 - self.decay)
        torch._foreach_lerp_(
            list(self.averages.values()), list(self.parameters.values()), [weight] * len(self.averages)
        )

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Restore averages taken from `averages` earlier."""
        for name, value in averages.items():
            self.averages[name].copy_(sharding.like(value, self.averages[name]))

    @torch.no_grad()
    def adopt(self) -> None:
        """Overwrite the parameters by their averages, for good."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.averages[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters are the averages inside the block, and as before after it."""
        originals = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.adopt()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(originals[name])
