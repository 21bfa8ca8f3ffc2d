"""Aliasing of each way to build the pyramid, drawn from what `python -m studies.run spectral` measured.

    python analysis/plot_aliasing.py [--results results]

Writes into results/spectral: strip.png (digital, focused, residual), aliasing_K4.png and aliasing_K10.png (per scale
over rho_max), crossover.png (over blur per decimation), otf.png, spectra.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: find the packages beside this folder

from analysis import style
from fvar.errors import UserError, run_main
from fvar.focus.kernels import BLURRING, KERNELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

PLAIN = {"decimate": "decimation alone", "bicubic": "bicubic", "area": "area (VAR's own)"}  # without blur
LABELS: dict[str, str] = PLAIN | {kernel: KERNELS[kernel].label for kernel in KERNELS if kernel not in (*PLAIN, "none")}
COLOURS = dict(zip(LABELS, style.recipe_colours(len(LABELS)), strict=True))
SETS = {"emoji": "emoji, 128 px", "text": "text, 256 px", "gratings": "gratings, 256 px"} | {
    "siemens_star": "Siemens star, 256 px",
    "zone_plate": "zone plate, 256 px",
    "white_noise": "white noise, 256 px",
}
DASHES = dict.fromkeys(("rho = 0.57", "sigma = 0.285"), ":") | dict.fromkeys(("rho = 0.75", "sigma = 0.375"), "--")
ESTIMATE = 0.57  # rho / s above which a disk was expected to beat the area filter
FLOOR = 1e-4  # shares below it are drawn at it
SHARE = "share of the view's energy that is alias"


def draw(folder: Path) -> list[Path]:
    """Draw all figures of a folder with the study's CSV files. Raises `UserError` if it has none."""
    return [path for name in FIGURES for path in draw_one(folder, name)]


def draw_one(folder: Path, name: str) -> list[Path]:
    """Draw one of `FIGURES`, as PNG and as PDF. Raises `UserError` if the folder has no measurements."""
    if not (folder / "aliasing.csv").exists():
        raise UserError(f"{folder} holds no measurements; run `python -m studies.run spectral` first")
    return style.save(FIGURES[name](folder), folder / name)


def _read(folder: Path, name: str, scales: int = 0) -> DataFrame:
    """A table of the study; only its rows on pyramids of `scales` scales, if any number is given."""
    import pandas as pd

    table = pd.read_csv(folder / f"{name}.csv")
    return table.query("K == @scales") if scales else table


def _per_scale(table: DataFrame, sets: Sequence[str]) -> Figure:
    """One panel per scale: recipes with blur over rho_max, recipes without as level lines."""
    scales = sorted(table.k.unique())
    columns = 3
    rows = len(sets) * -(-len(scales) // columns)
    figure = style.new_figure(style.PAGE, 1.55 * rows + 1)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    panels = [(name, k) for name in sets for k in scales]
    for axis, (name, k) in zip(axes, panels, strict=True):
        here = table[(table.images == name) & (table.k == k)]
        for recipe, colour in COLOURS.items():
            found = here[here.recipe == recipe]
            if recipe in BLURRING:
                axis.plot(found.rho_max, found.aliasing.clip(FLOOR), "o-", color=colour, label=LABELS[recipe], zorder=3)
            else:
                axis.axhline(max(found.aliasing.item(), FLOOR), color=colour, ls="--", label=LABELS[recipe])
        disks = here[(here.recipe == "disk") & (here.rho > 0)]
        if len(disks):
            axis.axvline(ESTIMATE * (disks.rho_max / disks.rho_over_s).iloc[0], color="black", lw=0.8, ls=":")
        axis.set_title(f"{SETS[name].split(',')[0]}, scale {k}: ÷ {here.s.iloc[0]:.3g}")
        axis.set_yscale("log")
        axis.set_ylim(FLOOR * 0.8, 2)
        axis.set_xlim(-0.6, 24.6)
        axis.set_xticks([0, 3, 6, 9, 12, 18, 24])
    axes[-columns + 1].set_xlabel(style.AXES["rho_max"])
    figure.supylabel(SHARE)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(f"Aliasing per scale, K = {table.K.iloc[0]}; dotted: ρ = {ESTIMATE} s", x=0.01, ha="left")
    return figure


def _crossover(sweep: DataFrame) -> Figure:
    """Aliasing and what is kept, over rho / s, for decimation by 4."""
    sets = ("emoji", "text", "zone_plate", "white_noise")
    here = sweep[sweep.s == 4]
    levels = [name for name in LABELS if name in set(here.recipe) - set(BLURRING)]  # of what has no radius
    figure = style.new_figure(style.PAGE, 4.3)
    axes = figure.subplots(2, len(sets), sharex=True, sharey="row")
    for column, name in enumerate(sets):
        for axis, value in zip(axes[:, column], ("aliasing", "kept"), strict=True):
            found = here[here.images == name]
            for recipe in BLURRING:
                curve = found[found.recipe == recipe]
                axis.plot(curve.rho_over_s, curve[value].clip(FLOOR), color=COLOURS[recipe], label=LABELS[recipe])
            for fixed in levels:
                level = max(found[found.recipe == fixed][value].item(), FLOOR)
                axis.axhline(level, color=COLOURS[fixed], ls="--", label=LABELS[fixed])
            axis.axvline(ESTIMATE, color="black", lw=0.8, ls=":")
            axis.set_yscale("log" if value == "aliasing" else "linear")
        axes[0, column].set_title(SETS[name])
        axes[1, column].set_ylim(0, 1.05)
        axes[1, column].set_xlabel("blur ρ / s")
    axes[0, 0].set_ylabel("alias in the view\n(share of energy)")
    axes[1, 0].set_ylabel("energy kept of what\nthe view can hold")
    figure.legend(*axes[1, -1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(f"What blur buys and costs, decimation by 4; dotted: ρ = {ESTIMATE} s", x=0.01, ha="left")
    return figure


def _otf(curves: DataFrame) -> Figure:
    """Transfer functions on a linear scale, signs shown, and in decibels."""
    figure = style.new_figure(style.PAGE, 2.8)
    linear, decibels = figure.subplots(1, 2)
    for name, curve in curves.groupby("filter", sort=False):
        kind = str(name).split(",")[0]
        dash = DASHES.get(str(name).split(", ")[-1].removesuffix(" s"), "-")
        look: dict[str, Any] = {"color": COLOURS[kind], "ls": dash}
        label = str(name).replace("rho", "ρ").replace("sigma", "σ").replace("gaussian", "Gaussian")
        label = label.replace("disk_pixel", "disk * pixel")
        linear.plot(curve.frequency_times_s, curve.otf, label=label, **look)
        level = 20 * curve.otf.abs().clip(1e-6).map(_log10)
        decibels.plot(curve.frequency_times_s, level, **look)
    for axis in (linear, decibels):
        axis.axvspan(0.5, 2, color="#f4f4f4", zorder=0)
        axis.set_xlim(0, 2)
        axis.set_xlabel("frequency × s (cycles per pixel of the view)")
    linear.text(0.53, 1.02, "folds →")
    linear.set_ylim(-0.3, 1.1)
    linear.set_ylabel("OTF")
    decibels.set_ylim(-60, 3)
    decibels.set_ylabel("|OTF| (dB)")
    figure.legend(*linear.get_legend_handles_labels(), loc="outside right center")
    figure.suptitle("Transfer functions before decimation by s", x=0.01, ha="left")
    return figure


def _log10(value: float) -> float:
    import math

    return math.log10(value)


def _spectra(spectra: DataFrame) -> Figure:
    """Radial power of each image set, in focus and in each blurred state."""
    figure = style.new_figure(style.PAGE, 4.4)
    axes = figure.subplots(2, 3).flatten()
    for axis, (name, curves) in zip(axes, spectra.groupby("images", sort=False), strict=True):
        states, side = sorted(curves.rho.unique(), reverse=True), int(SETS[str(name)].split()[-2])
        for rho, colour in zip(states, style.colours(8)[1:5], strict=True):
            curve = curves[(curves.rho == rho) & (curves.frequency > 0)]
            sharp = rho == 0
            label = "in focus" if sharp else f"ρ = {rho * 256 / side:g} px at 256 px"
            axis.plot(curve.frequency, curve.power, color="#333333" if sharp else colour, label=label)
        for s in (8, 4, 2):
            axis.axvline(0.5 / s, color="black", lw=0.8, ls=":")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(1 / 256, 0.5)
        top = curves.power.max()
        axis.set_ylim(top * 1e-9, top * 4)
        axis.set_title(SETS[str(name)])
    axes[4].set_xlabel("frequency (cycles per px); dotted: Nyquist frequency of views ÷ 8, 4, 2")
    figure.supylabel("mean power")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("Radial power in the four focus states of the paper", x=0.01, ha="left")
    return figure


def _strip(path: Path) -> Figure:
    """Image, digital view, focused view and residual, side by side, every pixel a square."""
    import numpy as np

    parts = ("image", "digital", "focused", "residual")
    with np.load(path, allow_pickle=False) as file:
        names = list(dict.fromkeys(key.split("/")[0] for key in file.files))
        arrays = {key: file[key].transpose(1, 2, 0) for key in file.files}
    figure = style.new_figure(style.PAGE, 1.75 * len(names) + 0.6)
    axes = figure.subplots(len(names), len(parts))
    for row, name in zip(axes, names, strict=True):
        for axis, part in zip(row, parts, strict=True):
            _picture(axis, (arrays[f"{name}/{part}"] / 2 + 0.5).clip(0, 1))
            side = arrays[f"{name}/{part}"].shape[0]
            axis.set_xlabel(f"{side} × {side} px")
        row[0].set_ylabel(name)
    titles = ("image $x$", "digital $D_2$", "focused $L_2$", "residual $A_2 = D_2 - L_2$, grey is 0")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, loc="center")
    figure.suptitle("Second of the paper's four scales: decimation by 4, ρ = 9 px at 256 px", x=0.01, ha="left")
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {  # by file, of a folder with the study's measurements
    "strip.png": lambda folder: _strip(folder / "views.npz"),
    "aliasing_K4.png": lambda folder: _per_scale(_read(folder, "aliasing", 4), ("emoji", "text", "zone_plate")),
    "aliasing_K10.png": lambda folder: _per_scale(_read(folder, "aliasing", 10), ("emoji",)),
    "crossover.png": lambda folder: _crossover(_read(folder, "crossover")),
    "otf.png": lambda folder: _otf(_read(folder, "otf")),
    "spectra.png": lambda folder: _spectra(_read(folder, "spectra")),
}


def _picture(axis: Axes, pixels: Any) -> None:
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the figures of the study `spectral`.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results")
    for path in draw(parser.parse_args(argv).results / "spectral"):
        print(path)
    return 0


if __name__ == "__main__":
    run_main(main)
