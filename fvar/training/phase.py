"""One optimisation phase of a task: forward, backward over micro-batches, clip, step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, cast

import torch
from torch import Tensor, nn

from fvar.config import TrainConfig
from fvar.errors import UserError
from fvar.machine import distributed, heap, per_image
from fvar.machine.precision import computed, dtype_of
from fvar.training import optim
from fvar.training.data_feed import MicroBatch
from fvar.training.task import Batch, Metrics, Task

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


class Phase(Generic[Batch]):
    """The parameters one loss trains, with their optimiser and, among several ranks, their gradient exchange."""

    def __init__(self, name: str, task: Task[Batch], config: TrainConfig, shards: Sequence[FSDPModule] = ()) -> None:
        self.name, self.config, self.device, self.shards = name, config, task.device, shards
        self.by_image = task.random_by_image
        self.named = task.parameter_groups(name)
        self.parameters = [parameter for _, parameter in self.named]
        if not self.parameters:
            raise ValueError(f"phase {name!r} has no parameters to train")
        self.networks: dict[str, list[nn.Parameter]] = {}
        for path, parameter in self.named:
            self.networks.setdefault(path.rpartition("/")[0], []).append(parameter)
        if shards and config.optimiser == "muon":
            raise UserError("train.optimiser muon needs whole matrices; set runtime.parallel to ddp")
        self.optimiser = optim.make(self.named, config)
        heap.trim_in_backward(self.parameters)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.objective: nn.Module = _Objective(name, task, self.parameters)
        if distributed.world_size() > 1 and not shards:
            devices = [self.device] if self.device.type == "cuda" else None
            self.objective = nn.parallel.DistributedDataParallel(
                self.objective, device_ids=devices, gradient_as_bucket_view=True
            )

    def backward(self, micro_batches: Sequence[MicroBatch[Batch]], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Accumulate the gradients of the global batch; the loss and the metrics, averaged over it and over ranks.

        Each micro-batch counts by its share of the global batch, so the gradient does not depend on how many ranks or
        micro-batches the batch was cut into. A loss that is not finite makes all of the gradient NaN.
        """
        totals: dict[str, Tensor] = {}
        ranks = distributed.world_size()
        for number, micro in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            with self._exchange(last), self._drawing(micro, last):
                with self.autocast():
                    loss, metrics = self.objective(micro.batch, step)
                sound = torch.where(loss.detach().isfinite(), 1.0, torch.nan)
                # DDP and FSDP average gradients over ranks, hence the factor.
                self.scaler.scale(loss * (micro.share * ranks) * sound).backward()
            for key, value in {"loss": loss, **metrics}.items():
                measured = value if isinstance(value, Tensor) else torch.full((), value, device=self.device)
                part = measured.detach().float() * micro.share
                totals[key] = totals[key] + part if key in totals else part
        summed = distributed.sum_over_ranks(torch.stack(list(totals.values())))
        averages = dict(zip(totals, summed.unbind(), strict=True))
        return averages.pop("loss"), averages

    def clip(self) -> dict[str, Tensor]:
        """Scale each network's gradients down to the norm `clip` where they exceed it; the norms before (0-d)."""
        self.scaler.unscale_(self.optimiser)
        limit = self.config.clip or float("inf")
        norms = {network: nn.utils.clip_grad_norm_(own, limit) for network, own in self.networks.items()}
        if self.shards:
            norms = {name: cast("DTensor", norm).full_tensor() for name, norm in norms.items()}
        return norms

    def finite(self, loss: Tensor, norms: Mapping[str, Tensor]) -> Tensor:
        """Whether the step can be taken (0-d bool, on the device).

        Under fp16 the loss alone decides: the scaler expects gradients to overflow, leaves such steps out by itself and
        lowers its scale.
        """
        if self.scaler.is_enabled():
            return loss.isfinite()
        return loss.isfinite() & torch.stack(list(norms.values())).max().isfinite()

    def apply(self, lr: float, finite: Tensor) -> None:
        """Take the optimiser's step, unless `finite` (0-d bool) says no; the device decides, nobody waits for it."""
        optim.set_lr(self.optimiser, lr)
        if self.scaler.is_enabled():  # finds in the gradient what `finite` says of the loss
            self.scaler.step(self.optimiser)
            self.scaler.update()
        else:
            optim.step_where(self.optimiser, finite)

    def autocast(self) -> torch.autocast:
        """The configured mixed precision, as far as the device has kernels of it."""
        precision = computed(self.config.precision, self.device)
        mixed = precision != "fp32"
        return torch.autocast(self.device.type, dtype=dtype_of(precision) if mixed else None, enabled=mixed)

    @contextlib.contextmanager
    def _drawing(self, micro: MicroBatch[Batch], last: bool) -> Iterator[None]:
        """Give the images of a micro-batch their own random numbers; the next one starts from the same generator."""
        if not self.by_image:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        rewound = contextlib.nullcontext() if last else torch.random.fork_rng(devices)
        with rewound, per_image.part(micro.places.start, micro.whole):
            yield

    def _exchange(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Ranks exchange gradients once, in the backward pass of the last micro-batch."""
        for module in self.shards:
            module.set_requires_gradient_sync(last, recurse=False)
        if isinstance(self.objective, nn.parallel.DistributedDataParallel) and not last:
            return self.objective.no_sync()
        return contextlib.nullcontext()


class _Objective(nn.Module):
    """A task's loss as a module that owns exactly the phase's parameters, and no buffers: what DDP wants to wrap."""

    def __init__(self, phase: str, task: Task[Any], parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.phase, self.task = phase, task
        self.owned = nn.ParameterList(parameters)

    def forward(self, batch: Any, step: int) -> tuple[Tensor, Metrics]:
        return self.task.loss(self.phase, batch, step)
