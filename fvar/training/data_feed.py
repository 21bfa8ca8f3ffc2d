"""Loads the next step's items in a thread while the present step computes."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from fvar.config import TrainConfig
from fvar.machine import distributed
from fvar.machine.seeds import seed_for
from fvar.training import data_order
from fvar.training.task import Batch, Task


@dataclass(frozen=True)
class MicroBatch(Generic[Batch]):
    """A part of the global batch: its items and their places in it."""

    batch: Batch
    places: range
    whole: int  # items of the global batch, over all ranks

    @property
    def share(self) -> float:
        """How much of the global batch this is."""
        return len(self.places) / self.whole


@dataclass(frozen=True)
class StepData(Generic[Batch]):
    """What one rank trains on in one step."""

    items: Tensor  # (batch_size,) indices of the global batch, over all ranks
    micro_batches: list[MicroBatch[Batch]]
    waited: float  # seconds the training thread waited for it


class DataFeed(Generic[Batch]):
    """Asks the task for batches, one step ahead. Steps must be taken in order."""

    def __init__(self, task: Task[Batch], config: TrainConfig, accumulate: int) -> None:
        self.task, self.config, self.accumulate = task, config, accumulate
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="data")
        self._next: Future[StepData[Batch]] | None = None

    def take(self, step: int) -> StepData[Batch]:
        """The data of `step`; starts loading those of the step after it."""
        started = time.perf_counter()
        data = (self._next or self._thread.submit(self._load, step)).result()
        waited = time.perf_counter() - started
        self._next = self._thread.submit(self._load, step + 1) if step + 1 < self.config.steps else None
        return StepData(data.items, data.micro_batches, waited)

    def close(self) -> None:
        """Drop what was loaded ahead and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _load(self, step: int) -> StepData[Batch]:
        config, rank = self.config, distributed.rank()
        items = data_order.global_batch(self.task.size, config.batch_size, config.seed, step)
        generator = torch.Generator().manual_seed(seed_for(config.seed, "data", step, rank))
        places = data_order.split_batch(config.batch_size, distributed.world_size(), rank, self.accumulate)
        micro = [
            MicroBatch(self.task.fetch(items[part.start : part.stop], generator), part, config.batch_size)
            for part in places
        ]
        return StepData(items, micro, 0.0)
