"""A study's table set in type: Markdown for a reader of the repository and the terminal, LaTeX for a paper.

Both are the same grids, texts in rows and columns, under each other: what was measured, the tokenizers it rests on,
what training took, the differences to each reference, and the verdicts of a study that adds seeds by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.contrasts import Until, decided
from analysis.latex import document, tabular
from analysis.metrics import SAMPLED, Metric, metrics_of, printed
from analysis.notes import Row, known, notes
from analysis.plot_sweep import varied
from analysis.results import StudyResults
from analysis.tokenizer_quality import QUALITIES
from analysis.training_cost import COSTS

CITED = {
    "fid": "FID ↓",
    "is": "IS ↑",
    "precision": "Precision ↑",
    "recall": "Recall ↑",
    "parameters": "Parameters",
    "steps": "Steps",
    "relative_time": "Relative time",
}
LATEX_COLUMNS = 8  # numbers side by side that can be read on a page of text


@dataclass(frozen=True)
class Grid:
    """Texts in rows and columns; the first `left` columns say what a row is. `groups` name spans of the columns.

    A text between two pairs of asterisks is bold.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    groups: Sequence[tuple[str, int]] = ()
    left: int = 2

    def parts(self, most: int) -> list[Grid]:
        """The grid as several, as wide as each other, of at most `most` columns beside those that say what a row is."""
        count = len(self.headings) - self.left
        width = math.ceil(count / math.ceil(count / most))
        names = [name for name, span in self.groups for _ in range(span)]
        found: list[Grid] = []
        for first in range(self.left, len(self.headings), width):
            kept = [*range(self.left), *range(first, min(first + width, len(self.headings)))]
            named = itertools.groupby(names[index] for index in kept) if names else ()
            groups = [(name, len(list(columns))) for name, columns in named]
            rows = [[row[index] for index in kept] for row in self.rows]
            title = "" if found else self.title
            found.append(Grid(title, [self.headings[index] for index in kept], rows, groups, self.left))
        return found


def grids(results: StudyResults, rows: Sequence[Row]) -> list[Grid]:
    """The grids of a table; those that have nothing to say are left out."""
    ours = [row for row in rows if row["state"] != "cited"]
    made = [_main(results, rows), _tokenizers(ours), _costs(ours)]
    made += [_differences(results, ours, reference) for reference in results.comparisons()]
    made.append(_verdicts(results, ours))
    return [grid for grid in made if grid]


@dataclass(frozen=True)
class Layout:
    """Which columns the first grid has: those that say what a row is, the measured ones and the cited ones."""

    params: list[str]  # settings that differ, where there are too many of them for a label
    metrics: tuple[Metric, ...]
    headings: list[str]  # of all columns before the cited ones
    cited: list[str]  # keys of CITED for which the paper printed something

    @classmethod
    def of(cls, results: StudyResults, rows: Sequence[Row]) -> Layout:
        differing = varied(results)
        params = differing if len(differing) > 2 else []
        headings = ["Variant", "Seeds", *params, *(_heading(metric, rows) for metric in metrics_of(results))]
        cited = [key for key in CITED if any(row[f"cited_{key}"] for row in rows)]
        return cls(params, metrics_of(results), headings, cited)


def _heading(metric: Metric, rows: Sequence[Row]) -> str:
    return metric.heading.format(n=_samples(rows))


def _named(metric: Metric, rows: Sequence[Row]) -> str:
    return metric.name.format(n=_samples(rows))


def _samples(rows: Sequence[Row]) -> str:
    return "/".join(map(str, sorted(known(rows, "sample_count")))) or "N"


def _main(results: StudyResults, rows: Sequence[Row]) -> Grid:
    layout = Layout.of(results, rows)
    groups = [("", len(layout.headings) - len(layout.metrics)), (f"Measured ({results.preset})", len(layout.metrics))]
    groups += [("Cited", len(layout.cited))] if layout.cited else []
    headings = layout.headings + [CITED[key] for key in layout.cited]
    return Grid("", headings, [_main_row(row, layout) for row in rows], groups)


def _main_row(row: Row, layout: Layout) -> list[str]:
    texts = [row["label"], _seeds_text(row), *(f"{row[f'param_{name}']:.3g}" for name in layout.params)]
    for metric in layout.metrics:
        mean, half = (metric.scale * row[f"{metric.key}_{part}"] for part in ("mean", "half"))
        if row["state"] == "cited" or math.isnan(mean):
            texts.append("")
            continue
        text = number(mean, metric.digits) if math.isnan(half) else interval(mean, half, metric.digits)
        sampling = metric.scale * row[f"{metric.key}_sampling"] if metric.key in SAMPLED else math.nan
        text += "" if math.isnan(sampling) else f" (σ {number(sampling, metric.digits)})"
        texts.append(f"**{text}**" if row[f"{metric.key}_best"] is True else text)
    return texts + [row[f"cited_{key}"] for key in layout.cited]


def _seeds_text(row: Row) -> str:
    if row["state"] == "cited":
        return "cited"
    done, total = row["seeds_done"], row["seeds"]
    if done == total:
        return f"{total} seed" if total == 1 else f"{total} seeds"
    return row["state"] if not done else f"{done} of {total} seeds, {row['state']}"


def _tokenizers(rows: Sequence[Row]) -> Grid | None:
    if not any(row["tokenizer"] for row in rows):
        return None
    body = []
    for row in rows:
        texts = [row["label"], row["tokenizer"]]
        for quality in QUALITIES:
            mean, half = (row[f"tokenizer_{quality.key}_{part}"] for part in ("mean", "half"))
            shown = number(mean, quality.digits) if math.isnan(half) else interval(mean, half, quality.digits)
            texts.append("" if math.isnan(mean) else shown)
        body.append(texts)
    return Grid("Tokenizers", ["Variant", "Tokenizer", *(quality.heading for quality in QUALITIES)], body)


def _costs(rows: Sequence[Row]) -> Grid | None:
    if all(math.isnan(row["training_var_flops_mean"]) for row in rows):
        return None
    body = [[row["label"], *(cost.text(row[f"training_{cost.key}_mean"]) for cost in COSTS)] for row in rows]
    return Grid("Training", ["Variant", *(cost.heading for cost in COSTS)], body, left=1)


def _differences(results: StudyResults, rows: Sequence[Row], reference: str) -> Grid | None:
    """Differences to a reference where any was made; those of a study that adds seeds have no p."""
    metrics = printed(results)
    name = f"minus_{reference}"
    p_columns = [] if results.until else ["p", "exact", "holm"]
    others = results.comparisons()[reference]
    tried = [row for row in rows if row["variant"] in others]
    if not any(not math.isnan(row[f"{metric.key}_{name}_low"]) for row in tried for metric in metrics):
        return None
    if not any(not math.isnan(row[f"{metric.key}_{name}_exact"]) for row in tried for metric in metrics):
        p_columns = [part for part in p_columns if part != "exact"]
    titles = {"p": "p", "exact": "p, sign flips", "holm": "Holm's p"}
    body = []
    for row in tried:
        counts = [row[f"{metric.key}_{name}_n"] for metric in metrics]
        texts = [row["label"], str(max(counts)) if any(counts) else ""]
        for metric in metrics:
            parts = {part: row[f"{metric.key}_{name}_{part}"] for part in ("mean", "low", "high", "p", "exact", "holm")}
            if math.isnan(parts["mean"]):
                texts += ["not made", *[""] * (1 + len(p_columns))]
                continue
            scaled = [metric.scale * parts[part] for part in ("mean", "low", "high")]
            texts += [number(scaled[0], metric.digits), span(scaled[1], scaled[2], metric.digits)]
            texts += [probability(parts[part]) for part in p_columns]
        body.append(texts)
    label = results.variants()[reference][0].label
    columns = ["difference", "95 % interval", *(titles[part] for part in p_columns)]
    groups = [("", 2), *((_named(metric, rows), len(columns)) for metric in metrics)]
    return Grid(f"Differences to {label}", ["Variant", "Pairs", *columns * len(metrics)], body, groups)


def _verdicts(results: StudyResults, rows: Sequence[Row]) -> Grid | None:
    until = Until.of(results)
    if until is None:
        return None
    digits, scale = until.metric.digits, until.metric.scale
    body, references = [], decided(results, until)
    for row in rows:
        if row["variant"] not in references:
            continue
        mean, low, high = (scale * row[f"verdict_{part}"] for part in ("mean", "low", "high"))
        shown = ["", ""] if math.isnan(mean) else [number(mean, digits), span(low, high, digits)]
        body.append([row["label"], str(row["verdict_n"]), *shown, row["verdict"]])
    labels = {results.variants()[name][0].label for name in references.values()}
    against = labels.pop() if len(labels) == 1 else "its reference"
    headings = ["Variant", "Pairs", f"{_named(until.metric, rows)} minus {against}", "repeated interval", "verdict"]
    return Grid("Verdicts", headings, body)


# ---------------------------------------------------------------------------------------------------------------- texts


def number(value: float, digits: int) -> str:
    """Rounded; a difference that rounds to nothing has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text


def interval(mean: float, half: float, digits: int) -> str:
    return f"{number(mean, digits)} ± {number(half, digits)}"


def span(low: float, high: float, digits: int) -> str:
    return "" if math.isnan(low) else f"[{number(low, digits)}, {number(high, digits)}]"


def probability(p: float) -> str:
    """Two significant digits, as no p over a few seeds has more; "" where there is none."""
    if math.isnan(p):
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


# ----------------------------------------------------------------------------------------------------- two typesettings


def markdown(results: StudyResults, rows: Sequence[Row]) -> str:
    """A heading, the notes, and one pipe table per grid."""
    lines = [f"# {results.title}", "", *(f"- {note}" for note in notes(results, rows))]
    for grid in grids(results, rows):
        headings = list(grid.headings)
        if grid.title:
            headings = _with_groups(grid)
            lines += ["", f"## {grid.title}"]
        else:
            ours = sum(width for name, width in grid.groups if name != "Cited")
            headings[ours:] = [f"cited {heading}" for heading in headings[ours:]]
        rules = ["---"] * grid.left + ["---:"] * (len(headings) - grid.left)
        lines += ["", pipe_row(headings), pipe_row(rules), *map(pipe_row, grid.rows)]
    return "\n".join(lines) + "\n"


def _with_groups(grid: Grid) -> list[str]:
    """Headings that carry their group's name, as Markdown has no row above them."""
    names = [name for name, width in grid.groups for _ in range(width)] or [""] * len(grid.headings)
    return [f"{name} {heading}".strip() for name, heading in zip(names, grid.headings, strict=True)]


def pipe_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def latex(results: StudyResults, rows: Sequence[Row]) -> str:
    """The table for a paper; needs the packages booktabs and graphicx."""
    label = f"tab:{results.study.replace('_', '-')}-{results.preset}"
    parts = [part for grid in grids(results, rows) for part in grid.parts(LATEX_COLUMNS)]
    bodies = [tabular(part.title, part.groups, part.headings, part.rows, part.left) for part in parts]
    return document(results.title, label, bodies, notes(results, rows))
