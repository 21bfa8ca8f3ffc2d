"""What the training loop needs to know about a model: a `Task`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from fvar.training.probes import Probe

Batch = TypeVar("Batch")
Metrics = Mapping[str, Tensor | float]


class Task(ABC, Generic[Batch]):
    """A model with its losses and data, trained by `fvar.training.loop.train`.

    The task puts its modules on the device and in training mode itself, after seeding torch with
    `seed_for(seed, "init")`. It keeps no other state that a resumed run would miss: what has to survive a
    kill lives in `state_modules` (as parameters or buffers), everything else follows from the step number.

    `step` counts completed steps: the first one runs as step 0.
    """

    phase_names: tuple[str, ...] = ("train",)  # every phase that `phases` may ever return; each gets its own optimiser
    flops_per_item: float = 0.0  # of one training step per item, for the utilisation figure; 0: not known
    tokens_per_item: int = 0  # for the tokens/s figure; 0: none
    random_by_image = False  # whether `loss` draws by `fvar.machine.per_image` alone: ranks are then seeded alike
    probe: Probe | None = None  # what is measured beside the training

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of training items; the loop draws indices in [0, size)."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the modules are."""

    @abstractmethod
    def state_modules(self) -> dict[str, nn.Module]:
        """Everything checkpointed, by a name usable as a file name."""

    @abstractmethod
    def parameter_groups(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        """The parameters that a phase's optimiser owns, by a stable name that decides about weight decay (see optim).

        A name may begin with a network and a slash, as in `teacher/head.weight`: the gradients of each network are
        clipped by themselves, so that one does not slow the other down.
        """

    @abstractmethod
    def fetch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Load the items `indices` (n,) int64. Runs one step ahead in a thread; random choices only from `generator`.

        A task whose loss reads its items itself may return `indices`.
        """

    @abstractmethod
    def loss(self, phase: str, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """The scalar to minimise (a mean over the items) and what to log; runs under the loop's autocast.

        The phases of a step see the same batch one after another: what one makes for those after it, or for
        `after_step`, it leaves in the batch.
        """

    def phases(self, step: int) -> tuple[str, ...]:
        """Which phases this step runs, in order; one backward and one optimiser step each."""
        return self.phase_names

    def after_step(self, step: int, batches: Sequence[Batch]) -> None:
        """Updates without a gradient, such as codebook statistics, from the step just made and this rank's batches."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Held-out metrics, in evaluation mode without gradients, the same on every rank. Leaves training mode on."""
        return {}

    def heldout_loss(self, metrics: Mapping[str, float]) -> float | None:
        """By which of `evaluate`'s metrics the best checkpoint is chosen: the lowest. None: none is better."""
        return None

    def shards(self) -> list[nn.Module]:
        """What to shard under `runtime.parallel` fsdp: modules that are only used by calling them, inner ones first.

        Empty: the task is replicated on every rank (DDP).
        """
        return []

    def compile(self) -> None:
        """Compile what is worth compiling, in place (state-dict keys must stay)."""
        for module in self.state_modules().values():
            module.compile()
