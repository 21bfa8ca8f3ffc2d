"""The finding of the study `spectral` in words: every number and every verdict is computed from the measurements."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from fvar.focus.kernels import BLURRING

Row = Mapping[str, str]
ESTIMATE = 0.57  # rho / s at which a disk was expected to draw level with the area filter
PAPER_RHO_MAX = 12.0  # px at 256 px
NATURAL = ("emoji", "text")  # the sets that stand for pictures; the others are instruments


def finding(folder: Path) -> str:
    """Markdown from aliasing.csv, crossover.csv and residual.csv of the folder."""
    table, sweep = _read(folder / "aliasing.csv"), _read(folder / "crossover.csv")
    return "\n".join(
        [
            "# Where defocus aliases less than VAR's own downsampling",
            "",
            "Written by `python -m studies.run spectral` from the CSV files beside it; nothing was trained.",
            "",
            *_where_the_disk_wins(table),
            *_level(sweep),
            *_paper_setting(table),
            *_residual(_read(folder / "residual.csv")),
            *_gaussian(sweep),
            *_method(table),
        ]
    )


def _where_the_disk_wins(table: Sequence[Row]) -> list[str]:
    lines = ["## Finding", ""]
    for name in NATURAL:
        disks = [row for row in table if row["images"] == name and row["recipe"] == "disk"]
        lines.append(f"- **{_title(name)}, alias**: {_wins(table, disks)}")
        paper = [row for row in disks if row["K"] == "4" and float(row["rho_max"]) == PAPER_RHO_MAX]
        area, cubic = (_span([_same_view(table, row, other) for row in paper]) for other in ("area", "bicubic"))
        lines.append(
            f"- **{_title(name)}, cost**: at the paper's setting (K = 4, rho_max = {PAPER_RHO_MAX:g}) the views keep "
            f"{_span(paper)} of the energy that they could hold; by area {area}, by bicubic {cubic}."
        )
        lines.append(f"- **{_title(name)}, bicubic** (antialiased): {_bicubic(table, disks)}")
    return [*lines, ""]


def _wins(table: Sequence[Row], disks: Sequence[Row]) -> str:
    """In how many views a disk aliases less than the area filter, and at which rho / s."""
    views = {
        (float(row["rho_over_s"]), row["s"]): float(row["aliasing"]) < float(_same_view(table, row, "area")["aliasing"])
        for row in disks
    }
    wins = [ratio for (ratio, _), won in views.items() if won]
    losses = [ratio for (ratio, _), won in views.items() if not won]
    text = f"a disk left less than VAR's area filter in {len(wins)} of {len(views)} distinct views (scale and radius)"
    if wins and losses:
        text += f"; it won at rho/s from {min(wins):.2f} up, and lost at rho/s up to {max(losses):.2f}"
    return text + "."


def _bicubic(table: Sequence[Row], disks: Sequence[Row]) -> str:
    """VAR's filter is not the best digital one: what another would have given, without any defocus."""
    views = {row["s"]: (_same_view(table, row, "bicubic"), _same_view(table, row, "area")) for row in disks}
    cleaner = sum(float(cubic["aliasing"]) < float(area["aliasing"]) for cubic, area in views.values())
    richer = sum(float(cubic["kept"]) > float(area["kept"]) for cubic, area in views.values())
    paper = {(row["s"], row["rho"]): row for row in disks if float(row["rho_max"]) == PAPER_RHO_MAX}
    beaten = sum(float(row["aliasing"]) < float(views[s][0]["aliasing"]) for (s, _), row in paper.items())
    return (
        f"it aliased less than area in {cleaner} of {len(views)} scales and kept more in {richer}; "
        f"the disk at rho_max = {PAPER_RHO_MAX:g} aliased less than it in {beaten} of {len(paper)}."
    )


def _span(rows: Sequence[Row]) -> str:
    kept = [100 * float(row["kept"]) for row in rows]
    return f"{min(kept):.0f}-{max(kept):.0f} %"


def _level(sweep: Sequence[Row]) -> list[str]:
    """rho / s where the disk draws level with the area filter, by linear interpolation in the sweep."""
    sizes = sorted({int(float(row["s"])) for row in sweep})
    lines = [
        "## Where the disk draws level with the area filter (rho / s)",
        "",
        "| images | " + " | ".join(f"÷ {s}" for s in sizes) + " | kept there by the disk / by area, ÷ 4 |",
        "|---|" + "---|" * (len(sizes) + 1),
    ]
    found: list[float] = []
    for name in dict.fromkeys(row["images"] for row in sweep):
        cells = []
        for s in sizes:
            level = crossing(sweep, name, s, "disk")
            cells.append("not in the range swept" if level is None else f"{level:.2f}")
            if level is not None:
                found.append(level)
        lines.append(f"| {_title(name)} | " + " | ".join(cells) + f" | {_kept_at_level(sweep, name, 4)} |")
    lines.append("")
    if found:
        low, high, middle = min(found), max(found), statistics.median(found)
        near = abs(middle - ESTIMATE) <= 0.1
        verdict = "that holds as a rule of thumb." if near else "**that was off**; use the measured values."
        lines += [f"The median is {middle:.2f}, the range {low:.2f} to {high:.2f}."]
        lines += [f"Our estimate before measuring was {ESTIMATE}: {verdict}"]
    return [*lines, ""]


def _paper_setting(table: Sequence[Row]) -> list[str]:
    """All recipes at the paper's radius, per scale, on both shapes of the pyramid."""
    recipes = ("decimate", "bicubic", "area", "ideal", "gaussian", "disk", "disk_pixel")
    lines = [f"## The paper's radius, rho_max = {PAPER_RHO_MAX:g} px at 256 px", ""]
    lines += [
        "Share of a view's energy that is alias, in %; in brackets what is kept of the band the view can hold, in %."
    ]
    lines += ["The least alias of each row is bold. rho is in px of the image.", ""]
    for name in NATURAL:
        lines += [f"| {_title(name)} | view | rho | rho/s | " + " | ".join(recipes) + " |"]
        lines += ["|---|---|---|---|" + "---|" * len(recipes)]
        disks = [r for r in table if r["images"] == name and r["recipe"] == "disk"]
        for disk in disks:
            if float(disk["rho_max"]) != PAPER_RHO_MAX:
                continue
            views = [
                _same_view(table, disk, r, disk["rho_max"] if r in BLURRING else "") if r != "disk" else disk
                for r in recipes
            ]
            least = min(float(view["aliasing"]) for view in views)
            cells = [
                ("**{}**" if float(view["aliasing"]) == least else "{}").format(_percent(view["aliasing"]))
                + f" ({_percent(view['kept'])})"
                for view in views
            ]
            place = f"K = {disk['K']}, scale {disk['k']}"
            lines.append(
                f"| {place} | {disk['view_side']} px, ÷ {float(disk['s']):.3g} | {float(disk['rho']):.2g} | "
                f"{float(disk['rho_over_s']):.2f} | " + " | ".join(cells) + " |"
            )
        lines.append("")
    return lines


def _residual(rows: Sequence[Row]) -> list[str]:
    """What the alias residual holds, per scale of the paper's pyramid and of VAR's."""
    lines = ["## What the alias residual A_k holds", ""]
    lines += [
        "Share of its energy that is folded, in %; the rest is detail of the view's own band, which the blur took"
    ]
    lines += ["and which never was alias. Coarse to fine, at the paper's radius; the last scale's A_k is zero.", ""]
    for shape in dict.fromkeys(row["K"] for row in rows):
        scales = list(dict.fromkeys(row["k"] for row in rows if row["K"] == shape))
        lines += [f"| K = {shape} | kernel | " + " | ".join(f"k = {k}" for k in scales) + " |"]
        lines += ["|---|---|" + "---|" * len(scales)]
        for name, recipe in dict.fromkeys((row["images"], row["recipe"]) for row in rows):
            mine = [row for row in rows if (row["images"], row["recipe"], row["K"]) == (name, recipe, shape)]
            lines += [
                f"| {_title(name)} | {recipe} | "
                + " | ".join(_percent(row["folded"]) if row["folded"] else "-" for row in mine)
                + " |"
            ]
        lines.append("")
    return lines


def _gaussian(sweep: Sequence[Row]) -> list[str]:
    """Disk against the Gaussian of equal variance, over the whole sweep."""
    lines = ["## Disk or Gaussian of equal variance", ""]
    for name in NATURAL:
        pairs = []
        for row in sweep:
            if row["images"] == name and row["recipe"] == "disk":
                other = next(
                    r
                    for r in sweep
                    if r["recipe"] == "gaussian"
                    and (r["images"], r["s"], r["rho_over_s"]) == (name, row["s"], row["rho_over_s"])
                )
                pairs.append((row, other))
        cleaner = sum(float(g["aliasing"]) < float(d["aliasing"]) for d, g in pairs)
        richer = sum(float(g["kept"]) > float(d["kept"]) for d, g in pairs)
        disk_cleaner = [float(d["rho_over_s"]) for d, g in pairs if float(d["aliasing"]) < float(g["aliasing"])]
        last = f"; the disk aliased less only at rho/s <= {max(disk_cleaner):.2f}" if disk_cleaner else ""
        lines.append(
            f"- {_title(name)}: at equal rho/s the Gaussian aliased less in {cleaner} of {len(pairs)} views{last}; "
            f"it kept more of the view's own band in {richer}."
        )
    return [
        *lines,
        "",
        "A disk is not band-limited: its transfer function has side lobes that fall only as f^-1.5 and change sign;",
        'what lies in them folds (see otf.png). "Band-limited by the PSF", as the paper has it, holds for no radius.',
        "",
    ]


def _method(table: Sequence[Row]) -> list[str]:
    counts = ", ".join(
        f"{_title(row['images'])} ({row['count']} at {row['image_side']} px)"
        for row in {row["images"]: row for row in table}.values()
    )
    return [
        "## How it was measured",
        "",
        f"Images: {counts}.",
        "Their mean is removed and a Hann taper fades them to the borders. Each is split at the view's Nyquist",
        "frequency by an ideal low-pass; blur and sampler are applied to both parts; alias is what the upper part",
        "leaves in the view (`fvar.focus.aliasing`; for whole ratios equal to `spectrum.aliasing_energy`). Numbers are",
        "means over the images. Where alias and the held part cancel, a share may exceed 100 %.",
        "Radii are scaled by side / 256, so that the same pyramid has half the rho/s at 128 px: compare by rho/s.",
        "",
        "Aliasing alone does not decide which pyramid trains better: less alias is bought with detail lost in the",
        "view's own band (the brackets). That question needs the ablation, not this study.",
        "",
    ]


def crossing(sweep: Sequence[Row], name: str, s: int, recipe: str) -> float | None:
    """The last rho / s at which the recipe's aliasing falls below the area filter's; None if it does not."""
    here = [row for row in sweep if row["images"] == name and float(row["s"]) == s]
    level = float(next(row["aliasing"] for row in here if row["recipe"] == "area"))
    curve = sorted((float(r["rho_over_s"]), float(r["aliasing"])) for r in here if r["recipe"] == recipe)
    last = None
    for (a, at_a), (b, at_b) in pairwise(curve):
        if at_a >= level > at_b:
            last = a + (b - a) * (at_a - level) / (at_a - at_b)
    return last


def _kept_at_level(sweep: Sequence[Row], name: str, s: int) -> str:
    level = crossing(sweep, name, s, "disk")
    if level is None:
        return ""
    here = [row for row in sweep if row["images"] == name and float(row["s"]) == s]
    disk = min((r for r in here if r["recipe"] == "disk"), key=lambda r: abs(float(r["rho_over_s"]) - level))
    area = next(row for row in here if row["recipe"] == "area")
    return f"{_percent(disk['kept'])} % / {_percent(area['kept'])} %"


def _same_view(table: Sequence[Row], row: Row, recipe: str, rho_max: str = "") -> Row:
    """The row of another recipe for the same images and scale."""
    place = (row["images"], row["K"], row["k"], recipe, rho_max)
    return next(r for r in table if (r["images"], r["K"], r["k"], r["recipe"], r["rho_max"]) == place)


def _percent(share: str) -> str:
    percent = 100 * float(share)
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"


def _title(name: str) -> str:
    return name.replace("_", " ")


def _read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
