"""VAR left, FVAR right: samples of the same class and seed in pairs, with a detail of each enlarged.

    python analysis/pairs.py [STUDY] [--preset smoke] [--results results]

The detail is the same square in both images: where the one that varies less there varies the most.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import gallery, style
from analysis.results import StudyResults
from fvar.errors import run_main

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]  # (H, W, 3)

SIDES = ("baseline", "full")  # variants: left, right
MOST, PER_ROW = 9, 3  # pairs
PART = 4  # the detail's side is this part of the image's
INSET = 0.45  # side of the enlarged detail, in sides of the image


def draw(results: StudyResults) -> list[Path]:
    """Write pairs.png and .pdf into the study's folder. Raises `NothingToDraw` where not both sides have samples."""
    variants = results.variants()
    cells = [gallery.first_sampled(variants.get(name, [])) for name in SIDES]
    left, right = cells
    if left is None or right is None or left.seed != right.seed:
        raise style.NothingToDraw(f"{results.study} has no samples of {' and '.join(SIDES)} at one seed")
    (ours, labels), (theirs, other) = gallery.read(left), gallery.read(right)
    same = [index for index in range(min(len(labels), len(other))) if labels[index] == other[index]]
    chosen = _one_per_class([int(labels[index]) for index in same])
    names = gallery.class_names(left)
    pairs = [(names.get(label, f"class {label}"), ours[same[at]], theirs[same[at]]) for label, at in chosen]
    figure = _picture(pairs, (left.label, right.label))
    figure.suptitle(f"{results.title} · preset {results.preset} · seed {left.seed}", x=0.01, ha="left")
    return style.save(figure, results.folder / "pairs.png")


def _one_per_class(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Class and place of its first sample, for `MOST` evenly spaced classes at most."""
    classes = sorted(set(labels))
    count = min(MOST, len(classes))
    return [
        (label, labels.index(label)) for label in (classes[index * len(classes) // count] for index in range(count))
    ]


def places(labels: Sequence[int]) -> list[int]:
    """Which samples of a variant may be shown, where the other variant's have the same labels."""
    return [place for _, place in _one_per_class(labels)]


def detail(first: Image, second: Image) -> tuple[int, int, int]:
    """Top, left and side in px of the square in which the less varied of two images varies the most."""
    import numpy as np

    side = max(2, first.shape[0] // PART)
    grey = np.stack([first, second]).astype(float).mean(axis=-1)  # (2, H, W)
    steps = max(1, side // 2)
    corners = [
        (top, left)
        for top in range(0, grey.shape[1] - side + 1, steps)
        for left in range(0, grey.shape[2] - side + 1, steps)
    ]
    contrast = [grey[:, top : top + side, left : left + side].var(axis=(1, 2)).min() for top, left in corners]
    return (*corners[int(np.argmax(contrast))], side)


def _picture(pairs: Sequence[tuple[str, Image, Image]], labels: tuple[str, str]) -> Figure:
    """The pairs in rows, a class's name on top of each, the sides' labels on top of all."""
    rows, columns = -(-len(pairs) // PER_ROW), min(PER_ROW, len(pairs))
    width = style.PAGE * columns / PER_ROW
    side, gap = (width / columns - 0.2) / 2, 0.05
    figure = style.new_figure(width, 0.75 + rows * (side + 0.25), placed=True)
    total_w, total_h = figure.get_size_inches()
    for number, (name, *images) in enumerate(pairs):
        row, column = divmod(number, columns)
        top = total_h - 0.72 - row * (side + 0.25)
        x = column * width / columns + 0.1
        figure.text((x + side) / total_w, (top + 0.04) / total_h, name.replace("_", " "), ha="center", va="bottom")
        corner = detail(*images)
        for position, image in enumerate(images):
            at = (x + position * (side + gap), top - side, side, side)
            ax = figure.add_axes((at[0] / total_w, at[1] / total_h, at[2] / total_w, at[3] / total_h))
            _with_detail(ax, image, *corner)
            if row == 0:
                centre, above = (at[0] + side / 2) / total_w, (top + 0.2) / total_h
                figure.text(centre, above, textwrap.shorten(labels[position], 20), ha="center", weight="bold")
    return figure


def _with_detail(ax: Axes, image: Image, top: int, left: int, side: int) -> None:
    """An image, a frame around the detail, and that enlarged in the corner farthest from it."""
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    ax.imshow(image, extent=(0, width, height, 0), interpolation="antialiased")
    inset_side = INSET * width
    x = 0 if left + side / 2 > width / 2 else width - inset_side
    y = 0 if top + side / 2 > height / 2 else height - inset_side
    part = image[top : top + side, left : left + side]
    ax.imshow(part, extent=(x, x + inset_side, y + inset_side, y), interpolation="nearest", zorder=2)
    for place, extent in (((left, top), side), ((x, y), inset_side)):
        ax.add_patch(Rectangle(place, extent, extent, fill=False, edgecolor=style.PALETTE[1], linewidth=0.8, zorder=3))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.axis("off")


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw VAR's samples beside FVAR's.", draw, argv, "ablation_table2")


if __name__ == "__main__":
    run_main(main)
