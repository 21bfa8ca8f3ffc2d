"""How figures look, and the command line they share. Importing this module does not import matplotlib."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.results import StudyResults
from fvar.errors import UserError, one_line
from fvar.machine import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's colours, which stay apart for colour-blind readers, without their yellow, which white paper swallows.
PALETTE = ("#555555", "#D55E00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#000000")
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", "-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)))
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "figure.titlesize": 14,
    "savefig.dpi": 150,
}
AXES = {  # what a cell's parameter is called on an axis
    "rho_max": r"largest PSF radius $\rho_\mathrm{max}$ (px at 256 px)",
    "lambda_feat": r"$\lambda_\mathrm{feat}$",
    "lambda_logit": r"$\lambda_\mathrm{logit}$",
    "gate_bias": "initial gate bias",
    "blocks": "blocks with AG-XAttn",
    "depth": "depth",
}


def colours(count: int) -> list[str]:
    """`count` colours in order: the palette, or shades of one map where there are more lines than it has colours."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    import matplotlib
    from matplotlib.colors import to_hex

    shades = matplotlib.colormaps["viridis"]
    return [to_hex(shades(0.95 * index / (count - 1))) for index in range(count)]


def recipe_colours(count: int) -> list[str]:
    """Colours of the ways to build a pyramid, of which the five first are always the same."""
    fixed = [PALETTE[index] for index in (0, 6, 4, 2, 1)]
    return fixed[:count] if count <= len(fixed) else [*fixed, *colours(count + 3)[len(fixed) + 3 :]]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, drawn without a display."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
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


def heading(results: StudyResults) -> str:
    """Title line of every figure: what, at which preset, with how many seeds."""
    seeds = len({cell.seed for cell in results.cells})
    return f"{results.title} · preset {results.preset} · {seeds} seed{'s' * (seeds > 1)}"


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG atomically; the same figure gives the same bytes."""
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "fvar"})
    return path


def command(
    description: str, draw: Callable[[StudyResults], Path | list[Path]], argv: Sequence[str] | None, study: str
) -> int:
    """The command line that every figure has: STUDY [--preset] [--results]. Draws from results alone."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("study", nargs="?", default=study, help=f"name of a study that was run (default: {study})")
    parser.add_argument("--preset", default="smoke", help="preset it was run at (default: smoke)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of the results (default: results)"
    )
    arguments = parser.parse_args(argv)
    for name in (arguments.study, arguments.preset):
        if Path(name).name != name or name.startswith("."):
            raise UserError(f"{name!r} is not the name of a study or preset")
    drawn = draw(StudyResults.read(arguments.results, arguments.study, arguments.preset))
    print("\n".join(map(str, drawn if isinstance(drawn, list) else [drawn])))
    return 0
