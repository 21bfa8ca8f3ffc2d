"""How figures look, and the command line they share. Importing this module does not import matplotlib.

Figures are drawn at the size at which a paper prints them, one column or the page's width, with text of 8 pt.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.results import StudyResults
from analysis.stats import Spread
from fvar import plugins
from fvar.errors import UserError, one_line
from fvar.machine import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's colours, which stay apart for colour-blind readers, without their yellow, which white paper swallows.
PALETTE = ("#555555", "#D55E00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#000000")
PALETTE_ON_DARK = ("#B0B0B0", *PALETTE[1:7], "#FFFFFF")  # the same, but for the greys, which a dark page swallows
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", "-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)))
COLUMN, PAGE = 3.35, 6.9  # inches: the width of one column of a two-column paper, and of its page of text
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.handlelength": 1.8,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "figure.titlesize": 9,
    "figure.labelsize": 8,
    "savefig.dpi": 300,
    "image.composite_image": False,  # otherwise all images of a PDF are pasted into one, which takes most of its time
    "pdf.fonttype": 42,  # TrueType, embedded, as publishers ask; matplotlib's Type 3 is refused
}
CHARACTERS_PER_INCH = 14  # of a title, at most: with capitals, 9 pt take 15
AXES = {  # what a cell's parameter is called on an axis
    "rho_max": r"largest PSF radius $\rho_\mathrm{max}$ (px at 256 px)",
    "lambda_feat": r"$\lambda_\mathrm{feat}$",
    "lambda_logit": r"$\lambda_\mathrm{logit}$",
    "gate_bias": "initial gate bias",
    "blocks": "blocks with AG-XAttn",
    "depth": "depth",
    "lr": "learning rate",
    "warmup": "warm-up (share of steps)",
    "drop_path": "peak drop path",
    "label_drop": "label drop",
    "scales": "scales $K$",
    "beta": r"noise $\beta$ of the last scale",
    "alias_codes": "alias codes",
    "coarse_views": "weight of coarse views",
}


def colours(count: int) -> list[str]:
    """`count` colours in order: the palette, or shades of one map where there are more lines than it has colours."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    import matplotlib
    from matplotlib.colors import to_hex

    shades = matplotlib.colormaps["viridis"]
    return [to_hex(shades(0.95 * index / (count - 1))) for index in range(count)]


def on_and_off(index: int) -> tuple[int, ...]:
    """The dashes of line `index` as lengths in px, as a browser draws them; empty for a solid line."""
    lengths: dict[str, tuple[int, ...]] = {"-": (), "--": (7, 4), "-.": (7, 3, 2, 3)}
    dash = DASHES[index % len(DASHES)]
    return lengths[dash] if isinstance(dash, str) else tuple(2 * length for length in dash[1])


def recipe_colours(count: int) -> list[str]:
    """Colours of the ways to build a pyramid, of which the eight first are always the same."""
    fixed = [PALETTE[index] for index in (0, 6, 4, 2, 1, 5, 3, 7)]
    return fixed[:count] if count <= len(fixed) else [*fixed, *colours(count + 3)[len(fixed) + 3 :]]


def new_figure(width: float, height: float, placed: bool = False) -> Figure:
    """An empty figure of `width` x `height` inches, drawn without a display.

    `placed` says that its axes are placed by hand. Otherwise matplotlib finds room for them, for which it draws all
    that is in the figure once more.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout=None if placed else "constrained")
    FigureCanvasAgg(figure)
    return figure


class NothingToDraw(UserError):
    """There is nothing of this kind to show (yet): no sweep, no curve, no samples."""


Drawings = Mapping[str, Callable[[], Path | list[Path]]]  # by the name of the (first) file


def draw_each(drawings: Drawings, say: Callable[[str], None]) -> tuple[list[Path], list[str]]:
    """Draw one after another; the files, and the names of those that failed.

    What fails costs that drawing and a line. What there is nothing to show of is left out in silence.
    """
    files: list[Path] = []
    failed: list[str] = []
    for name, draw in drawings.items():
        try:
            drawn = draw()
            files += drawn if isinstance(drawn, list) else [drawn]
        except NothingToDraw:
            continue
        except Exception as error:
            say(f"warning: {name} is not drawn: {one_line(error)}")
            failed.append(name)
    return files, failed


def heading(results: StudyResults, width: float = PAGE) -> str:
    """Title line of every figure: what, at which preset, with how many seeds; broken to fit `width` inches."""
    seeds = len({cell.seed for cell in results.cells})
    text = f"{results.title} · preset {results.preset} · {seeds} seed{'s' * (seeds > 1)}"
    return textwrap.fill(text, round(CHARACTERS_PER_INCH * width))


def interval(point: Spread, scale: float = 1.0) -> tuple[float, float]:
    """Ends of the 95 % interval of a mean over seeds; both are the mean where there are too few seeds for one."""
    half = point.half_width or 0.0
    return scale * (point.mean - half), scale * (point.mean + half)


def meaning(points: Iterable[Spread], mark: str) -> str:
    """What `mark` (bars, bands) shows in a figure of these points; empty where none has an interval."""
    counts = sorted({point.n for point in points if point.half_width is not None})
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else "".join(map(str, counts))
    return f"{mark}: 95 % interval of the mean over {several} seeds" if counts else ""


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a PNG, and a PDF beside it, atomically; the same figure gives the same bytes. Returns both."""
    undated = {"Creator": "fvar", "Producer": "fvar", "CreationDate": None}
    files = {path: {"Software": "fvar"}, path.with_suffix(".pdf"): undated}
    for file, metadata in files.items():
        with atomic.replacing(file) as temporary:
            figure.savefig(temporary, format=file.suffix[1:], metadata=metadata)
    return list(files)


def command(
    description: str, draw: Callable[[StudyResults], Path | list[Path]], argv: Sequence[str] | None, study: str
) -> int:
    """The command line that every figure has: `STUDY [--preset] [--results]`. Draws from results alone."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("study", nargs="?", default=study, help=f"name of a study that was run (default: {study})")
    parser.add_argument("--preset", default="smoke", help="preset it was run at (default: smoke)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of the results (default: results)"
    )
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="that the study is of")
    arguments = parser.parse_args(argv)
    plugins.load(arguments.plugin)
    for name in (arguments.study, arguments.preset):
        if Path(name).name != name or name.startswith("."):
            raise UserError(f"{name!r} is not the name of a study or preset")
    drawn = draw(StudyResults.read(arguments.results, arguments.study, arguments.preset))
    print("\n".join(map(str, drawn if isinstance(drawn, list) else [drawn])))
    return 0
