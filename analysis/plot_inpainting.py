"""Completed images of a study's variants: the original, what was known of it, and what each made of the rest.

    python analysis/plot_inpainting.py [STUDY] [--preset smoke] [--results results]

One block of rows per mask. Images of one column are of the same held-out image and random seed in every row.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import gallery, style
from analysis.results import CellResult, StudyResults
from fvar.config import SamplesConfig, TokensConfig
from fvar.errors import UserError, run_main

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNKNOWN = 128  # grey level of what was not known


def draw(results: StudyResults) -> list[Path]:
    """Write completed.png and .pdf into the study's folder. Raises `NothingToDraw` where nothing was completed yet."""
    sampled = [cell for cells in results.variants().values() if (cell := gallery.first_sampled(cells))]
    masked = [cell for cell in sampled if _config(cell).mask != "none"]
    if not masked:
        raise style.NothingToDraw(f"no variant of {results.study} has completed images yet")
    labels = gallery.read(masked[0])[1]
    chosen = gallery.columns(labels)
    rows: dict[str, gallery.Row] = {}
    for mask in dict.fromkeys(_config(cell).mask for cell in masked):
        cells = [cell for cell in masked if _config(cell).mask == mask]
        original, known = _given(cells[0], chosen)
        rows.setdefault("original", list(original))
        rows[f"known ({mask})"] = list(known)
        rows |= {cell.label: list(gallery.read(cell)[0][chosen]) for cell in cells}
    shown = labels[chosen].tolist()
    names = gallery.class_names(masked[0])
    figure = gallery.picture(rows, shown, {label: names.get(label, f"class {label}") for label in shown})
    figure.suptitle(f"{results.title} · preset {results.preset} · seed {masked[0].seed}", x=0.01, ha="left")
    return style.save(figure, results.folder / "completed.png")


def _config(cell: CellResult) -> SamplesConfig:
    return cell.chain["samples"].config_as(SamplesConfig)


def _given(cell: CellResult, chosen: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The originals of these samples, (N, H, W, 3), and the same with grey where the mask is.

    Raises `NothingToDraw` where the data are not at hand.
    """
    from fvar import editing

    config = _config(cell)
    try:
        given = editing.originals(cell.chain["tokens"].config_as(TokensConfig).data, config.count)
    except (UserError, OSError) as error:
        raise style.NothingToDraw(f"the originals of {cell.name} are not at hand: {error}") from None
    images = given.batch([index % len(given) for index in chosen])
    known = images.masked_fill(editing.masks(given.image_size)[config.mask], UNKNOWN)
    original, rest = (each.permute(0, 2, 3, 1).numpy() for each in (images, known))
    return original, rest


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw completed images of a study's variants.", draw, argv, "inpainting")


if __name__ == "__main__":
    run_main(main)
