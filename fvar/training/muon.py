"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024).

AdamW scales each number of a gradient by itself; a matrix whose gradient is dominated by a few directions then moves in
these alone. Muon replaces the momentum M = U S V^T of a matrix by U V^T, so that all directions move alike. Networks
trained for a few hundred steps learn in half of them what AdamW teaches; see `studies/presets.py`, which uses it where
a demo has minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

MOMENTUM = 0.95  # Jordan et al.; with Nesterov's look ahead
RMS = 0.2  # of an update at a rate of 1: about AdamW's, so that one rate serves both (Liu et al. 2025)
ITERATIONS = 3  # Jordan et al.: 5, for networks in which the product costs nothing beside the step
QUINTIC = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al.: X <- a X + (b X X^T + c (X X^T)^2) X


class Muon(torch.optim.AdamW):
    """Muon for `matrices`, fused AdamW for the rest.

    Kernels (O, I, h, w) of convolutions are matrices (O, I h w). Both kinds of parameters follow one learning rate, and
    decay alike.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        rest: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        group = {"params": list(matrices), "weight_decay": weight_decay, "muon": True}
        others = [{**other, "muon": False} for other in rest]
        super().__init__([group, *others], lr=lr, betas=betas, fused=True)

    @overload
    def step(self, closure: None = ...) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient, unless `found_inf` says no. A matrix's gradient is then gone."""
        for group in self.param_groups:
            if group["muon"]:
                self._step_of_matrices(group)
        return super().step(closure)  # passes over what has no gradient

    def _step_of_matrices(self, group: dict[str, Any]) -> None:
        found_inf: Tensor | None = getattr(self, "found_inf", None)  # see `optim.step_where`
        left_out = found_inf > 0 if found_inf is not None else torch.tensor(False)
        alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            state = self.state[matrix]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(matrix)
            gradient = torch.where(left_out, 0.0, matrix.grad)
            state["momentum"].lerp_(gradient, torch.where(left_out, 0.0, 1 - MOMENTUM))
            ahead = gradient.lerp(state["momentum"], MOMENTUM).flatten(1)
            alike.setdefault(ahead.shape, []).append((matrix, ahead))
            matrix.grad = None
        for shape, members in alike.items():
            updates = orthogonalised(torch.stack([ahead for _, ahead in members]))
            for (matrix, _), update in zip(members, updates, strict=True):
                matrix.mul_(torch.where(left_out, 1.0, 1 - group["lr"] * group["weight_decay"]))
                step = torch.where(left_out, 0.0, update.view_as(matrix))
                matrix.add_(step, alpha=-group["lr"] * RMS * max(shape) ** 0.5)


def orthogonalised(matrices: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Of each matrix (N, a, b) = U S V^T about U V^T, its singular values brought towards 1 by Newton-Schulz."""
    a, b, c = QUINTIC
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
