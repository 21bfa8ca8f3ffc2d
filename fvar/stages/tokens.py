"""Stage `tokens`: codes a data set by a trained tokenizer into a token store (fvar.data.token_store).

Images are coded in chunks, each written whole to `parts/`. All ranks take their share of the chunks; an interrupted
stage continues with those that are missing. At the end rank 0 joins them into one file per scale.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fvar.config import DataConfig, TokensConfig
from fvar.data import ImageSet, Split, open_dataset, to_float
from fvar.data.token_store import SPLITS, read_manifest, write_array, write_manifest
from fvar.errors import UserError
from fvar.machine import distributed
from fvar.machine.arrays import DAMAGED
from fvar.machine.prefetch import prefetch
from fvar.machine.seeds import seed_for
from fvar.rundir import RunDir
from fvar.tokenizer.bundle import Tokenizer, load_tokenizer

CHUNK = 256  # images; fixed, so that neither ranks nor batch size have a say in which numbers a crop is drawn from


@dataclass(frozen=True)
class Chunk:
    """Some consecutive images of one copy of one split."""

    split: Split
    copy: int
    number: int  # within the copy
    images: range

    @property
    def file(self) -> str:
        return f"{self.split}-{self.copy:04d}-{self.number:08d}.npy"


def run(run: RunDir) -> None:
    """Write the token store of `run`, or finish writing it."""
    config = run.config_as(TokensConfig)
    if read_manifest(run) is not None:
        return
    tokenizer = load_tokenizer(run.input("tokenizer"), distributed.pick_device(run.runtime.device))
    _require_fit(config.data, tokenizer)
    sets: dict[Split, ImageSet] = {split: open_dataset(config.data, split, run.runtime.workers) for split in SPLITS}
    parts = run.path / "parts"
    chunks = {split: list(_chunks(split, len(sets[split]), config.data.crops)) for split in SPLITS}
    width = sum(side * side for side in tokenizer.patch_nums)
    missing = [chunk for split in SPLITS for chunk in chunks[split] if not _is_whole(parts / chunk.file, chunk, width)]
    missing = distributed.from_first(missing)  # each rank looked at another moment
    _code(run, config, tokenizer, sets, missing[distributed.rank() :: distributed.world_size()])
    distributed.barrier()
    if distributed.rank() == 0:
        for split in SPLITS:
            _join(run.path, chunks[split], sets[split], tokenizer.patch_nums)
        silent = tokenizer.silent(config.signal)
        write_manifest(run, tokenizer.patch_nums, tokenizer.vqvae.vocab_size, sets["train"].class_names, silent)
        shutil.rmtree(parts)
        counts = ", ".join(f"{sum(len(c.images) for c in chunks[split])} {split}" for split in SPLITS)
        print(f"{run.name}: {counts} items of {sum(p * p for p in tokenizer.patch_nums)} tokens")
    distributed.barrier()


def _require_fit(data: DataConfig, tokenizer: Tokenizer) -> None:
    expected = tokenizer.config.data.image_size
    if data.image_size != expected:
        raise UserError(f"tokens.data.image_size is {data.image_size}, but the tokenizer was trained at {expected} px")


def _chunks(split: Split, count: int, crops: int) -> Iterator[Chunk]:
    for copy in range(crops if split == "train" else 1):
        for number, first in enumerate(range(0, count, CHUNK)):
            yield Chunk(split, copy, number, range(first, min(first + CHUNK, count)))


def _is_whole(path: Path, chunk: Chunk, width: int) -> bool:
    """Whether a part is there and holds the tokens it should."""
    try:
        found = np.load(path, allow_pickle=False, mmap_mode="r")
    except DAMAGED:
        return False
    return isinstance(found, np.ndarray) and found.shape == (len(chunk.images), width) and found.dtype == np.uint16


def _code(
    run: RunDir, config: TokensConfig, tokenizer: Tokenizer, sets: Mapping[Split, ImageSet], missing: list[Chunk]
) -> None:
    """Write the part of every missing chunk; the next chunk is read while this one is coded."""

    def read(chunk: Chunk) -> Tensor:
        drawn = None
        if chunk.copy > 0:
            drawn = torch.Generator().manual_seed(seed_for(config.seed, "crop", chunk.copy, chunk.number))
        return sets[chunk.split].batch(chunk.images, drawn)

    started, done = time.monotonic(), 0
    total = sum(len(chunk.images) for chunk in missing)
    for chunk, pixels in zip(missing, prefetch(read, missing), strict=True):
        tokens = [
            torch.cat(tokenizer.encode_images(to_float(part), config.signal), dim=1)  # (B, L)
            for part in _cut(pixels, config.batch_size)
        ]
        write_array(run.path / "parts" / chunk.file, torch.cat(tokens).cpu().numpy().astype(np.uint16))
        done += len(chunk.images)
        if distributed.rank() == 0:
            rate = done / (time.monotonic() - started)
            run.update(step=done, steps=total, rate=rate, eta=(total - done) / rate)
            print(f"coded {done}/{total} images, {rate:.0f}/s", flush=True)


def _cut(pixels: Tensor, size: int) -> Iterator[Tensor]:
    for first in range(0, len(pixels), size):
        yield pixels[first : first + size]


def _join(folder: Path, chunks: list[Chunk], images: ImageSet, patch_nums: tuple[int, ...]) -> None:
    """One file per scale, items in the order of the chunks, and their labels."""
    bounds = np.cumsum([side * side for side in patch_nums])[:-1]
    parts = [np.load(folder / "parts" / chunk.file, allow_pickle=False, mmap_mode="r") for chunk in chunks]
    scales = zip(*(np.split(part, bounds, axis=1) for part in parts), strict=True)
    for k, pieces in enumerate(scales):
        write_array(folder / chunks[0].split / f"scale_{k}.npy", np.concatenate(pieces))
    labels = images.labels.numpy()
    write_array(folder / chunks[0].split / "labels.npy", np.concatenate([labels[list(c.images)] for c in chunks]))
