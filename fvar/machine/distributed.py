"""Several processes as one training run: started by torchrun, or by submitit as SLURM tasks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fvar.errors import RankLost, UserError
from fvar.machine import troubles

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)  # after which a rank gives up waiting for a dead one
TROUBLE = "fvar/trouble"  # key under which a rank says what is wrong with its disk
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
    """Say in a line that another process of this run has ended, in place of what gloo or NCCL says of its sockets.

    Where a disk was what ended it, the same trouble is raised here: it is nothing against the run.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not LOST.search(str(error)):
            raise
        if trouble := _told_trouble():
            raise trouble from error
        raise RankLost(
            f"rank {rank()} lost another of the {world_size()} ranks, whose own output says why it ended; the same "
            "command continues the run"
        ) from error


@contextlib.contextmanager
def telling_of_trouble() -> Iterator[None]:
    """Let the first rank know which trouble with a disk ends this one: through the store in which the ranks met."""
    try:
        yield
    except Exception as error:
        if troubles.passing(error):
            number, name = (error.errno, error.filename) if isinstance(error, OSError) else (None, None)
            words = error.strerror if isinstance(error, OSError) else str(error)
            with contextlib.suppress(RuntimeError):  # the first rank has gone, too
                _store().set(TROUBLE, json.dumps([number, words, name and str(name)]))
        raise


def _told_trouble() -> Exception | None:
    """What another rank said of its end, if it said anything."""
    try:
        if not _store().check([TROUBLE]):
            return None
        number, words, name = json.loads(_store().get(TROUBLE))
    except RuntimeError:
        return None
    return OSError(number, words, name) if number else RuntimeError(words)


def _store() -> Any:
    """Where the ranks met."""
    return dist.distributed_c10d._get_default_store()


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
