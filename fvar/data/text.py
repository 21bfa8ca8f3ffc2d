"""Pages of rendered words whose text and place are known: for tokenizers that learn type, and for an OCR to read.

A page holds black words of one font size on white, set line by line from a drawn start, so that letters fall anywhere
on a tokenizer's grid. Its class is the font size. Every fourth word of the list is kept for the held-out pages: a
tokenizer that learned from the others has met its letters, not the word. The font is the one Pillow carries.
"""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fvar.config import DataConfig
from fvar.data.images import resized_side
from fvar.data.imageset import MemoryImages
from fvar.errors import UserError

SIZES = (8, 10, 12, 16, 20, 24, 32, 48, 64)  # px; a page holds those of up to half its side
PAGES = {"train": 256, "heldout": 64}  # per size
MARGIN = 2  # px between the outermost words and the page's edge
WORD_GAP, LINE_GAP = 0.7, 0.2  # in font sizes
BOX_PAD = 0.25  # in font sizes, left and right of a word

WORDS = tuple(importlib.resources.files("fvar.data").joinpath("words.txt").read_text().split())  # common English


@dataclass(frozen=True)
class Word:
    """A word on a page, and the box (left, top, right, bottom) in px that a reader is shown."""

    text: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Page:
    """A page (side, side) uint8, 0 black to 255 white, and what it says."""

    pixels: Tensor
    words: tuple[Word, ...]


def open_text(config: DataConfig) -> tuple[MemoryImages, list[bool]]:
    """All pages of `config.image_size` by name, such as train/024-0007 (its size in px, its number), and the held-out.

    Raises `UserError` where the page is too small for the smallest type.
    """
    side = resized_side(config.image_size, config.crop)
    names = [name for split in PAGES for size in sizes(side) for name in page_names(split, size)]
    shown = [f"{size:02} px" for size in sizes(side)]
    labels = [shown.index(f"{_size_of(name):02} px") for name in names]
    images = MemoryImages(config, functools.partial(_pixels, side), names, labels, shown)
    return images, [name.startswith("heldout/") for name in names]


def sizes(side: int) -> tuple[int, ...]:
    """The font sizes in px that pages of `side` px hold."""
    fitting = tuple(size for size in SIZES if 2 * size <= side)
    if not fitting:
        raise UserError(f"pages of rendered words need at least {2 * SIZES[0]} px, got {side}; raise data.image_size")
    return fitting


def page_names(split: str, size: int) -> list[str]:
    """The names of all pages of a split, "train" or "heldout", in one font size."""
    return [f"{split}/{size:03}-{number:04}" for number in range(PAGES[split])]


def render(name: str, side: int) -> Page:
    """The page of that name. The same on every machine: all that is drawn follows from the name."""
    size = _size_of(name)
    words, font, width = _vocabulary(name.partition("/")[0]), _font(size), _widths(size)
    ascent, descent = font.getmetrics()
    rng = np.random.default_rng(list(name.encode()))
    canvas = Image.new("L", (side, side), 255)
    draw, placed = ImageDraw.Draw(canvas), []
    slack = side - 2 * MARGIN - ascent - descent  # large type must not be pushed off its page
    top = MARGIN + int(rng.integers(min(size, slack) + 1))
    while top + ascent + descent <= side - MARGIN:
        left = MARGIN + int(rng.integers(size // 2))
        while fitting := [word for word in words if left + width[word] <= side - MARGIN]:
            word = fitting[int(rng.integers(len(fitting)))]
            draw.text((left, top), word, fill=0, font=font)
            pad, right = round(BOX_PAD * size), left + width[word]
            box = (max(0, left - pad), top, min(side, right + pad), top + ascent + descent)
            placed.append(Word(word, box))
            left = right + round(WORD_GAP * size)
        top += ascent + descent + round(LINE_GAP * size)
    return Page(torch.from_numpy(np.array(canvas)), tuple(placed))


def _vocabulary(split: str) -> tuple[str, ...]:
    return WORDS[::4] if split == "heldout" else tuple(word for i, word in enumerate(WORDS) if i % 4)


def _size_of(name: str) -> int:
    return int(name.partition("/")[2].partition("-")[0])


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


@functools.cache
def _widths(size: int) -> dict[str, int]:
    """px from where a word starts to where it ends."""
    return {word: int(np.ceil(_font(size).getlength(word))) for word in WORDS}


@functools.lru_cache(maxsize=2)  # as the embedded emoji's
def _pixels(side: int) -> Tensor:
    """(N, 3, side, side) uint8, rendered once per process; the three channels are one in memory."""
    names = [name for split in PAGES for size in sizes(side) for name in page_names(split, size)]
    return torch.stack([render(name, side).pixels for name in names])[:, None].expand(-1, 3, -1, -1)
