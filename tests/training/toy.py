"""A task small enough to train in a second, with everything a real one has: two phases, buffers, randomness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fvar.config import RuntimeConfig, Stage, TrainConfig, VarConfig
from fvar.machine.seeds import seed_for
from fvar.rundir import RunDir
from fvar.training.task import Metrics, Task


class ToyTask(Task[Tensor]):
    """Regression with dropout, noise in the data, and an adversary that only joins after the fifth step."""

    phase_names = ("generator", "adversary")

    def __init__(self, *, seed: int = 0, dropout: float = 0.3, noise: float = 0.1, poison: range = range(0)) -> None:
        torch.manual_seed(seed_for(seed, "init"))
        self.net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Dropout(dropout), nn.Linear(16, 8))
        self.critic = nn.Linear(8, 1)
        self.statistics = nn.BatchNorm1d(8, affine=False)
        self.noise = noise
        self.poison = poison  # steps whose loss is made NaN
        self.x = torch.randn(37, 8)
        self.y = self.x.roll(1, dims=1).tanh()

    @property
    def size(self) -> int:
        return len(self.x)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def state_modules(self) -> dict[str, nn.Module]:
        return {"net": self.net, "critic": self.critic, "statistics": self.statistics}

    def phases(self, step: int) -> tuple[str, ...]:
        return self.phase_names[: 1 if step < 5 else 2]

    def parameter_groups(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        return list((self.net if phase == "generator" else self.critic).named_parameters())

    def fetch(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        x = self.x[indices]
        return torch.stack([x + self.noise * torch.randn(x.shape, generator=generator), self.y[indices]])

    def loss(self, phase: str, batch: Tensor, step: int) -> tuple[Tensor, Metrics]:
        x, y = batch
        if phase == "adversary":
            return (self.critic(self.net(x).detach()) - self.critic(y)).relu().mean(), {}
        out = self.net(x)
        self.statistics(out.detach())
        error = (out.float() - y).square().mean()
        loss = error + (0.01 * self.critic(out).mean() if step >= 5 else 0.0)
        if step in self.poison:
            loss = loss * float("nan")
        return loss, {"error": error}

    def evaluate(self, step: int) -> dict[str, float]:
        self.net.eval()
        error = (self.net(self.x).float() - self.y).square().mean().item()
        self.net.train()
        return {"error": error}

    def heldout_loss(self, metrics: Mapping[str, float]) -> float:
        return metrics["error"]


def config(**changes: object) -> TrainConfig:
    """A short training."""
    values: dict[str, object] = {"steps": 60, "batch_size": 16, "lr": 0.1, "eval_every": 20, "precision": "fp32"}
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


def run_dir(root: Path, train: TrainConfig, **runtime: object) -> RunDir:
    """A fresh run directory to train in (its stage is never executed, only its loop)."""
    settings: dict[str, object] = {"device": "cpu", "log_every": 3, "checkpoint_steps": 10, **runtime}
    return RunDir.create(root, Stage(VarConfig(train=train)), RuntimeConfig(**settings))  # type: ignore[arg-type]
