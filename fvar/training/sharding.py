"""Sharded training (FSDP2): every rank holds its part of the weights, gradients and moments, and gathers what it needs.

Checkpoints and outputs hold whole tensors, so that a run may be continued on another number of ranks, or unsharded.
torch's part of this takes over a second to import, which one process alone never does.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fvar.machine import distributed
from fvar.training.task import Task

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


def shard(task: Task[Any]) -> list[FSDPModule]:
    """Shard a task's networks over all ranks, in place: parameters become DTensors. Empty where it offers no shards.

    Weights stay in float32 and autocast chooses the precision of products, as without shards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of outputs that are views, which an operation in place would spoil. There is none here.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(task.device.type, (distributed.world_size(),))
    return [fully_shard(module, mesh=mesh) for module in task.shards()]


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, sharded ones gathered from all ranks into main memory. All ranks must call it alike.

    Ranks other than the first are given empty tensors in place of what was gathered: only the first writes.
    """
    if distributed.world_size() == 1:
        return dict(tensors)
    from torch.distributed.tensor import DTensor

    return {name: _gathered(value) if isinstance(value, DTensor) else value for name, value in tensors.items()}


def like(value: Tensor, own: Tensor) -> Tensor:
    """`value`, a whole tensor that every rank has read, on the device of `own` and sharded as that is."""
    value = value.to(own.device)
    if distributed.world_size() == 1:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(own, DTensor) or value.shape != own.shape:
        return value
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors, into a module that may be sharded."""
    own = module.state_dict()
    module.load_state_dict({name: like(value, own[name]) if name in own else value for name, value in state.items()})


def _gathered(value: Any) -> Tensor:
    everything: Tensor = value.full_tensor()
    return everything.cpu() if distributed.rank() == 0 else torch.empty(0)
