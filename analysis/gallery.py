"""Samples of a study's variants in one picture: a row of real images, then one row per variant, columns by class.

    python analysis/gallery.py [STUDY] [--preset smoke] [--results results]

Images of one column have the same class and random seed in every row, so that rows differ by the variant alone. Where
samples were searched for copies (`scores.heldout`), the training image nearest to each stands below it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import real_images, style
from analysis.results import CellResult, StudyResults
from fvar.errors import UserError, run_main

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Images = NDArray[np.uint8]  # (N, H, W, 3)
    Row = list[NDArray[np.uint8] | None]  # images (H, W, 3), None where there is none

COLUMNS = 18  # at most, over all classes
NEAREST_FILE = "nearest.npz"  # of a scores stage, see fvar/stages/scores.py
SAMPLES, FILMS = "samples.npz", "films.npz"  # of a samples stage
LABEL_INCHES, HEAD_INCHES = 1.35, 0.65


def draw(results: StudyResults) -> list[Path]:
    """Write samples.png and .pdf into the study's folder. Raises `NothingToDraw` where no variant has samples yet."""
    import numpy as np

    sampled = {cells[0].label: cell for cells in results.variants().values() if (cell := first_sampled(cells))}
    if not sampled:
        raise style.NothingToDraw(
            f"no variant of {results.study} has samples yet; "
            f"let `python -m studies.run {results.study} --preset {results.preset}` go on first"
        )
    archives = {label: read(cell) for label, cell in sampled.items()}
    labels = next(iter(archives.values()))[1]
    chosen = columns(labels)
    rows: dict[str, Row] = {}
    for label, (images, own_labels) in archives.items():
        if len(own_labels) < len(labels) or not np.array_equal(own_labels[chosen], labels[chosen]):
            raise UserError(f"the samples of {label} have other classes in their places; compare them one by one")
        rows[label] = list(images[chosen])
        if (near := _nearest(sampled[label], chosen)) is not None:
            rows[f"its nearest training images ({label})"] = near
    heads, real = _real(next(iter(sampled.values())), labels[chosen].tolist())
    if any(image is not None for image in real):
        rows = {"real images": real} | rows
    figure = picture(rows, labels[chosen].tolist(), heads)
    seed = next(iter(sampled.values())).seed
    figure.suptitle(f"{results.title} · preset {results.preset} · seed {seed}", x=0.01, ha="left")
    return style.save(figure, results.folder / "samples.png")


def columns(labels: NDArray[np.int64]) -> list[int]:
    """Which samples to show: equally many of each class, of evenly spaced classes where there are too many."""
    classes = sorted(set(labels.tolist()))
    if len(classes) > COLUMNS:
        classes = [classes[index * len(classes) // COLUMNS] for index in range(COLUMNS)]
    fewest = min(int((labels == label).sum()) for label in classes)
    each = max(1, min(COLUMNS // len(classes), fewest))
    return [int(index) for label in classes for index in (labels == label).nonzero()[0][:each]]


def first_sampled(cells: Sequence[CellResult]) -> CellResult | None:
    """The first cell whose samples are done."""
    return next((cell for cell in cells if (run := cell.chain.get("samples")) is not None and run.done), None)


def read(cell: CellResult) -> tuple[Images, NDArray[np.int64]]:
    """Images (N, H, W, 3) uint8 and labels (N,) of a cell's samples."""
    import numpy as np

    with np.load(cell.chain["samples"].path / SAMPLES, allow_pickle=False) as archive:
        return archive["arr_0"], archive["labels"]


def class_names(cell: CellResult) -> dict[int, str]:
    """Class names by number, as its token store lists them; empty where that is not at hand."""
    with contextlib.suppress(KeyError, OSError, ValueError):
        return dict(enumerate(json.loads((cell.chain["tokens"].path / "manifest.json").read_text())["class_names"]))
    return {}


def _real(cell: CellResult, labels: Sequence[int]) -> tuple[dict[int, str], Row]:
    """Class names, and for each label a real image of that class, the next one for each repetition while there are any.

    Without the data at hand (they may live on another machine): class numbers, and no images.
    """
    heads = {label: f"class {label}" for label in labels} | class_names(cell)
    images = cast("Row", [None] * len(labels))
    config = cell.scores_config
    if config is not None:
        with contextlib.suppress(UserError, OSError):
            names, places, pixels = real_images.of_classes(config.reference, config.split, labels)
            heads |= {label: names[label] for label in labels if label < len(names)}
            for place, image in zip(places, pixels, strict=True):
                images[place] = image
    return heads, images


def _nearest(cell: CellResult, chosen: Sequence[int]) -> Row | None:
    """Of each chosen sample the training image nearest to it; None where none was searched, or without the data."""
    import numpy as np

    config, run = cell.scores_config, cell.chain.get("scores")
    if config is None or run is None or not (path := run.path / NEAREST_FILE).exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            numbers = archive["nearest"][list(chosen)].tolist()
        return list(real_images.numbered(config.reference, "train", numbers))
    except (UserError, OSError):
        return None


def picture(rows: dict[str, Row], labels: Sequence[int], heads: dict[int, str]) -> Figure:
    """Rows of images with labels on the left and class names on top; classes are set apart by a gap."""
    gap = 0.12  # of an image's side, between classes
    lefts = [column + gap * len(set(labels[: column + 1])) for column in range(len(labels))]
    width, height = lefts[-1] + 1, len(rows)
    side = min(1.0, (style.PAGE - LABEL_INCHES) / width)  # of an image, in inches
    figure = style.new_figure(LABEL_INCHES + side * width, HEAD_INCHES + side * height, placed=True)
    total_w, total_h = figure.get_size_inches()
    ax = figure.add_axes((LABEL_INCHES / total_w, 0.01, side * width / total_w, side * height / total_h))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.axis("off")
    for row, (label, images) in enumerate(rows.items()):
        ax.text(-0.1, row + 0.5, textwrap.fill(label, 22), ha="right", va="center")
        for left, image in zip(lefts, images, strict=True):
            if image is None:
                continue
            ax.imshow(image, extent=(left + 0.02, left + 0.98, row + 0.98, row + 0.02), interpolation="antialiased")
    for number in dict.fromkeys(labels):
        mine = [left for left, own in zip(lefts, labels, strict=True) if own == number]
        name = textwrap.fill(
            heads[number].replace("_", " "), max(5, round(16 * side * len(mine))), break_long_words=False
        )
        ax.text((mine[0] + mine[-1] + 1) / 2, -0.08, name, ha="center", va="bottom")
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw samples of a study's variants side by side.", draw, argv, "ablation_table2")


if __name__ == "__main__":
    run_main(main)
