"""What an OCR reads of words that went through a tokenizer: error rates as curves, and the words themselves.

    python analysis/plot_readability.py [STUDY] [--preset smoke] [--results results]

readability.png    character error rate by font size: of all scales, and of every scale of each tokenizer
strip.png          one word per size, as rendered and as reconstructed from all scales, with what the OCR read beneath
clarity.png        the largest of these words after every scale, and in the focused views themselves
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import style
from analysis.results import CellResult, StudyResults
from analysis.stats import Spread, spread
from fvar.config import TokenizerConfig
from fvar.errors import run_main

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

RIGHT, WRONG = style.PALETTE[4], style.PALETTE[1]
BESIDE: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"}  # a label at the head of a row

PER_ROW = 2  # panels by scale
WIDEST = 3.2  # of a word in a picture, in heights

Picture = tuple[str, int]  # "original", "view" or "reconstruction", and its scale from 1
ORIGINAL: Picture = ("original", 0)


@dataclass(frozen=True)
class Readings:
    """What the finished cells of one variant (its seeds) found."""

    label: str
    cells: Sequence[CellResult]  # finished ones, at least one

    @classmethod
    def of(cls, results: StudyResults) -> dict[str, Readings]:
        """By variant, in the study's order; variants without a finished cell are left out."""
        found = {}
        for variant, cells in results.variants().items():
            if read := [cell for cell in cells if cell.state[0] == "done" and "readability" in cell.chain]:
                found[variant] = cls(cells[0].label, read)
        return found

    @classmethod
    def read(cls, results: StudyResults) -> dict[str, Readings]:
        """`of`, or `NothingToDraw` where no cell is done yet."""
        if found := cls.of(results):
            return found
        raise style.NothingToDraw(
            f"nothing of {results.study} was read yet; "
            f"let `python -m studies.run text_readability --preset {results.preset}` go on first"
        )

    @cached_property
    def bodies(self) -> list[dict[str, Any]]:
        """readability.json of every cell."""
        return [json.loads((self._folder(cell) / "readability.json").read_text()) for cell in self.cells]

    @cached_property
    def rates(self) -> dict[tuple[Picture, int], Spread]:
        """Error rate by picture and font size. Its spread: over seeds, or of one seed the standard error over words."""
        values: dict[tuple[Picture, int], list[dict[str, Any]]] = {}
        for body in self.bodies:
            for row in body["rates"]:
                values.setdefault(((row["picture"], row["scale"]), row["size"]), []).append(row)
        found = {}
        for key, rows in values.items():
            over_seeds = spread(row["value"] for row in rows)
            assert over_seeds is not None
            found[key] = over_seeds if len(rows) > 1 else Spread(over_seeds.mean, rows[0]["spread"], 1)
        return found

    @property
    def steps(self) -> int:
        """For how many steps the tokenizer was trained."""
        return self.cells[0].chain["readability.tokenizer"].config_as(TokenizerConfig).train.steps

    @property
    def sizes(self) -> list[int]:
        """Font sizes in px, rising."""
        return sorted({size for _, size in self.rates})

    @property
    def pictures(self) -> list[Picture]:
        """What was read: the original, the views, the reconstructions, each by scale."""
        return list(dict.fromkeys(picture for picture, _ in self.rates))

    @property
    def last(self) -> Picture:
        """The reconstruction from all scales."""
        return max(picture for picture in self.pictures if picture[0] == "reconstruction")

    def example(self, picture: Picture, size: int) -> tuple[NDArray[np.uint8], str, str]:
        """A word of one size: its picture (h, w, 3), what it says, what was read. Of the first seed."""
        import numpy as np

        row = next(
            row for row in self.bodies[0]["examples"] if (row["picture"], row["scale"], row["size"]) == (*picture, size)
        )
        with np.load(self._folder(self.cells[0]) / "words.npz", allow_pickle=False) as archive:
            return archive[f"{size}/{picture[0]}/{picture[1]}"], row["text"], row["read"]

    @staticmethod
    def _folder(cell: CellResult) -> Path:
        return cell.chain["readability"].path


def views(found: Mapping[str, Readings]) -> Readings | None:
    """One of the variants that have focused views: these are the pyramid's, whatever the tokenizer learned on."""
    return next((r for r in found.values() if any(kind == "view" for kind, _ in r.pictures)), None)


def draw(results: StudyResults) -> list[Path]:
    """Write the three pictures, as PNG and as PDF, into the study's folder.

    Raises `NothingToDraw` where no cell is done yet.
    """
    return [path for name in FIGURES for path in draw_one(results, name)]


def draw_one(results: StudyResults, name: str) -> list[Path]:
    """Write one picture of `FIGURES`, as PNG and as PDF. Raises `NothingToDraw` where no cell is done yet."""
    found = Readings.read(results)
    figure = FIGURES[name](found)
    figure.suptitle(style.heading(results), x=0.01, ha="left")
    return style.save(figure, results.folder / name)


# --------------------------------------------------------------------------------------------------------------- curves


def _curves(found: Mapping[str, Readings]) -> Figure:
    """A panel for all tokenizers at their last scale; beside it one for each by scale, two in a row."""
    rows, first = math.ceil(len(found) / PER_ROW), next(iter(found.values()))
    figure = style.new_figure(style.PAGE, 0.9 + 2.3 * rows)
    grid = figure.subplots(rows, 1 + PER_ROW, sharey=True, squeeze=False)
    _all_scales(grid[0, 0], found)
    panels = list(grid[:, 1:].flat)
    for ax, readings in zip(panels, found.values(), strict=False):
        _by_scale(ax, readings)
    for ax in [*grid[1:, 0], *panels[len(found) :]]:
        ax.axis("off")
    for ax in [grid[0, 0], *panels[: len(found)]]:
        ax.set_xlabel("font size (px)")
        ax.set_xscale("log", base=2)
        ax.set_xticks(first.sizes, [str(size) for size in first.sizes])
        ax.minorticks_off()
        ax.set_ylim(bottom=-3)
        ax.tick_params(labelleft=True)
    most = max(panels, key=lambda ax: len(ax.get_legend_handles_labels()[0]))
    lines, labels = most.get_legend_handles_labels()
    if rows > 1:
        grid[1, 0].legend(lines, labels, loc="center", ncols=2, title="after each scale")
    else:
        figure.legend(lines, labels, loc="outside lower center", ncols=4, title="after each scale")
    return figure


def _all_scales(ax: Axes, found: Mapping[str, Readings]) -> None:
    first = next(iter(found.values()))
    _curve(ax, first, ORIGINAL, color="black", linestyle=":", label="as rendered")
    for index, (readings, colour) in enumerate(zip(found.values(), style.colours(1 + len(found))[1:], strict=True)):
        dash = style.DASHES[index % len(style.DASHES)]
        _curve(ax, readings, readings.last, color=colour, linestyle=dash, label=readings.label)
    ax.set_title("all scales decoded")
    ax.set_ylabel("characters misread (%)")
    ax.legend(loc="best")


def _by_scale(ax: Axes, readings: Readings) -> None:
    """A tokenizer's scales, the later the darker; dashed what the focused views themselves show."""
    import matplotlib

    shades, last = matplotlib.colormaps["viridis_r"], readings.last[1]
    for picture in readings.pictures:
        kind, scale = picture
        if kind == "original":
            continue
        name = f"scales 1 to {scale}" if scale > 1 else "scale 1"
        text, dash = (name, "-") if kind == "reconstruction" else (f"view $L_{scale}$ itself", "--")
        _curve(ax, readings, picture, color=shades(0.15 + 0.8 * scale / last), linestyle=dash, label=text)
    ax.set_title(readings.label)


def _curve(ax: Axes, readings: Readings, picture: Picture, **style_of_line: Any) -> None:
    points = [readings.rates[picture, size] for size in readings.sizes]
    means, spreads = [100 * point.mean for point in points], [100 * (point.sd or 0) for point in points]
    ax.errorbar(readings.sizes, means, spreads, marker="o", capsize=1.5, **style_of_line)


# ------------------------------------------------------------------------------------------------------------- pictures


def _strip(found: Mapping[str, Readings]) -> Figure:
    """A row for each font size; columns: as rendered, then each tokenizer."""
    first = next(iter(found.values()))
    sizes = first.sizes
    columns = [(first, ORIGINAL), *((readings, readings.last) for readings in found.values())]
    figure = style.new_figure(style.PAGE, 0.8 + 0.6 * len(sizes))
    grid = figure.subplots(len(sizes), len(columns), squeeze=False)
    for row, size in zip(grid, sizes, strict=True):
        for ax, (readings, picture) in zip(row, columns, strict=True):
            _word(ax, *readings.example(picture, size))
        row[0].set_ylabel(f"{size} px", **BESIDE)
    for ax, text in zip(grid[0], ["as rendered", *(readings.label for readings in found.values())], strict=True):
        ax.set_title(text.replace(", ", ",\n"), loc="center")
    return figure


def _clarity(found: Mapping[str, Readings]) -> Figure:
    """A row for the focused views and one for each tokenizer, a column for each scale."""
    rows = [(readings.label.replace(", ", ",\n"), "reconstruction", readings) for readings in found.values()]
    if seen := views(found):
        rows.insert(0, ("focused views\n$L_k$ themselves", "view", seen))
    scales = max(readings.last[1] for readings in found.values())
    figure = style.new_figure(style.PAGE, 0.8 + 0.65 * len(rows))
    grid = figure.subplots(len(rows), scales, squeeze=False)
    for row, (label, kind, readings) in zip(grid, rows, strict=True):
        for k, ax in enumerate(row, 1):
            picture = (kind, k) if (kind, k) in readings.pictures else ORIGINAL  # which the last view is
            _word(ax, *readings.example(picture, readings.sizes[-1]))
        row[0].set_ylabel(label, **BESIDE)
    for k, ax in enumerate(grid[0], 1):
        ax.set_title(f"scales 1 to {k}" if k > 1 else "scale 1", loc="center")
    return figure


def _word(ax: Axes, picture: NDArray[np.uint8], text: str, read: str) -> None:
    """The word's pixels, and what was read beneath: green where it is right."""
    height, width = picture.shape[:2]
    ax.imshow(picture, interpolation="nearest", extent=(0, width / height, 0, 1))
    ax.set_xlim((width / height - WIDEST) / 2, (width / height + WIDEST) / 2)  # one frame fits them all
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    right = "".join(read.split()).casefold() == text
    ax.set_xlabel(printable(read), color=RIGHT if right else WRONG, parse_math=False, labelpad=2)


FIGURES: dict[str, Callable[[Mapping[str, Readings]], Figure]] = {
    "readability.png": _curves,
    "strip.png": _strip,
    "clarity.png": _clarity,
}


def printable(read: str) -> str:
    """A reading for a figure: what is not Latin script, which the figure's font may lack, as a box."""
    return "".join(char if ord(char) < 0x250 else "□" for char in read.strip()) or "(nothing)"


def main(argv: Sequence[str] | None = None) -> int:
    return style.command("Draw what an OCR reads of each tokenizer.", draw, argv, "text_readability")


if __name__ == "__main__":
    run_main(main)
