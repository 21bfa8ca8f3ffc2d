"""A study's table: measured means and intervals beside the published numbers, as table.md, .tex and .csv.

All three say the same and depend on the results alone, so writing them again writes the same bytes. This file collects
what they say (`rows`); `analysis.render` sets it in type, `analysis.notes` says what must be known to read it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import tokenizer_quality, training_cost
from analysis.contrasts import Contrast, contrasts, leader, rulings
from analysis.metrics import MASKED, SAMPLED, TEACHER, Metric, metrics_of
from analysis.provenance import of_one_revision
from analysis.render import CITED, latex, markdown
from analysis.results import CellResult, StudyResults
from analysis.stats import spread
from fvar.errors import UserError
from fvar.machine import atomic

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = Path(__file__).resolve().with_name("published.csv")


def write(results: StudyResults) -> list[Path]:
    """Write table.md, table.tex and table.csv into the study's folder and return their paths."""
    found = rows(results)
    texts = {"table.md": markdown(results, found), "table.tex": latex(results, found), "table.csv": _csv(found)}
    for name, text in texts.items():
        atomic.write_text(results.folder / name, text)
    return [results.folder / name for name in texts]


def published(study: str, path: Path = PUBLISHED) -> dict[str, dict[str, str]]:
    """Rows of published.csv for a study, by variant and as printed; empty for a study the paper does not have."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return {row["variant"]: row for row in csv.DictReader(file) if row["study"] == study}
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; restore it with `git checkout analysis/published.csv`, or install fvar again"
        ) from None


def rows(results: StudyResults) -> list[dict[str, Any]]:
    """One row per variant with plain, unscaled numbers: what table.csv holds and the other two are set from.

    All have the same keys; what a row lacks is NaN.

    `<metric>_mean`, `_sd` (sample standard deviation), `_half` (half-width of the 95 % interval) and `_n` are measured
    over seeds, `_sampling` is the spread of one seed's value over resampled images, `_reason` says why a value is
    missing, `_best` that the variant is separated from every other. `<metric>_minus_<reference>_mean`, `_low`,
    `_high`, `_p`, `_exact`, `_holm`, `_n` and `_reason` compare with a reference, `verdict...` is that of a study
    which adds seeds by itself, `tokenizer...` describes the structure tokenizer, `training...` says what training took,
    `cited_*` are the paper's. Published rows that are not variants of the study stand at the end, with nothing
    measured.
    """
    variants, cited = results.variants(), published(results.study)
    extra = _by_variant(results)
    found = [
        _measured(results, cells) | extra[variant] | _citation(cited.get(variant, {}))
        for variant, cells in variants.items()
    ]
    found += [
        {"variant": variant, "label": row["model"], "state": "cited"} | _citation(row)
        for variant, row in cited.items()
        if variant not in variants
    ]
    names = dict.fromkeys(["study", "preset", *(name for row in found for name in row)])
    where = {"study": results.study, "preset": results.preset}
    columns = {name: _column(name, [(where | row).get(name) for row in found]) for name in names}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def tidy(results: StudyResults) -> pd.DataFrame:
    """`rows` as a frame, for a notebook; counts are nullable integers.

    Examples
    --------
    >>> frame = tidy(StudyResults.read(Path("results"), "ablation_table2", "smoke"))
    >>> frame[["variant", "kid_mean", "seeds_done"]]
    """
    import pandas as pd

    frame = pd.DataFrame(rows(results))
    return frame.astype({name: "Int64" for name in frame.columns if _is_count(name)})


def _is_count(name: str) -> bool:
    return name.startswith("seeds") or name.endswith(("_n", "_count"))


def _column(name: str, values: Sequence[Any]) -> Sequence[Any]:
    """A column of the table. What is missing is NaN; numbers are floats where not all are whole, but counts stay."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    whole = all(isinstance(value, int) for value in values)
    if not _is_count(name) and not whole and len(numbers) == len(values) - values.count(None):
        return [math.nan if value is None else float(value) for value in values]
    return [math.nan if value is None else value for value in values]


def _csv(found: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(found[0] if found else ())
    for row in found:
        writer.writerow("" if value != value else value for value in row.values())  # NaN alone differs from itself
    return file.getvalue()


def _measured(results: StudyResults, cells: Sequence[CellResult]) -> dict[str, Any]:
    """The measured part of a variant's row, from its cells (one per seed)."""
    states = [cell.state for cell in cells]
    finished = [cell for cell, (state, _) in zip(cells, states, strict=True) if state == "done"]
    done, mixed = of_one_revision(finished)
    state, detail = next(((s, d) for s, d in states if s != "done"), ("outdated" if mixed else "done", mixed))
    row: dict[str, Any] = {"variant": cells[0].variant, "label": cells[0].label, "state": state, "detail": detail}
    row |= {"seeds": len(cells), "seeds_done": len(done)}
    row |= {f"param_{key}": value for key, value in cells[0].params.items()}
    # A loss per token is shown beside another of the same tokens: another variant's, or its own teacher's.
    comparable = _shares_tokenizer(results, cells[0].variant) or TEACHER in metrics_of(results)
    for metric in metrics_of(results):
        found = [metric.of(cell, results.cells) for cell in done]
        if metric.source == "heldout" and not comparable:
            found = [(None, reason or "no other network shares its tokenizer") for _, reason in found]
        row |= _over_seeds(metric, found)
    for key in SAMPLED:
        spreads = [cell.scores.get(key, {}).get("spread") for cell in done]
        summary = spread(spreads)
        row[f"{key}_sampling"] = summary.mean if summary else math.nan
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


def _over_seeds(metric: Metric, found: Sequence[tuple[float | None, str]]) -> dict[str, Any]:
    summary = spread(value for value, _ in found)
    values = (summary.mean, summary.sd, summary.half_width) if summary else (None, None, None)
    mean, sd, half = (math.nan if value is None else value for value in values)
    reason = next((reason for _, reason in found if reason), "")
    numbers = {"mean": mean, "sd": sd, "half": half, "n": summary.n if summary else 0, "reason": reason}
    return {f"{metric.key}_{part}": value for part, value in numbers.items()}


def _shares_tokenizer(results: StudyResults, variant: str) -> bool:
    """Whether another network has the tokens of the same tokenizers: only then losses per token say anything.

    Where no tokenizer is known yet there is nothing to compare either.
    """
    variants, own = results.variants(), results.tokenizers(variant)
    network = _networks(variants[variant])
    return len(variants) == 1 or any(
        results.tokenizers(other) == own and _networks(cells) != network
        for other, cells in variants.items()
        if other != variant
    )


def _networks(cells: Iterable[CellResult]) -> list[str]:
    """The trained transformers of a variant's seeds."""
    return [cell.chain["var"].name for cell in cells if "var" in cell.chain]


def _by_variant(results: StudyResults) -> dict[str, dict[str, Any]]:
    """What only the study as a whole can say about a variant: its tokenizer, comparisons, verdict, first places."""
    letters, verdicts = tokenizer_quality.letters(results), rulings(results)
    best = {metric.key: leader(results, metric) for metric in metrics_of(results)}
    rows: dict[str, dict[str, Any]] = {}
    for variant, cells in results.variants().items():
        rows[variant] = (
            {"tokenizer": letters[variant]} | tokenizer_quality.columns(cells) | training_cost.columns(cells)
        )
        rows[variant] |= {f"{key}_best": name == variant for key, name in best.items()}
        if ruling := verdicts.get(variant):
            numbers = {"": ruling.verdict, "_mean": ruling.mean, "_low": ruling.low, "_high": ruling.high}
            rows[variant] |= {f"verdict{part}": value for part, value in numbers.items()} | {"verdict_n": ruling.n}
    for contrast in contrasts(results):
        rows[contrast.variant] |= _contrast(contrast)
    return rows


def _contrast(contrast: Contrast) -> dict[str, Any]:
    name, found = f"{contrast.metric.key}_minus_{contrast.reference}", contrast.difference
    numbers = {part: getattr(found, part, None) for part in ("mean", "low", "high", "p", "exact")}
    numbers["holm"] = contrast.holm
    row: dict[str, Any] = {f"{name}_{part}": math.nan if value is None else value for part, value in numbers.items()}
    return row | {f"{name}_n": found.n if found else 0, f"{name}_reason": contrast.reason}


def _agreed(cells: Iterable[CellResult], key: str) -> Any:
    """The value under `key` shared by all scores of a variant's cells; None before any is done.

    Scores under a mask are left out: they compare each sample with its own original, not with the real images as a set.
    Raises `UserError` where the others differ, since such scores must not be averaged.
    """
    paired = {metric.key for metric in MASKED}
    scores = [score for cell in cells for name, score in cell.scores.items() if name not in paired]
    values = {score[key] for score in scores if score.get(key) is not None}
    if len(values) > 1:
        raise UserError(f"scores of one variant differ in {key}: {', '.join(map(str, sorted(values)))}")
    return next(iter(values), None)


def _citation(row: Mapping[str, str]) -> dict[str, str]:
    return {f"cited_{key}": row.get(key, "") for key in (*CITED, "source", "note")}
