"""Stage `readability`: has an OCR read held-out words off a tokenizer's reconstructions, scale by scale.

readability.json   character error rates by font size and picture, and what one word per size was read as in each
words.npz          that word as cut from each picture, "<size>/<picture>/<scale>" (h, w, 3) uint8

The pictures of a page: `original`, as rendered; `view` k, the focused view L_k enlarged to the page, which is the
most that scale k can show (not of VAR's own tokenizer, which sees no views); `reconstruction` k, what the tokens of the
scales 1 to k decode to.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fvar.config import ReadabilityConfig
from fvar.data import to_float, to_uint8
from fvar.data.text import Page, page_names, render, sizes
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.machine.distributed import pick_device
from fvar.metrics.ocr import ErrorRate, Reader, load_reader
from fvar.rundir import RunDir
from fvar.tokenizer.bundle import Tokenizer, load_tokenizer
from fvar.tokenizer.quantiser import bicubic

SHOWN = 4  # the example of a size is its first word of at least this length, if it has one

Key = tuple[str, int]  # kind of picture, and scale from 1 (0: the original)


@dataclass(frozen=True)
class Measured:
    """One font size: error rates, and the example's text, readings and pictures, by kind and scale."""

    rates: dict[Key, ErrorRate]
    example: str
    readings: dict[Key, str]
    pictures: dict[Key, NDArray[np.uint8]]


def run(run: RunDir) -> None:
    """Measure every font size that fits the tokenizer's images. Inputs: tokenizer."""
    config = run.config_as(ReadabilityConfig)
    reader = load_reader(torch.get_num_threads())
    tokenizer = load_tokenizer(run.input("tokenizer"), pick_device(run.runtime.device))
    if tokenizer.config.signal != "structure":
        raise UserError(f"{run.name} reads what a tokenizer reconstructs; an alias tokenizer makes no pictures")
    side = tokenizer.config.data.image_size
    found, started = {}, time.monotonic()
    for number, size in enumerate(sizes(side), 1):
        found[size] = measured = measure(tokenizer, reader, size, config)
        eta = (time.monotonic() - started) * (len(sizes(side)) / number - 1)
        run.update(step=number, steps=len(sizes(side)), eta=eta)
        last = measured.rates["reconstruction", len(tokenizer.patch_nums)]
        print(f"{size:2} px: {last.value:.0%} of {last.characters} characters misread, {last.words} words", flush=True)
    with atomic.replacing(run.path / "words.npz") as temporary, open(temporary, "wb") as file:
        arrays: dict[str, Any] = {
            f"{size}/{kind}/{scale}": picture
            for size, measured in found.items()
            for (kind, scale), picture in measured.pictures.items()
        }
        np.savez_compressed(file, **arrays)
    atomic.write_json(run.path / "readability.json", report(reader.name, side, found))


def measure(tokenizer: Tokenizer, reader: Reader, size: int, config: ReadabilityConfig) -> Measured:
    """Read `config.words` words of one font size off every picture of their pages."""
    side = tokenizer.config.data.image_size
    pages = _pages(size, side, config.words)
    words = [(n, word) for n, page in enumerate(pages) for word in page.words][: config.words]
    written = [word.text for _, word in words]
    chosen = next((i for i, text in enumerate(written) if len(text) >= SHOWN), 0)
    rates, readings, pictures = {}, {}, {}
    for key, images in _pictures(tokenizer, pages, config.batch_size).items():
        cuts = [_cut(images[n], word.box) for n, word in words]
        texts = reader.read(cuts)
        rates[key] = ErrorRate.of(texts, written)
        readings[key] = texts[chosen]
        pictures[key] = cuts[chosen].permute(1, 2, 0).numpy()
    return Measured(rates, written[chosen], readings, pictures)


def report(ocr: str, side: int, found: dict[int, Measured]) -> dict[str, Any]:
    """readability.json: plain values, one row for each size, kind of picture and scale."""
    rows = [
        {"size": size, "picture": kind, "scale": scale, **asdict(rate)}
        for size, measured in found.items()
        for (kind, scale), rate in measured.rates.items()
    ]
    examples = [
        {"size": size, "text": measured.example, "picture": kind, "scale": scale, "read": text}
        for size, measured in found.items()
        for (kind, scale), text in measured.readings.items()
    ]
    return {"ocr": ocr, "image_size": side, "rates": rows, "examples": examples}


def _pages(size: int, side: int, words: int) -> list[Page]:
    """The first held-out pages, enough for the number of words asked for, if there are."""
    pages: list[Page] = []
    for name in page_names("heldout", size):
        if sum(len(page.words) for page in pages) >= words:
            break
        pages.append(render(name, side))
    return pages


@torch.no_grad()
def _pictures(tokenizer: Tokenizer, pages: list[Page], batch_size: int) -> dict[Key, Tensor]:
    """Every picture of every page, (N, 3, S, S) uint8 each."""
    originals = torch.stack([page.pixels for page in pages])[:, None].expand(-1, 3, -1, -1)
    parts: dict[Key, list[Tensor]] = {("original", 0): [originals]}
    for batch in torch.split(originals, batch_size):
        views = tokenizer.views(to_float(batch))
        if tokenizer.config.quantiser.reading != "latent_area":
            for k, view in enumerate(views[:-1], 1):  # the last view is the original
                enlarged = bicubic(view, batch.shape[-1])
                parts.setdefault(("view", k), []).append(to_uint8(enlarged).cpu())
        for k, made in enumerate(tokenizer.decode_prefixes(tokenizer.vqvae.indices(views)), 1):
            parts.setdefault(("reconstruction", k), []).append(to_uint8(made).cpu())
    return {key: torch.cat(images) for key, images in parts.items()}


def _cut(image: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    left, top, right, bottom = box
    return image[:, top:bottom, left:right]
