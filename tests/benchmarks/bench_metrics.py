"""What scoring costs, as ratios within one run.

    python -m tests.benchmarks.bench_metrics                  three minutes on two cores
    python -m tests.benchmarks.bench_metrics --images 512     steadier
    python -m tests.benchmarks.bench_metrics --clock cpu      on a shared machine: CPU seconds, decoding included
    python -m tests.benchmarks.bench_metrics --prc 50000      precision and recall at full size: ten minutes and more

- features: images/s of `extract` from an array and from a folder of PNG files, over those of the bare network (which
  resizes to 299 px, as FID defines it) on a batch that lies ready, in turns; and of that network over torch-fidelity's
  module as it comes, and over what the processor's matrix products would allow;
- spectra: what the aliasing scores add;
- precision and recall: peak memory of a process of its own, and what it is for 50,000 x 50,000.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fvar.metrics.compare import PRC_BLOCK, WHOLE_MATRIX, precision_recall
from fvar.metrics.features import Images, extract, load_extractor
from fvar.metrics.inception import SIDE, WIDTH
from fvar.metrics.inception import packaged as packaged_module
from fvar.metrics.sources import ArrayImages, FolderImages
from fvar.metrics.spectra import load_spectra
from fvar.workload import INCEPTION
from tests.benchmarks.bench_var import matmul_ceiling

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
BATCH = 64  # torch-fidelity's own default, and `extract`'s
FULL = 50_000
FIDELITY = "torch-fidelity's module as it comes"


def photographs(count: int, side: int) -> Tensor:
    """(N, side, side, 3) uint8: smooth noise, which PNG compresses as it does photographs."""
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (255 * smooth).byte().permute(0, 2, 3, 1).contiguous()


def bare(network: torch.nn.Module, batch: Tensor, count: int) -> None:
    """The network alone, on one batch that lies ready."""
    with torch.inference_mode():
        for _ in range(count // BATCH):
            network(batch)


@functools.cache
def packaged() -> torch.nn.Module:
    """The network as torch-fidelity runs it."""
    module: torch.nn.Module = packaged_module().eval()
    return module


def rates(
    calls: dict[str, Callable[[], object]], images: int, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Images per second, medians over rounds in which the calls take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: images / statistics.median(values) for name, values in seconds.items()}


def features(count: int, rounds: int, clock: Callable[[], float]) -> None:
    extractor = load_extractor("inception-torchscript")
    trunk = extractor.network.trunk
    assert isinstance(trunk, torch.nn.Module)
    full = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    per_round = max(BATCH, count // rounds // BATCH * BATCH)
    with tempfile.TemporaryDirectory() as name:
        small, large = (photographs(per_round, side) for side in (64, 256))
        for index, pixels in enumerate(large.numpy()):
            Image.fromarray(pixels).save(Path(name) / f"{index:05}.png")
        sources: dict[str, tuple[Images, Tensor]] = {
            "an array of 64 px": (ArrayImages(small.numpy()), small),
            "PNG files of 256 px": (FolderImages(Path(name)), large),
        }
        calls: dict[str, Callable[[], object]] = {"trunk": lambda: bare(trunk, full, per_round)}
        for text, (images, pixels) in sources.items():
            ready = pixels[:BATCH].permute(0, 3, 1, 2)
            calls[f"bare {text}"] = lambda ready=ready: bare(extractor.network, ready, per_round)  # type: ignore[misc]
            calls[text] = lambda images=images: extract(extractor, images, BATCH)  # type: ignore[misc]
        calls[FIDELITY] = lambda: bare(packaged(), small[:BATCH].permute(0, 3, 1, 2), per_round)
        bare(trunk, full, BATCH)
        ceiling = matmul_ceiling(torch.float32, clock)
        found = rates(calls, per_round, rounds, clock)
        spectra = load_spectra(256, 256)
        start = clock()
        extract(spectra, sources["PNG files of 256 px"][0], BATCH)
        seconds = clock() - start
    print(f"Inception features, {torch.get_num_threads()} threads, {rounds} rounds of {per_round} images")
    print(f"  {'convolutions alone, on batches of 299 px':<44}{found['trunk']:8.2f} images/s")
    ours, theirs, limit = found["bare an array of 64 px"], found[FIDELITY], ceiling / INCEPTION
    print(f"  {FIDELITY + ', on 64 px':<44}{theirs:8.2f} images/s{ours / theirs:8.2f} times that is ours")
    print(f"  {'floor: its products at the matmul ceiling':<44}{limit:8.2f} images/s{ours / limit:8.1%} of it is ours")
    for text in sources:
        alone, whole = found[f"bare {text}"], found[text]
        print(f"  {'bare network, on a batch' + text[text.index(' of') :]:<44}{alone:8.2f} images/s")
        print(f"  {f'features from {text}':<44}{whole:8.2f} images/s", end="")
        print(f"{whole / alone:8.1%} of the bare network's   (wanted: at least 90 %)")
    print(f"  {'radial spectra, from PNG files of 256 px':<44}{per_round / seconds:8.2f} images/s")


def prc(count: int) -> None:
    """In a process of its own: precision and recall of count x count features, then its peak memory."""
    generator = torch.Generator().manual_seed(0)
    generated, real = (torch.randn(count, WIDTH, generator=generator) for _ in range(2))
    start = time.perf_counter()
    precision_recall(generated, real)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()  # what getrusage says begins with the parent's memory
    print(seconds, int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def memory(count: int) -> None:
    def measure(count: int) -> tuple[float, float]:
        command = [sys.executable, "-m", "tests.benchmarks.bench_metrics", "--child", str(count)]
        seconds, peak = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        return seconds, peak

    _, idle = measure(8)
    seconds, peak = measure(count)
    own = 2 * count * WIDTH * 4  # both sets of features
    blocks = (peak - idle - own) / (4 * PRC_BLOCK * count)  # blocks of distances that are held at once
    full = idle + 2 * FULL * WIDTH * 4 + blocks * 4 * PRC_BLOCK * FULL
    print(f"Precision and recall, {count:,} x {count:,} features of {WIDTH}")
    print(f"  {seconds:.0f} s, peak memory {peak / 2**30:.2f} GiB: {idle / 2**30:.2f} of Python and torch, ", end="")
    print(f"{own / 2**30:.2f} of features, {blocks:.1f} blocks of {PRC_BLOCK:,} x {count:,} distances")
    print(f"  so at {FULL:,} x {FULL:,}: {full / 2**30:.2f} GiB   (wanted: at most 8)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="of every kind (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="(%(default)s)")
    parser.add_argument("--prc", type=int, default=12_000, metavar="N", help="features a side (%(default)s)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        prc(args.child)
        return
    if args.prc <= WHOLE_MATRIX:
        parser.error(f"--prc must be above {WHOLE_MATRIX}: smaller sets are not cut into blocks")
    features(args.images, args.rounds, CLOCKS[args.clock])
    memory(args.prc)


if __name__ == "__main__":
    main()
