"""Samples of all variants side by side: images of the same class and place, and films of how they come into focus."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import gallery
from analysis.results import CellResult, StudyResults

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]  # (H, W, 3)

CLASSES, EACH = 12, 6  # shown at most: classes, and samples per class
BUDGET = 2_600_000  # bytes of all images of a page, as text; the page stays below 5 MB
LOSSLESS = 128  # px, side up to which images are shown without loss
QUALITY = 90  # of WebP above that
WIDEST = 1400  # px, of a figure


@dataclass(frozen=True)
class Row:
    """A variant's samples of one class, and the frames of one of them, as data URIs."""

    label: str
    seed: int
    images: list[str] = field(default_factory=list)
    film: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """One class: a row per variant, with as many images in each."""

    label: int
    name: str
    rows: list[Row]


@dataclass(frozen=True)
class Samples:
    """What the browser shows."""

    groups: list[Group]
    left_out: list[str]  # labels of variants whose samples have other classes in their places
    lossless: bool
    full: int  # images per class that fitted

    @property
    def has_films(self) -> bool:
        return any(row.film for group in self.groups for row in group.rows)


def samples(results: StudyResults, budget: int = BUDGET) -> Samples | None:
    """The first samples of each class, as many as fit the budget; None where no variant has any."""
    cells = [cell for group in results.variants().values() if (cell := gallery.first_sampled(group))]
    cells = [cell for cell in cells if (cell.chain["samples"].path / gallery.SAMPLES).exists()]
    if not cells:
        return None
    archives = {cell.variant: gallery.read(cell) for cell in cells}
    labels = archives[cells[0].variant][1]
    chosen = places(labels)
    needed = [place for own in chosen.values() for place in own]
    same = [cell for cell in cells if _agree(archives[cell.variant][1], labels, needed)]
    names = gallery.class_names(cells[0])
    groups = [
        Group(label, names.get(label, f"class {label}"), [Row(cell.label, cell.seed) for cell in same])
        for label in chosen
    ]
    spent = _add_films(groups, same)
    full = 0
    for rank in range(EACH):
        made = []
        for group in groups:
            if rank < len(chosen[group.label]):
                place = chosen[group.label][rank]
                made += [
                    (row, encoded(archives[cell.variant][0][place])) for row, cell in zip(group.rows, same, strict=True)
                ]
        spent += sum(len(uri) for _, uri in made)
        if rank and spent > budget:
            break
        for row, uri in made:
            row.images.append(uri)
        full = rank + 1
    lossless = archives[cells[0].variant][0].shape[1] <= LOSSLESS
    return Samples(groups, [cell.label for cell in cells if cell not in same], lossless, full)


def places(labels: NDArray[np.int64]) -> dict[int, list[int]]:
    """Which samples may be shown: the first `EACH` of evenly spaced classes, by class."""
    import numpy as np

    classes = sorted(set(labels.tolist()))
    count = min(CLASSES, len(classes))
    shown = [classes[index * len(classes) // count] for index in range(count)]
    return {label: np.flatnonzero(labels == label)[:EACH].tolist() for label in shown}


def _agree(labels: NDArray[np.int64], others: NDArray[np.int64], places: Sequence[int]) -> bool:
    return len(labels) > max(places) and labels[list(places)].tolist() == others[list(places)].tolist()


def _add_films(groups: Sequence[Group], cells: Sequence[CellResult]) -> int:
    """Give each row the film of its class where its samples have one; the bytes they take."""
    import numpy as np

    spent = 0
    for index, cell in enumerate(cells):
        path = cell.chain["samples"].path / gallery.FILMS
        if not path.exists():
            continue
        with np.load(path, allow_pickle=False) as archive:
            films, labels = archive["arr_0"], archive["labels"].tolist()  # (N, K, H, W, 3), (N,)
        for group in groups:
            if group.label in labels:
                group.rows[index].film.extend(encoded(frame) for frame in films[labels.index(group.label)])
                spent += sum(map(len, group.rows[index].film))
    return spent


def encoded(pixels: Pixels) -> str:
    """An image as a data URI."""
    from PIL import Image

    return _uri(Image.fromarray(pixels), lossless=max(pixels.shape[:2]) <= LOSSLESS)


def figures(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Pictures of a folder as data URIs by name, made no wider than `WIDEST`; those that are missing are left out."""
    from PIL import Image

    found = {}
    for name in names:
        if (folder / name).exists():
            with Image.open(folder / name) as opened:
                picture = opened.convert("RGB")
            if picture.width > WIDEST:
                picture = picture.resize(
                    (WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS
                )
            found[name] = _uri(picture, lossless=False)
    return found


def _uri(picture: object, lossless: bool) -> str:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=lossless, quality=100 if lossless else QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
