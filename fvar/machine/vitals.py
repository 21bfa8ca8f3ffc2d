"""How busy this machine is: processor, memory, and GPUs where nvidia-ml-py is installed.

Names and units are those under which MLflow's pages show system metrics. Linux's /proc is all that is read; elsewhere,
and where a driver does not answer, a value is missing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

PROC = "/proc"


class Vitals:
    """Measures between two calls of `read`."""

    def __init__(self) -> None:
        self._before = _jiffies()

    def read(self) -> dict[str, float]:
        """Values by name: the processors' since the last call in percent of all of them, the others now."""
        values = dict(_memory())
        now = _jiffies()
        busy, total = (after - before for after, before in zip(now, self._before, strict=True))
        self._before = now
        if total > 0:
            values["cpu_utilization_percentage"] = round(100 * busy / total, 1)
        with contextlib.suppress(Exception):  # of whatever a driver fails at: a stage must not
            values.update(_gpus())
        return values


def _jiffies() -> tuple[int, int]:
    """Time that all processors together were busy, and in all, since the machine was started."""
    with contextlib.suppress(OSError, ValueError), open(f"{PROC}/stat") as file:
        times = [int(word) for word in file.readline().split()[1:9]]  # user nice system idle iowait irq softirq steal
        return sum(times) - sum(times[3:5]), sum(times)
    return 0, 0


def _memory() -> Iterator[tuple[str, float]]:
    with contextlib.suppress(OSError, ValueError, KeyError), open(f"{PROC}/meminfo") as file:
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in file)}
        used = kib["MemTotal"] - kib["MemAvailable"]
        yield "system_memory_usage_megabytes", round(used / 1024, 1)
        yield "system_memory_usage_percentage", round(100 * used / kib["MemTotal"], 1)
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"{PROC}/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        yield "process_memory_usage_megabytes", round(resident / 2**20, 1)


def _gpus() -> Iterator[tuple[str, float]]:
    import pynvml  # type: ignore[import-not-found, unused-ignore]  # of nvidia-ml-py, which few installations have

    pynvml.nvmlInit()
    for number in range(pynvml.nvmlDeviceGetCount()):
        device = pynvml.nvmlDeviceGetHandleByIndex(number)
        memory = pynvml.nvmlDeviceGetMemoryInfo(device)
        yield f"gpu_{number}_utilization_percentage", float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)
        yield f"gpu_{number}_memory_usage_megabytes", round(memory.used / 2**20, 1)
