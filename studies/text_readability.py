"""Can one still read what a tokenizer kept, and from which scale on? Words in several sizes, read by an OCR.

    python -m studies.run text_readability --cluster local --jobs 2      # nine minutes of one core, shared by two
    python analysis/plot_readability.py                                  # draws the figures again

VAR's pyramid against FVAR's, by Table 2's own structure tokenizers, and by the same two trained on rendered words: one
that met no type in training says little about its pyramid. `--only var --only fvar` leaves the latter out. What is read
are held-out words. A seed is one of the tokenizers' training; Table 2 uses seed 0.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fvar.config import Stage
from fvar.machine import atomic
from studies.presets import Preset
from studies.study import Cell, Context, Study
from studies.variants import VARIANTS

if TYPE_CHECKING:
    from analysis.plot_readability import Picture, Readings
    from analysis.results import StudyResults
    from analysis.style import Drawings

PYRAMIDS = {"var": ("VAR", "baseline"), "fvar": ("FVAR", "full")}  # in a cell's name: label, variant of Table 2
TEXT_STEPS = 720  # at least, on text: at 240, smoke's, no tokenizer writes a letter; ours
READABLE = 0.10  # error rate up to which a size counts as readable in the summary; ours


def cells(ctx: Context) -> Iterator[Cell]:
    """VAR's and FVAR's tokenizer, learned on the preset's images, and learned on text."""
    rows = {"": ctx.preset} if ctx.preset.data.dataset == "text" else {"": ctx.preset, "-text": on_text(ctx.preset)}
    for suffix, preset in rows.items():
        for name, (label, variant) in PYRAMIDS.items():
            for seed in range(ctx.seeds):
                stage = Stage(preset.readability, {"tokenizer": structure_tokenizer(preset, variant, seed)})
                images = preset.data.dataset
                params = {"pyramid": name, "learned_on": images}
                yield Cell(name + suffix, f"{label}, learned on {images}", seed, params, stage)


def on_text(preset: Preset) -> Preset:
    """The preset with rendered words for images, and tokenizers that train long enough to write them."""
    train = preset.tokenizer_train
    steps = max(train.steps, TEXT_STEPS)
    train = dataclasses.replace(train, steps=steps, eval_every=max(train.eval_every, steps // 2))
    return dataclasses.replace(preset.on("text"), tokenizer_train=train)


def structure_tokenizer(preset: Preset, variant: str, seed: int) -> Stage:
    """Table 2's, which has seed 0, or one that differs from it in the seed alone."""
    kind = VARIANTS[variant]
    config = preset.tokenizer("structure", kind.kernel, kind.reading)
    return Stage(dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed)))


def report(results: StudyResults) -> Drawings:
    """The tables and the figures."""
    from analysis import plot_readability

    figures = {name: partial(plot_readability.draw_one, results, name) for name in plot_readability.FIGURES}
    return {"table.md": partial(_write_tables, results), **figures}


def _write_tables(results: StudyResults) -> list[Path]:
    """Write table.md and table.csv. Raises `NothingToDraw` where no cell is done yet."""
    from analysis import plot_readability

    found = plot_readability.Readings.read(results)
    atomic.write_text(results.folder / "table.md", markdown(results, found))
    atomic.write_text(results.folder / "table.csv", tidy(found))
    return [results.folder / "table.md", results.folder / "table.csv"]


STUDY = Study("text_readability", "Text readability: words through the tokenizers", cells, report)


# --------------------------------------------------------------------------------------------------------------- tables


def markdown(results: StudyResults, found: Mapping[str, Readings]) -> str:
    """The finding for people: what each size is misread by, and from which size on each scale can be read."""
    from analysis.plot_readability import ORIGINAL, views

    first = next(iter(found.values()))
    headings = ["Font size", "as rendered", *(readings.label for readings in found.values())]
    columns = [(first, ORIGINAL), *((readings, readings.last) for readings in found.values())]
    by_size = [[f"{size} px", *(_rate(*column, size) for column in columns)] for size in first.sizes]
    scales = range(1, max(readings.last[1] for readings in found.values()) + 1)
    rows = [(readings.label, "reconstruction", readings) for readings in found.values()]
    if seen := views(found):
        rows.insert(0, ("focused views L_k themselves", "view", seen))
    largest = first.sizes[-1]
    at_largest = [[name, *(_rate(readings, (kind, k), largest) for k in scales)] for name, kind, readings in rows]
    readable = [[name, *(readable_from(readings, (kind, k)) for k in scales)] for name, kind, readings in rows]
    lines = [
        f"# {results.title}",
        "",
        *(f"- {note}" for note in notes(results, found)),
        "",
        "Characters misread (%), all scales decoded:",
        "",
        *_table(headings, by_size),
        "",
        f"Characters misread (%) at {largest} px after each scale:",
        "",
        *_table(["After scale", *map(str, scales)], at_largest),
        "",
        f"Smallest font size from which at most {READABLE:.0%} of the characters are misread:",
        "",
        *_table(["After scale", *map(str, scales)], readable),
    ]
    return "\n".join(lines) + "\n"


def readable_from(readings: Readings, picture: Picture) -> str:
    """The smallest size in px such that it and all larger ones can be read; "none", or empty for no such picture."""
    if picture not in readings.pictures:
        return ""
    smallest = None
    for size in reversed(readings.sizes):
        if readings.rates[picture, size].mean > READABLE:
            break
        smallest = size
    return f"{smallest} px" if smallest else "none"


def notes(results: StudyResults, found: Mapping[str, Readings]) -> list[str]:
    """What must be known to read the numbers, as sentences."""
    first = next(iter(found.values()))
    body, seeds = first.bodies[0], sorted({cell.seed for cell in results.cells})
    words = sorted({row["words"] for row in body["rates"]})
    count = f"{words[0]} to {words[-1]}" if len(words) > 1 else f"{words[0]}"
    spread = "the sample standard deviation over seeds" if len(seeds) > 1 else "the standard error over words"
    lines = [
        f"Measured at preset `{results.preset}`: words rendered on pages of {body['image_size']} px, {count} a size, "
        "put through each tokenizer and cut out where they stand.",
        f"Read by {body['ocr']}, shown one word at a time and enlarged to its 48 px of height; case does not count.",
        "Misread: Levenshtein distance over characters written; 100 % is as bad as reading nothing. "
        f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; ± is {spread}.",
        "View L_k is what FVAR's pyramid hands to scale k, before any tokenizer; VAR's has no views.",
        "Training: " + "; ".join(f"{r.label}, {r.steps:,} steps" for r in found.values()) + ".",
    ]
    if not results.preset.startswith("paper"):
        lines.append(
            "Small tokenizers, briefly trained: which way rates move, not how well the method writes at its size."
        )
    lines += [f"{text}." for text in results.shortfalls()]
    for cell in results.cells:
        state, detail = cell.state
        if state != "done":
            lines.append(f"{cell.label}, seed {cell.seed}, is {state}{': ' * bool(detail)}{detail}.")
    return lines


def tidy(found: Mapping[str, Readings]) -> str:
    """One row for each cell, picture, scale and font size, as CSV: rates as fractions."""
    text = io.StringIO()
    columns = ["picture", "scale", "size", "words", "characters", "errors", "value", "spread"]
    writer = csv.DictWriter(text, ["variant", "label", "seed", *columns], lineterminator="\n")
    writer.writeheader()
    for variant, readings in found.items():
        for cell, body in zip(readings.cells, readings.bodies, strict=True):
            place = {"variant": variant, "label": readings.label, "seed": cell.seed}
            writer.writerows(place | {column: row[column] for column in columns} for row in body["rates"])
    return text.getvalue()


def _rate(readings: Readings, picture: Picture, size: int) -> str:
    if picture not in readings.pictures:
        return ""
    rate = readings.rates[picture, size]
    return f"{100 * rate.mean:.1f}" + ("" if rate.sd is None else f" ± {100 * rate.sd:.1f}")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = ["---", *["---:"] * (len(headings) - 1)]
    return [f"| {' | '.join(row)} |" for row in (headings, ruler, *rows)]
