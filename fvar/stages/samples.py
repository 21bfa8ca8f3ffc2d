"""Generates class-balanced images: `samples.npz` as the ADM evaluator reads it, and `grid.png` to look at.

Classes take turns (label i = i mod classes), and image i draws from a seed of its own, so nothing depends on how the
work is cut. It is cut into shards, a batch each, which are kept until all are there: a killed run continues with those
that are missing. Several processes take turns at the missing shards; since a shard holds the same images however many
work, the files are the same too (on GPUs of one kind, where equal batches give equal images: see fvar.sampling).
"""

from __future__ import annotations

import shutil
import statistics
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fvar.config import SamplesConfig, TokensConfig
from fvar.data import open_dataset
from fvar.errors import spared
from fvar.machine import atomic, distributed
from fvar.machine.arrays import DAMAGED
from fvar.machine.distributed import pick_device
from fvar.models.loading import load_var
from fvar.rundir import RunDir
from fvar.sampling import image_seeds, prepare, sample
from fvar.tokenizer.bundle import load_tokenizer

GRID_CLASSES, GRID_COLUMNS = 16, 10


@dataclass(frozen=True)
class Shard:
    """A file of consecutive images."""

    path: Path
    first: int
    count: int

    @property
    def indices(self) -> range:
        return range(self.first, self.first + self.count)

    def read(self) -> NDArray[np.uint8]:
        """Its images (count, H, W, 3)."""
        with np.load(self.path, allow_pickle=False) as archive:
            images: NDArray[np.uint8] = archive["arr_0"]
        return images

    def is_whole(self, labels: NDArray[np.int64], side: int) -> bool:
        """Whether it can be read and holds the images it should."""
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                found = archive["arr_0"]
                return found.shape == (self.count, side, side, 3) and np.array_equal(archive["labels"], labels)
        except DAMAGED:
            return False


def run(run: RunDir) -> None:
    """Generate what is missing, then put the shards together. Inputs: var."""
    config = run.config_as(SamplesConfig)
    var_run = run.input("var")
    tokens_run = var_run.input("tokens")
    device = pick_device(run.runtime.device)
    tokenizer = load_tokenizer(tokens_run.input("tokenizer"), device)
    vqvae, side = tokenizer.vqvae, tokenizer.config.pyramid.image_size
    var = load_var(var_run, vqvae)
    prepare(var, vqvae, config.precision, device)

    leads = distributed.rank() == 0
    labels = torch.arange(config.count) % var.num_classes
    shards = list(_shards(run.path / "shards", config))
    if leads:
        for shard in shards:
            if shard.path.exists() and not shard.is_whole(labels[list(shard.indices)].numpy(), side):
                shard.path.unlink()
    distributed.barrier()
    missing = [shard for shard in shards if not shard.path.exists()]
    before, started = config.count - sum(shard.count for shard in missing), time.monotonic()
    distributed.barrier()  # everyone has seen the same shards missing; from here on they appear

    seconds = []  # per image, shard by shard
    for shard in missing[distributed.rank() :: distributed.world_size()]:
        if leads:
            _report(run, shards, before, started)
        begun = time.perf_counter()
        result = sample(
            var,
            vqvae,
            labels[list(shard.indices)].to(device),
            guidance=config.guidance,
            top_k=config.top_k,
            top_p=config.top_p,
            seeds=image_seeds(config.seed, shard.indices),
        )
        images = result.images.permute(0, 2, 3, 1).cpu().numpy()
        seconds.append((time.perf_counter() - begun) / shard.count)
        with atomic.replacing(shard.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, arr_0=images, labels=labels[list(shard.indices)].numpy())
    distributed.barrier()
    if not leads:
        return
    _report(run, shards, before, started)
    if seconds:  # the median: the first shard also makes ready
        speed = {"seconds_per_image": statistics.median(seconds), "steps": len(var.patch_nums)}
        parameters = sum(parameter.numel() for parameter in var.parameters())
        run.log_metrics(config.count, {**speed, "parameters": parameters}, split="speed")
    with spared("grid.png is not drawn"):
        names = open_dataset(tokens_run.config_as(TokensConfig).data, "train").class_names
        draw_grid(run.path / "grid.png", *_some_of_each_class(shards, labels.numpy()), names)
    _join(run.path / "samples.npz", shards, labels.numpy(), side)
    shutil.rmtree(run.path / "shards")


def _shards(folder: Path, config: SamplesConfig) -> Iterator[Shard]:
    for first in range(0, config.count, config.batch_size):
        count = min(config.batch_size, config.count - first)
        yield Shard(folder / f"{first:06}.npz", first, count)


def _report(run: RunDir, shards: Sequence[Shard], before: int, started: float) -> None:
    """How many images are there, made by whichever process, and how fast they come."""
    done = sum(shard.count for shard in shards if shard.path.exists())
    rate = (done - before) / (time.monotonic() - started)
    total = sum(shard.count for shard in shards)
    run.update(step=done, steps=total, rate=rate, eta=(total - done) / rate if rate else None)


def _join(path: Path, shards: Sequence[Shard], labels: NDArray[np.int64], side: int) -> None:
    """All shards as one archive of arr_0 (N, H, W, 3) uint8 and labels (N,) int64; one shard at a time in memory."""
    pixels, classes = (zipfile.ZipInfo(name) for name in ("arr_0.npy", "labels.npy"))  # dated 1980, whenever written
    with atomic.replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open(pixels, "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), side, side, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for shard in shards:
                file.write(shard.read().tobytes())
        with archive.open(classes, "w") as file:
            np.lib.format.write_array(file, labels, allow_pickle=False)


def _some_of_each_class(
    shards: Sequence[Shard], labels: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels for the grid: the first ones of the classes it shows; 50,000 images need not fit in memory."""
    present = np.unique(labels)
    shown = present[np.linspace(0, len(present) - 1, min(GRID_CLASSES, len(present))).round().astype(int)]
    wanted = np.sort(np.concatenate([np.flatnonzero(labels == label)[:GRID_COLUMNS] for label in shown]))
    parts = []
    for shard in shards:
        inside = wanted[(wanted >= shard.first) & (wanted < shard.first + shard.count)]
        if len(inside):
            parts.append(shard.read()[inside - shard.first])
    return np.concatenate(parts), labels[wanted]


def draw_grid(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], names: Sequence[str]) -> None:
    """A picture with one row per class, its name on the left."""
    present = np.unique(labels)
    side, gap, margin = images.shape[1], 2, 130
    columns = int(np.bincount(labels)[present].max())
    canvas = Image.new("RGB", (margin + columns * (side + gap), len(present) * (side + gap)), "white")
    pen = ImageDraw.Draw(canvas)
    for row, label in enumerate(present):
        top = row * (side + gap)
        pen.text((4, top + side // 2), names[label], fill="black", anchor="lm")
        for column, image in enumerate(images[labels == label]):
            canvas.paste(Image.fromarray(image), (margin + column * (side + gap), top))
    with atomic.replacing(path) as temporary:
        canvas.save(temporary, format="png")
