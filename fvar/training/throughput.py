"""How fast a training runs, and where its time goes."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from fvar.estimate import DEVICES


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak in FLOP/s, or None where it is not known (every CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((known.peak for known in DEVICES if known.name in name and "PCIe" not in name), None)


def peak_memory(device: torch.device) -> int:
    """Most bytes used so far: of the GPU by torch, or of main memory by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # of this program; getrusage would count what the one that started it held before
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (FileNotFoundError, IndexError):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024


@dataclass
class Throughput:
    """Counts items and waiting between two readings."""

    device: torch.device
    tokens_per_item: int
    flops_per_item: float
    ranks: int
    items: int = 0
    waited: float = 0.0
    since: float = 0.0

    def __post_init__(self) -> None:
        self.since = time.perf_counter()

    def count(self, items: int, waited: float) -> None:
        """Note a step over `items` (all ranks) that waited `waited` seconds for its data."""
        self.items += items
        self.waited += waited

    def pause(self, seconds: float) -> None:
        """Leave out time that was not training (an evaluation)."""
        self.since += seconds

    def read(self) -> dict[str, float]:
        """Speed since the last reading, and start anew."""
        now = time.perf_counter()
        seconds = max(now - self.since, 1e-9)
        rate = self.items / seconds
        values = {
            "images_per_second": rate,
            "data_wait": self.waited / seconds,
            "peak_memory_bytes": float(peak_memory(self.device)),
        }
        if self.tokens_per_item:
            values["tokens_per_second"] = rate * self.tokens_per_item
        peak = peak_flops(self.device)
        if peak and self.flops_per_item:
            values["model_flops_utilisation"] = rate * self.flops_per_item / (peak * self.ranks)
        self.items, self.waited, self.since = 0, 0.0, now
        return values
