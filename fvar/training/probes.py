"""Measurements of a network beside its training: a thread scores snapshots of the weights while the steps go on.

    snapshots/step-00001000.safetensors    weights that are still to be measured

The training thread writes the snapshots and, once they are measured, the records (split "sampled" of the metrics, under
the step of the snapshot, so a little later than that step's own). A killed run measures after its resume what was left.
Measuring must draw no number from torch's generators: the training's numbers are the same with and without it.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fvar.machine import atomic
from fvar.rundir import RunDir

SPLIT = "sampled"


class Cancelled(Exception):
    """A measurement was given up because the training ends."""


class Measure(Protocol):
    """Scores one snapshot; asks `stopping` now and then, and raises `Cancelled` once that is set."""

    def __call__(self, weights: dict[str, Tensor], stopping: threading.Event) -> dict[str, float]: ...


@dataclass(frozen=True)
class Probe:
    """What a task wants measured: one of its `state_modules`, every `every` steps.

    `open` makes ready for it, in the training thread, before anything is compiled or sharded.
    """

    every: int
    module: str
    open: Callable[[], Measure]


class Probes:
    """The measurements of one run, made one after another. Belongs to the rank that writes."""

    def __init__(self, probe: Probe, run: RunDir, device: torch.device) -> None:
        self.run, self.folder, self.device = run, run.path / "snapshots", device
        self.measure = probe.open()
        self.stopping = threading.Event()
        self.waiting: dict[int, Future[dict[str, float]]] = {}  # by step, oldest first
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="probe")

    def resume(self, first: int) -> None:
        """Measure what earlier attempts left; forget snapshots of steps after `first`, which will be made again."""
        known = {record["step"] for record in self.run.metrics(SPLIT)}
        for path in sorted(self.folder.glob("step-*.safetensors")):
            step = int(re.sub(r"\D", "", path.stem))
            if step > first or step in known:
                path.unlink()
            else:
                self._submit(step)

    def take(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights after `step` steps, on the disk, and queue them."""
        self.folder.mkdir(exist_ok=True)
        with atomic.replacing(self._path(step)) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)
        self._submit(step)

    def record(self) -> None:
        """Log the measurements that have ended. One that failed is told and left out: it must not end a training."""
        for step, future in list(self.waiting.items()):
            if not future.done():
                return
            del self.waiting[step]
            try:
                self.run.log_metrics(step, future.result(), split=SPLIT)
            except Exception as error:
                print(f"warning: the weights of step {step} could not be measured: {error!r}", flush=True)
            self._path(step).unlink(missing_ok=True)

    def finish(self, interrupted: Callable[[], bool]) -> None:
        """Wait for the measurements under way, unless interrupted."""
        if self.waiting:
            print(f"waiting for the samples of steps {', '.join(map(str, self.waiting))}", flush=True)
        while self.waiting and not interrupted():
            time.sleep(0.05)
            self.record()
        if not self.waiting:
            shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Give up the measurements under way; their snapshots stay."""
        self.stopping.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------------- details

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

    def _submit(self, step: int) -> None:
        self.waiting[step] = self._thread.submit(self._run, step)

    def _run(self, step: int) -> dict[str, float]:
        try:
            weights = load_file(self._path(step))
        except SafetensorError as error:
            raise OSError(f"{self._path(step)} is damaged ({error})") from error
        if self.device.type != "cuda":
            return self.measure(weights, self.stopping)
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):  # beside the training's kernels, not between them
            return self.measure(weights, self.stopping)
