"""How fast the pyramid is, as ratios within one run: python -m tests.benchmarks.bench_pyramid

The yardsticks, on a (32, 3, 256, 256) batch in float32 and K = 4 states of up to 12 px:
- direct: one depthwise 25 x 25 `conv2d` at full resolution per state, then decimation;
- copy:   reading the batch and writing it and all twelve views once.
"""

from __future__ import annotations

import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import PyramidConfig
from fvar.focus import optics
from fvar.focus.pyramid import FocusPyramid, FocusViews, from_config

BATCH, CHANNELS, SIDE = 32, 3, 256
ROUNDS = 5
VAR_SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def direct(x: Tensor, pyramid: FocusPyramid) -> list[Tensor]:
    """Each state by a 25 x 25 depthwise convolution of the full image, of which every s-th pixel is kept."""
    views = []
    for side, rho in zip(pyramid.sides, pyramid.radii, strict=True):
        psf = optics.disk_psf(rho, torch.float32)
        kernel = F.pad(psf, [(25 - len(psf)) // 2] * 4).expand(CHANNELS, 1, 25, 25)
        s = SIDE // side
        views.append(F.conv2d(x, kernel, padding=12, groups=CHANNELS)[..., s // 2 :: s, s // 2 :: s])
    return views


def strided(x: Tensor, pyramid: FocusPyramid) -> list[Tensor]:
    """Blur while decimating, by convolutions with a stride."""
    views = []
    for side, rho in zip(pyramid.sides, pyramid.radii, strict=True):
        psf = optics.disk_psf(rho, torch.float32)
        s, reach = SIDE // side, len(psf) // 2
        padded = F.pad(x.view(-1, 1, SIDE, SIDE), [reach - s // 2, reach] * 2, mode="replicate") if rho else x
        views.append(F.conv2d(padded, psf[None, None], stride=s) if rho else padded)
    return views


def copy(x: Tensor, pyramid: FocusPyramid) -> list[Tensor]:
    """One pass over the inputs and the outputs."""
    planes = x.flatten(2)
    return [x.clone(), *(planes[..., : side**2].clone() for side in pyramid.sides for _ in range(3))]


def interleaved(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call; taking turns, so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def extra_memory(pyramid: FocusPyramid, x: Tensor) -> float:
    """Growth of the resident memory during one call, beyond the views it returns, in batches (Linux)."""
    statm, page = Path("/proc/self/statm"), resource.getpagesize()

    def resident() -> int:
        return int(statm.read_text().split()[1]) * page

    pyramid(x[:1])  # FFT plans
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1e-3):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    views: FocusViews = pyramid(x)
    done.set()
    watcher.join()
    written = {view.data_ptr(): view.nbytes for part in views for view in part if view.data_ptr() != x.data_ptr()}
    return (peak - before - sum(written.values())) / x.nbytes


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    x = torch.rand(BATCH, CHANNELS, SIDE, SIDE) * 2 - 1
    pyramid = from_config(PyramidConfig()).eval()
    extra = max(extra_memory(pyramid, x) for _ in range(3))
    ten = from_config(PyramidConfig(patch_nums=VAR_SCALES)).eval()
    noisy = from_config(PyramidConfig()).train()
    seconds = interleaved(
        {
            "pyramid, K = 4": lambda: pyramid(x),
            "copy of inputs and outputs": lambda: copy(x, pyramid),
            "direct 25 x 25 convolutions": lambda: direct(x, pyramid),
            "strided convolutions (focused views only)": lambda: strided(x, pyramid),
            "pyramid, K = 4, training": lambda: noisy(x),
            "pyramid, VAR's 10 scales": lambda: ten(x),
        }
    )
    own = seconds["pyramid, K = 4"]
    print(f"focus pyramid, batch {tuple(x.shape)} float32, {torch.get_num_threads()} threads, median of {ROUNDS}")
    for name, value in seconds.items():
        print(f"  {name:<42}{value * 1e3:8.1f} ms {value / own:8.2f} x the pyramid")
    print(f"  faster than direct      {seconds['direct 25 x 25 convolutions'] / own:6.1f} x   (wanted: at least 8)")
    print(f"  slower than the copy    {own / seconds['copy of inputs and outputs']:6.1f} x   (wanted: at most 6)")
    print(f"  peak memory beyond outputs {extra:.2f} x the batch   (wanted: at most 3)")


if __name__ == "__main__":
    main()
