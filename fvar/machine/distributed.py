"""Several processes as one training run: started by torchrun, or by submitit as SLURM tasks."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fvar.errors import RankLost, UserError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)  # after which a rank gives up waiting for a dead one
# What torch's backends say when a peer is gone.
LOST = re.compile(
    r"closed by peer|reset by peer|refused|broken pipe|timed out|timeout|socket|remote process", re.IGNORECASE
)


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them; 0 writes the run directory."""
    return dist.get_rank() if dist.is_initialized() else 0


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is this process's GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"runtime.device {name!r} is not a device torch knows; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device is cuda, but torch sees no GPU here; use auto or cpu")
    if name == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return device


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes, if torchrun or submitit started several; leave them at the end."""
    _adopt_slurm_environment()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Tensors in main memory go through gloo, so that what ranks tell each other need not wait for their GPUs.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def blaming_lost_ranks() -> Iterator[None]:
    """Say in a line that another process of this run has ended, in place of what gloo or NCCL says of its sockets."""
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not LOST.search(str(error)):
            raise
        raise RankLost(
            f"rank {rank()} lost another of the {world_size()} ranks, whose own output says why it ended; the same "
            "command continues the run"
        ) from error


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes (the tensor itself if there is one process)."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def any_rank(*flags: bool) -> list[bool]:
    """Of each flag, whether it is set on one of the processes at least."""
    if world_size() == 1:
        return list(flags)
    counts: list[int] = sum_over_ranks(torch.tensor(flags, dtype=torch.int64)).tolist()
    return [count > 0 for count in counts]


def from_first(value: T) -> T:
    """What rank 0 passed, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


@contextlib.contextmanager
def first_rank_first() -> Iterator[None]:
    """Rank 0 goes through the block before the others enter it; all leave it together."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()
    barrier()


def _adopt_slurm_environment() -> None:
    """Give submitit's tasks the variables torchrun would have set."""
    if "WORLD_SIZE" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) == 1 or "SLURM_PROCID" not in os.environ:
        return
    import submitit

    submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    try:
        socket.getaddrinfo(os.environ["MASTER_ADDR"], None)
    except OSError:
        # A node's name need not be a host's. The address srun was started from is the first node's, in a batch job.
        os.environ["MASTER_ADDR"] = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", os.environ["MASTER_ADDR"])
