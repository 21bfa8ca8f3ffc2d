"""The staircase on a slanted edge: what decimation without a low-pass, or a grid of tokens, makes of a straight line.

Edges of known place and slant are rendered (`charts.slanted_edge`), put through what is to be measured, and found again
in every row to a fraction of a pixel: as the centroid of the line spread, the row's derivative, under a window around
the place where the edge was drawn. ISO 12233 finds its slanted edge in this way, fits a straight line and goes on to
the edge's sharpness; what the line leaves over is the score here. That use of it is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fvar.data import charts

DEGREES = (4.0, -8.0, 12.0, -16.0)  # each of an upright and of a lying edge
CONTRAST = 0.5  # leaves room for overshoot within [-1, 1]
FAINTEST = 0.25  # share of the contrast that must be left in a row for its edge to be found
MARGIN = 8  # a side's eighth is left out at both ends, where borders are felt; as wide is the window to either side

Reconstruct = Callable[[Tensor], Tensor]  # images (B, 3, S, S) in [-1, 1] -> the same, after a round trip


class Staircase(NamedTuple):
    """How far edges stray from a straight line."""

    jitter: float  # px, root mean square over all rows; nan where fewer than half of them show an edge
    found: float  # share of the rows in which the edge was found


def staircase(reconstruct: Reconstruct, side: int) -> Staircase:
    """Edge jitter of images of that side after `reconstruct`, over `DEGREES` and both orientations.

    0 is a straight edge; keeping every s-th pixel and filling the gaps gives (s - 1) / sqrt(12), a sawtooth. A shift of
    the whole edge or another slant does not count as jitter, and neither does blur. Raises ValueError below 16 px.
    """
    if side < 16:
        raise ValueError(f"an edge needs images of at least 16 px, got {side}")
    upright = torch.stack([charts.slanted_edge(side, degrees, CONTRAST) for degrees in DEGREES]).expand(-1, 3, -1, -1)
    result = reconstruct(torch.cat([upright, upright.mT])).float().mean(1).cpu()
    rows = torch.cat([result[: len(DEGREES)], result[len(DEGREES) :].mT])  # (2 angles, S, S), all upright again
    positions = torch.stack([edge_positions(edge, degrees) for edge, degrees in zip(rows, 2 * DEGREES, strict=True)])
    residuals = [straight_line_residuals(line) for line in positions]
    found = sum(len(residual) for residual in residuals)
    freedom = found - 2 * len(residuals)
    if found < positions.numel() / 2 or freedom < 1:
        return Staircase(math.nan, found / positions.numel())
    total = sum(float(residual.square().sum()) for residual in residuals)
    return Staircase(math.sqrt(total / freedom), found / positions.numel())


def edge_positions(image: Tensor, degrees: float) -> Tensor:
    """Where the edge drawn by `charts.slanted_edge` stands in each row of `image` (S, S), in px from column 0.

    Rows of the margins are left out; nan where less than `FAINTEST` of the contrast is left. float64.
    """
    side = len(image)
    margin = max(side // MARGIN, 4)
    centre = (side - 1) / 2
    rows = torch.arange(margin, side - margin, dtype=torch.float64)
    drawn = centre - (rows - centre) * math.tan(math.radians(degrees))  # (R,)
    spread = image.double().diff(dim=1)[margin : side - margin]  # (R, S - 1), between columns c and c + 1
    away = torch.arange(side - 1, dtype=torch.float64) + 0.5 - drawn[:, None]
    weighted = spread * (0.5 + 0.5 * torch.cos(math.pi * (away / margin).clamp(-1, 1)))  # a Hann window
    step = weighted.sum(1)
    return torch.where(step > FAINTEST * 2 * CONTRAST, drawn + (weighted * away).sum(1) / step, torch.nan)


def straight_line_residuals(positions: Tensor) -> Tensor:
    """What the least-squares line through (row, position) leaves of `positions` (R,), without those that are nan."""
    rows = torch.arange(len(positions), dtype=positions.dtype)
    known = ~positions.isnan()
    if known.sum() < 3:
        return positions[:0]
    design = torch.stack([torch.ones_like(rows), rows], dim=1)[known]
    fitted: Tensor = design @ torch.linalg.lstsq(design, positions[known, None]).solution
    return positions[known] - fitted.squeeze(1)
