"""Test charts whose content is known: zone plate, Siemens star, gratings, rendered text, slanted edges.

Each is a grey image (1, side, side) in float32, in [-1, 1]. The first three hold no frequency above the image's own
Nyquist frequency, 0.5 cycles per px, so that all the aliasing seen in a view of them arose in the view. Edges are
sampled as a camera's pixels do, each of which averages what it covers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TEXT_SIZES = (8, 9, 10, 11, 12, 14, 16, 18, 20, 24)  # px
SENTENCE = "Sphinx of black quartz, judge my vow: 0123456789 fine print, clear lines and steady type."


def zone_plate(side: int, highest: float = 0.45) -> Tensor:
    """cos(pi h r^2 / R) within R = side/2 px of the centre: the frequency rises evenly from 0 to h = `highest` at R.

    Every frequency and every direction occurs once, at a place of its own: where a view shows other rings than the
    innermost, they are alias. Raises ValueError for a side below 1 or `highest` outside (0, 0.5] cycles per px.
    """
    _check(side, highest)
    y, x = _centred(side)
    distance, radius = torch.hypot(y, x), side / 2
    return _faded(torch.cos(math.pi * highest * distance**2 / radius), distance, radius)


def siemens_star(side: int, spokes: int = 36, highest: float = 0.45) -> Tensor:
    """cos(spokes * angle): the frequency, spokes / (2 pi r), falls outwards. Grey where it would exceed `highest`."""
    _check(side, highest)
    y, x = _centred(side)
    distance = torch.hypot(y, x)
    inner = spokes / (2 * math.pi * highest)
    star = _faded(torch.cos(spokes * torch.atan2(y, x)), distance, side / 2)
    return star * ((distance - inner) / 2).clamp(0, 1).float()


def grating(side: int, frequency: float, degrees: float = 0.0) -> Tensor:
    """A cosine of `frequency` cycles per px whose lines run upright at 0 degrees and lie flat at 90."""
    _check(side, frequency)
    y, x = _centred(side)
    angle = math.radians(degrees)
    return torch.cos(2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle)))[None].float()


def rendered_text(side: int, sizes: Sequence[int] = TEXT_SIZES) -> Tensor:
    """Black on white lines of antialiased text, one per size in px, repeated until the image is full.

    Set in the font that Pillow carries, so that it looks alike on every machine. Raises ValueError without a size.
    """
    _check(side)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes must hold font sizes of at least 1 px, got {tuple(sizes)}")
    page = Image.new("L", (side, side), 255)
    draw = ImageDraw.Draw(page)
    top, line = 0.0, 0
    while top < side:
        size = sizes[line % len(sizes)]
        draw.text((2, top), SENTENCE, fill=0, font=ImageFont.load_default(size))
        top += 1.25 * size
        line += 1
    return torch.from_numpy(np.asarray(page, dtype=np.float32) / 127.5 - 1)[None]


def slanted_edge(side: int, degrees: float, contrast: float = 0.5) -> Tensor:
    """-contrast left of a straight edge through the centre and +contrast right of it; `degrees` clockwise from upright.

    Each pixel is the exact mean over its area, so that the edge's place in a row can be told to a fraction of a pixel.
    Row r crosses it at (side - 1) / 2 - (r - (side - 1) / 2) tan(degrees). Raises ValueError beyond 45 degrees and for
    a contrast outside (0, 1].
    """
    _check(side)
    if abs(degrees) > 45 or not 0 < contrast <= 1:
        raise ValueError(f"degrees must be in [-45, 45] and contrast in (0, 1], got {degrees} and {contrast}")
    y, x = _centred(side)
    angle = math.radians(degrees)
    across, along = math.cos(angle), max(abs(math.sin(angle)), 1e-6)
    distance = x * across + y * math.sin(angle)  # px right of the edge
    # Seen along the edge a pixel is a trapezoid, box(across) * box(along); its integral is a second difference.
    total = torch.zeros(side, side, dtype=torch.float64)
    for first in (1, -1):
        for second in (1, -1):
            ramp = (distance + (first * across + second * along) / 2).clamp(0, across + along)
            total += first * second * ramp.square()
    total = torch.where(distance > (across + along) / 2, 2 * across * along, total)
    return contrast * (total / (across * along) - 1)[None].float()


def _centred(side: int) -> tuple[Tensor, Tensor]:
    """y (side, 1) and x (1, side) in px from the image's centre, float64."""
    position = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    return position[:, None], position[None, :]


def _faded(pattern: Tensor, distance: Tensor, radius: float) -> Tensor:
    """The pattern within the radius and grey outside, joined over an eighth of the radius: an edge would alias too."""
    ramp = ((radius - distance) / (radius / 8)).clamp(0, 1)
    return (pattern * (0.5 - 0.5 * torch.cos(math.pi * ramp)))[None].float()


def _check(side: int, frequency: float = 0.5) -> None:
    if side < 1:
        raise ValueError(f"side must be at least 1 px, got {side}")
    if not 0 < frequency <= 0.5:
        raise ValueError(f"frequency must be in (0, 0.5] cycles per px, got {frequency}")
