"""Generates class-balanced images: `samples.npz` as the ADM evaluator reads it, and `grid.png` to look at.

Classes take turns (label i = i mod classes), and image i draws from a seed of its own, so nothing depends on how the
work is cut. Finished shards are kept until all are there: a killed run continues with the next one.
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fvar import atomic
from fvar.config import SamplesConfig
from fvar.data import open_dataset
from fvar.models.loading import load_var
from fvar.rundir import RunDir
from fvar.sampling import image_seeds, prepare, sample
from fvar.tokenizer.bundle import load_tokenizer
from fvar.training.distributed import pick_device

BATCHES_PER_SHARD = 8
GRID_CLASSES, GRID_COLUMNS = 16, 10


def run(run: RunDir) -> None:
    """Generate what is missing, then put the shards together. Inputs: var."""
    config = run.config
    assert isinstance(config, SamplesConfig)
    var_run = run.input("var")
    tokens_run = var_run.input("tokens")
    device = pick_device(run.runtime.device)
    tokenizer = load_tokenizer(tokens_run.input("tokenizer"), device)
    vqvae, side = tokenizer.vqvae, tokenizer.config.pyramid.image_size
    var = load_var(var_run, vqvae)
    prepare(var, vqvae, config.precision, device)

    labels = torch.arange(config.count) % var.num_classes
    shards = list(_shards(run.path / "shards", config))
    missing = [(path, indices) for path, indices in shards if not _complete(path, labels[indices].numpy(), side)]
    done = config.count - sum(len(indices) for _, indices in missing)
    made, started = 0, time.monotonic()
    run.update(step=done, steps=config.count)
    for path, indices in missing:
        images = []
        for first in range(0, len(indices), config.batch_size):
            batch = indices[first : first + config.batch_size]
            result = sample(
                var,
                vqvae,
                labels[batch].to(device),
                guidance=config.guidance,
                top_k=config.top_k,
                top_p=config.top_p,
                seeds=image_seeds(config.seed, batch),
            )
            images.append(result.images.permute(0, 2, 3, 1).cpu().numpy())
            made += len(batch)
            rate = made / (time.monotonic() - started)
            run.update(step=done + made, rate=rate, eta=(config.count - done - made) / rate)
        with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, arr_0=np.concatenate(images), labels=labels[indices].numpy())
    _join(run.path / "samples.npz", [path for path, _ in shards], config.count, side)
    names = open_dataset(tokens_run.config.data, "train").class_names  # type: ignore[union-attr]
    with np.load(run.path / "samples.npz", allow_pickle=False) as archive:
        draw_grid(run.path / "grid.png", archive["arr_0"], labels.numpy(), names)
    shutil.rmtree(run.path / "shards")


def _shards(folder: Path, config: SamplesConfig) -> Iterator[tuple[Path, list[int]]]:
    size = BATCHES_PER_SHARD * config.batch_size
    for number, start in enumerate(range(0, config.count, size)):
        yield folder / f"{number:03}.npz", list(range(start, min(start + size, config.count)))


def _complete(path: Path, labels: NDArray[np.int64], side: int) -> bool:
    """Whether a shard is there, readable and of the images it should hold."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive["arr_0"].shape == (len(labels), side, side, 3) and np.array_equal(archive["labels"], labels)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _join(path: Path, shards: Sequence[Path], count: int, side: int) -> None:
    """All shards as one archive of arr_0 (N, H, W, 3) uint8 and labels (N,) int64; one shard at a time in memory."""
    labels = []
    with atomic.replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for shard in shards:
                with np.load(shard, allow_pickle=False) as part:
                    file.write(part["arr_0"].tobytes())
                    labels.append(part["labels"])
        with archive.open("labels.npy", "w") as file:
            np.lib.format.write_array(file, np.concatenate(labels), allow_pickle=False)


def draw_grid(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], names: Sequence[str]) -> None:
    """A picture with one row a class, its name on the left; of many classes, some spread over all."""
    present = np.unique(labels)
    chosen = present[np.linspace(0, len(present) - 1, min(GRID_CLASSES, len(present))).round().astype(int)]
    side, gap, margin = images.shape[1], 2, 130
    columns = min(GRID_COLUMNS, int(np.bincount(labels)[present].max()))
    canvas = Image.new("RGB", (margin + columns * (side + gap), len(chosen) * (side + gap)), "white")
    pen = ImageDraw.Draw(canvas)
    for row, label in enumerate(chosen):
        top = row * (side + gap)
        pen.text((4, top + side // 2), names[label], fill="black", anchor="lm")
        for column, image in enumerate(images[labels == label][:columns]):
            canvas.paste(Image.fromarray(image), (margin + column * (side + gap), top))
    with atomic.replacing(path) as temporary:
        canvas.save(temporary, format="png")
