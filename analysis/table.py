"""A study's table: measured mean ± spread over seeds beside the published numbers, as table.md, .tex and .csv.

All three say the same and depend on the results alone, so writing them again writes the same bytes.
"""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.metrics import METRICS as METRICS
from analysis.metrics import Metric, metrics_of
from analysis.plot_sweep import varied
from analysis.provenance import commits, of_one_revision
from analysis.results import CellResult, StudyResults
from analysis.stats import Spread, spread
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.usage import gpu_hours

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published.csv"


CITED = {
    "fid": "FID ↓",
    "is": "IS ↑",
    "precision": "Precision ↑",
    "recall": "Recall ↑",
    "parameters": "Parameters",
    "steps": "Steps",
    "relative_time": "Relative time",
}


def write(results: StudyResults) -> list[Path]:
    """Write table.md, table.tex and table.csv into the study's folder and return their paths."""
    frame = tidy(results)
    texts = {
        "table.md": markdown(results, frame),
        "table.tex": latex(results, frame),
        "table.csv": frame.to_csv(index=False, lineterminator="\n"),
    }
    for name, text in texts.items():
        atomic.write_text(results.folder / name, text)
    return [results.folder / name for name in texts]


# ------------------------------------------------------------------------------------------------------------- content


def published(study: str, path: Path = PUBLISHED) -> dict[str, dict[str, str]]:
    """Rows of published.csv for a study, by variant and as printed; empty for a study the paper does not have."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return {row["variant"]: row for row in csv.DictReader(file) if row["study"] == study}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; restore it with `git checkout results/published.csv`") from None


def tidy(results: StudyResults) -> pd.DataFrame:
    """One row per variant with plain, unscaled numbers: what table.csv holds and the other two are set from.

    `<metric>_mean`, `_sd` (sample standard deviation; empty for a single seed) and `_n` are measured, `_reason` says
    why a value is missing, `cited_*` are the paper's. Published rows that are not variants of the study stand at the
    end, with nothing measured.
    """
    import pandas as pd

    variants, cited, metrics = results.variants(), published(results.study), metrics_of(results)
    rows = [
        _measured(cells, metrics, results.cells) | _citation(cited.get(variant, {}))
        for variant, cells in variants.items()
    ]
    rows += [
        {"variant": variant, "label": row["model"], "state": "cited"} | _citation(row)
        for variant, row in cited.items()
        if variant not in variants
    ]
    where = {"study": results.study, "preset": results.preset}
    frame = pd.DataFrame([where | row for row in rows])
    counts = [name for name in frame.columns if name.startswith("seeds") or name.endswith(("_n", "_count"))]
    return frame.astype(dict.fromkeys(counts, "Int64"))


def _measured(cells: Sequence[CellResult], metrics: Sequence[Metric], peers: Sequence[CellResult]) -> dict[str, Any]:
    """The measured part of a variant's row, from its cells (one per seed) among all of the study, `peers`."""
    states = [cell.state for cell in cells]
    finished = [cell for cell, (state, _) in zip(cells, states, strict=True) if state == "done"]
    done, mixed = of_one_revision(finished)
    state, detail = next(((s, d) for s, d in states if s != "done"), ("outdated" if mixed else "done", mixed))
    row: dict[str, Any] = {"variant": cells[0].variant, "label": cells[0].label, "state": state, "detail": detail}
    row |= {"seeds": len(cells), "seeds_done": len(done)}
    row |= {f"param_{key}": value for key, value in cells[0].params.items()}
    for metric in metrics:
        found = [metric.of(cell, peers) for cell in done]
        summary = spread(value for value, _ in found)
        row[f"{metric.key}_mean"] = summary.mean if summary else math.nan
        row[f"{metric.key}_sd"] = summary.sd if summary and summary.sd is not None else math.nan
        row[f"{metric.key}_n"] = summary.n if summary else 0
        row[f"{metric.key}_reason"] = next((reason for _, reason in found if reason), "")
    row |= {"sample_count": _agreed(done, "count"), "reference_count": _agreed(done, "reference_count")}
    row["extractor"] = _agreed(done, "extractor")
    caveats = {
        f"{key.upper()}: {text}": None
        for cell in done
        for key, score in cell.scores.items()
        if (text := score.get("note"))
    }
    row["caveats"] = "; ".join(caveats)
    return row


def _agreed(cells: Iterable[CellResult], key: str) -> Any:
    """The value under `key` shared by all scores of a variant's cells; None before any is done.

    Raises `UserError` where they differ, since such scores must not be averaged.
    """
    values = {score[key] for cell in cells for score in cell.scores.values() if score.get(key) is not None}
    if len(values) > 1:
        raise UserError(f"scores of one variant differ in {key}: {', '.join(map(str, sorted(values)))}")
    return next(iter(values), None)


def _citation(row: Mapping[str, str]) -> dict[str, str]:
    return {f"cited_{key}": row.get(key, "") for key in (*CITED, "source", "note")}


# -------------------------------------------------------------------------------------------------------- set in type


@dataclass(frozen=True)
class Layout:
    """Which columns a table has: those that say what a row is, the measured ones and the cited ones."""

    params: list[str]  # settings that differ, where there are too many of them for a label
    metrics: tuple[Metric, ...]
    headings: list[str]  # of all columns before the cited ones
    cited: list[str]  # keys of CITED for which the paper printed something

    @classmethod
    def of(cls, results: StudyResults, frame: pd.DataFrame) -> Layout:
        differing = varied(results)
        params = differing if len(differing) > 2 else []
        n = "/".join(str(count) for count in sorted(frame["sample_count"].dropna().unique())) or "N"
        headings = ["Variant", "Seeds", *params, *(metric.heading.format(n=n) for metric in metrics_of(results))]
        return cls(params, metrics_of(results), headings, [key for key in CITED if (frame[f"cited_{key}"] != "").any()])


def _cells(row: Mapping[str, Any], layout: Layout) -> list[str]:
    """A row's text, column by column."""
    texts = [row["label"], _seeds_text(row), *(f"{row[f'param_{name}']:.3g}" for name in layout.params)]
    for metric in layout.metrics:
        mean, sd, n = (row[f"{metric.key}_{part}"] for part in ("mean", "sd", "n"))
        if not n or math.isnan(mean):
            texts.append("")
        else:
            texts.append(Spread(mean, None if math.isnan(sd) else sd, n).text(metric.digits, metric.scale))
    return texts + [row[f"cited_{key}"] for key in layout.cited]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _seeds_text(row: Mapping[str, Any]) -> str:
    if row["state"] == "cited":
        return "cited"
    done, total = row["seeds_done"], row["seeds"]
    if done == total:
        return f"{total} seed" if total == 1 else f"{total} seeds"
    return row["state"] if not done else f"{done} of {total} seeds, {row['state']}"


def notes(results: StudyResults, frame: pd.DataFrame) -> list[str]:
    """What must be known to read the numbers, as sentences."""
    lines = [f"Measured at preset `{results.preset}`" + _data_text(results) + "."]
    scored = frame.dropna(subset=["sample_count"])
    if len(scored):
        counts, references, extractors = (
            ", ".join(str(value) for value in scored[key].dropna().unique())
            for key in ("sample_count", "reference_count", "extractor")
        )
        lines.append(
            f"FID, KID, precision and recall: {counts} samples against {references} real images, {extractors}."
        )
    if frame["top_octave_n"].any():
        lines.append(
            "Spectral distance: root mean square over octaves of the log-spectral distance to the real images. "
            "Top octave: energy beyond half the Nyquist frequency over the real images'; more than 1 is aliasing or "
            "noise, less is blur."
        )
    seeds = sorted({cell.seed for cell in results.cells})
    lines.append(
        f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; ± is the sample standard deviation over seeds"
        + ("." if len(seeds) > 1 else ", which one seed does not have.")
    )
    if not results.one_tokenizer and frame["cross_entropy_n"].any():
        lines.append(
            "Held-out cross-entropy (nats per token) and accuracy compare only variants that share a tokenizer."
        )
    lines += commits(results)
    lines += [f"{text}." for text in results.shortfalls()]
    caveats = dict.fromkeys(text for text in frame["caveats"].dropna() if text)
    lines += [f"{text}." for text in caveats]
    lines += [f"{name} is blank: {reason}." for name, reason in _blanks(metrics_of(results), frame).items()]
    sources = [source for source in frame["cited_source"].unique() if source]
    if sources:
        where = "; ".join(source.removeprefix("cited: ") for source in sources)
        lines.append(f"Cited columns: {where} (ImageNet 256), the paper's numbers, not ours.")
        if results.preset != "paper":
            lines.append(f"Numbers of preset `{results.preset}` are NOT comparable with the paper's.")
    lines += _bill(results)
    rows = _records(frame)
    lines += [f"{row['label']}: {row['cited_note']}." for row in rows if row["cited_note"]]
    lines += [f"{row['label']} is {row['state']}: {row['detail']}." for row in rows if _has(row["detail"])]
    return lines


def _bill(results: StudyResults) -> list[str]:
    """What the variants have cost, if they ran on GPUs."""
    chains = {
        cells[0].label: {run.path for cell in cells for run in cell.chain.values()}
        for cells in results.variants().values()
    }
    total = gpu_hours(set().union(*chains.values()))
    if not total:
        return []
    costs = ", ".join(f"{label} {gpu_hours(paths):.3g}" for label, paths in chains.items())
    return [f"GPU hours by job records: {costs}; with shared stages counted once {total:.3g}."]


def _data_text(results: StudyResults) -> str:
    configs = {cell.scores_config.reference for cell in results.cells if cell.scores_config}
    for data in sorted(configs, key=repr)[:1]:
        return f" on {data.dataset} {data.title if data.root else ''}".rstrip() + f" at {data.image_size} px"
    return ""


def _blanks(metrics: Sequence[Metric], frame: pd.DataFrame) -> dict[str, str]:
    """Metric -> why some finished cell lacks it."""
    reasons = {}
    for metric in metrics:
        found = [text for text in frame[f"{metric.key}_reason"] if _has(text)]
        if found:
            reasons[metric.heading.partition("@")[0].rstrip(" ↓↑")] = found[0].rstrip(".")
    return reasons


def _has(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def markdown(results: StudyResults, frame: pd.DataFrame) -> str:
    """The table for a reader of the repository: a heading, the notes, one row per variant."""
    layout = Layout.of(results, frame)
    header = layout.headings + [f"cited {CITED[key]}" for key in layout.cited]
    body = [_cells(row, layout) for row in _records(frame)]
    lines = [
        f"# {results.title}",
        "",
        *(f"- {note}" for note in notes(results, frame)),
        "",
        _pipe_row(header),
        _pipe_row(["---", "---", *["---:"] * (len(header) - 2)]),
        *map(_pipe_row, body),
    ]
    return "\n".join(lines) + "\n"


def _pipe_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def latex(results: StudyResults, frame: pd.DataFrame) -> str:
    """The table for a paper; needs the packages booktabs and graphicx."""
    layout = Layout.of(results, frame)
    ours, total = len(layout.headings), len(layout.headings) + len(layout.cited)
    groups = (
        " & " * (ours - len(layout.metrics))
        + f"\\multicolumn{{{len(layout.metrics)}}}{{c}}{{Measured ({tex(results.preset)})}}"
    )
    rules = f"\\cmidrule(lr){{{ours - len(layout.metrics) + 1}-{ours}}}"
    if layout.cited:
        groups += f" & \\multicolumn{{{len(layout.cited)}}}{{c}}{{Cited}}"
        rules += f" \\cmidrule(lr){{{ours + 1}-{total}}}"
    rows = [_cells(row, layout) for row in _records(frame)]
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{tex(results.title)}}}",
        f"\\label{{tab:{results.study.replace('_', '-')}-{results.preset}}}",
        "\\resizebox{\\textwidth}{!}{%",
        f"\\begin{{tabular}}{{ll{'r' * (total - 2)}}}",
        "\\toprule",
        f"{groups} \\\\",
        rules,
        _tex_row([*layout.headings, *(CITED[key] for key in layout.cited)]),
        "\\midrule",
        *map(_tex_row, rows),
        "\\bottomrule",
        "\\end{tabular}}",
        "\\par\\smallskip\\footnotesize",
        *(f"{tex(note)}" for note in notes(results, frame)),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(tex, cells)) + " \\\\"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}", "<": r"$<$", ">": r"$>$",
    "|": r"$|$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "−": r"$-$", "≤": r"$\le$", "≥": r"$\ge$",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "→": r"$\to$", "∞": r"$\infty$", "²": r"$^2$", "³": r"$^3$",
    "–": "--", "—": "---", "…": r"\ldots{}", "ρ": r"$\rho$", "λ": r"$\lambda$", "σ": r"$\sigma$", "α": r"$\alpha$",
    "β": r"$\beta$", "φ": r"$\phi$",
}  # fmt: skip


def tex(text: str) -> str:
    """`text` with every character that TeX would act on, or pdflatex cannot set, replaced; `code` is set as code."""
    parts = re.split(r"`([^`]*)`", text)
    return "".join(f"\\texttt{{{_escape(part)}}}" if index % 2 else _escape(part) for index, part in enumerate(parts))


def _escape(text: str) -> str:
    return "".join(_TEX.get(char, char if char.isascii() else _plain(char)) for char in text)


def _plain(char: str) -> str:
    return unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode() or "?"
