"""What must be known to read a study's numbers, as sentences under its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.contrasts import Until
from analysis.metrics import MASKED, METRICS, SAMPLED, metrics_of, printed
from analysis.provenance import commits
from analysis.results import StudyResults
from analysis.stats import EXACT_FROM, FEWEST
from fvar.usage import gpu_hours

Row = Mapping[str, Any]


def known(rows: Sequence[Row], column: str) -> list[Any]:
    """The different values of a column, in order, without those that are missing."""
    values = dict.fromkeys(row[column] for row in rows)
    return [value for value in values if not (isinstance(value, float) and math.isnan(value))]


def notes(results: StudyResults, everything: Sequence[Row]) -> list[str]:
    """Sentences about the rows of a table, the most important first."""
    rows = [row for row in everything if row["state"] != "cited"]
    lines = [f"Measured at preset `{results.preset}`" + _data_text(results) + "."]
    if known(rows, "sample_count"):
        counts, references, extractors = (
            ", ".join(map(str, known(rows, key))) for key in ("sample_count", "reference_count", "extractor")
        )
        against = f"{references} real images" if references else "no real images"
        lines.append(f"FID, KID, precision and recall: {counts} samples against {against}, {extractors}.")
        if files := published_files(results):
            lines.append(f"FID and sFID are those to the published statistics in {', '.join(files)}, ADM's protocol.")
    if any(row.get("top_octave_n") for row in rows):
        lines.append(
            "Spectral distance: root mean square over octaves of the log-spectral distance to the real images. "
            "Top octave: energy beyond half the Nyquist frequency over the real images'; more than 1 is aliasing or "
            "noise, less is blur."
        )
    if MASKED[0] in metrics_of(results):
        lines.append(
            "Held-out images were completed: PSNR in the mask and LPIPS are to the originals, which a good completion "
            "need not be; the step at the seam is the originals' times the number shown; FID and KID are of the whole."
        )
    lines += _about_seeds(results, rows)
    lines += _about_comparisons(results, rows)
    lines += _about_tokenizers(results, rows)
    lines += commits(results)
    lines += [f"{text}." for text in results.shortfalls()]
    lines += [f"{text}." for text in known(rows, "caveats") if text]
    lines += [f"{name} is blank: {reason}." for name, reason in _blanks(results, rows).items()]
    sources = [source for source in known(everything, "cited_source") if source]
    if sources:
        where = "; ".join(source.removeprefix("cited: ") for source in sources)
        lines.append(f"Cited columns: {where} (ImageNet 256), the paper's numbers, not ours.")
        if results.preset != "paper":
            lines.append(f"Numbers of preset `{results.preset}` are NOT comparable with the paper's.")
    lines += _bill(results)
    lines += [f"{row['label']}: {row['cited_note']}." for row in everything if row["cited_note"]]
    lines += [f"{row['label']} is {row['state']}: {row['detail'].rstrip('.')}." for row in rows if row["detail"]]
    return lines


def _about_seeds(results: StudyResults, rows: Sequence[Row]) -> list[str]:
    """Which seeds there are, and what the intervals over them mean."""
    seeds = sorted({cell.seed for cell in results.cells})
    named = f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    finished = max((row["seeds_done"] for row in rows), default=0)
    if len(seeds) < FEWEST:
        told = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
        lines = [
            f"{named}. {told}: no comparison can be made; which variant is better is not known. "
            f"`--seeds {FEWEST}` is the fewest that give an interval."
        ]
    else:
        lines = [f"{named}; ± is the half-width of the 95 % interval of the mean over seeds (Student's t)."]
        if finished < FEWEST:
            lines.append(f"Fewer than {FEWEST} seeds are done yet: no comparison can be made.")
    if any(not math.isnan(row[f"{key}_sampling"]) for row in rows for key in SAMPLED):
        lines.append(
            "σ is the sampling spread of one seed's value, over resampled images (FID: bootstrap, KID: subsets); an "
            "interval over seeds contains it."
        )
    return lines


def _about_comparisons(results: StudyResults, rows: Sequence[Row]) -> list[str]:
    """How differences were tested, and which could not be."""
    tested = metrics_of(results) if results.columns else METRICS
    columns = [f"{metric.key}_minus_{reference}" for reference in results.comparisons() for metric in tested]
    present = [(row, column) for row in rows for column in columns if isinstance(row.get(f"{column}_reason"), str)]
    made = [(row, column) for row, column in present if not math.isnan(row[f"{column}_low"])]
    lines = []
    until = Until.of(results)
    if until:
        margin = "" if until.margin is None else f", or shown to be smaller than {until.margin:g}"
        lines.append(
            f"Seeds were added, up to {until.max_seeds}, until each difference in {until.metric.short} was separated "
            f"from 0{margin}. The verdicts account for every look at the scores (alpha spending for repeated t tests, "
            "Holm); the other intervals do not, so they have no p."
        )
    elif made:
        lines.append(
            "Differences are paired by seed: interval and p by the paired t test, Holm's p corrected over the rows."
            + ("" if results.columns else " The other columns' differences are in table.csv.")
        )
        if any(not math.isnan(row[f"{column}_exact"]) for row, column in made):
            lines.append(
                f"From {EXACT_FROM} seeds on p of all sign flips, which needs no normal differences, is shown."
            )
        lines.append("Bold: separated from every other variant, Holm's p at most 0.05.")
    shown = tuple(f"{metric.key}_minus" for metric in printed(results))
    reasons: dict[str, dict[str, None]] = {}
    for row, column in present:
        if column.startswith(shown) and (reason := row[f"{column}_reason"]):
            reasons.setdefault(reason, {})[row["label"]] = None
    lines += [f"Comparisons not made: {', '.join(labels)}, as {reason}." for reason, labels in reasons.items()]
    return lines


def _about_tokenizers(results: StudyResults, rows: Sequence[Row]) -> list[str]:
    """What the tokenizers bound, and whether any interval covers their training."""
    lines = []
    if any(row["tokenizer"] for row in rows):
        lines.append(
            "Tokenizers: rFID, PSNR of held-out reconstructions, bits per image and codebook perplexity of the "
            "structure tokenizer bound what generation on its tokens can reach."
        )
        if not any(row["tokenizer_rfid_n"] for row in rows):
            lines.append("rFID is blank: the tokenizers of this preset were not scored (tokenizer.rfid_images).")
    if any(row["training_hours_mean"] > 0 for row in rows):
        lines.append(
            "Training: FLOPs are the estimate of `python -m fvar.estimate`, hours the wall time of tokenizers, token "
            "stores and transformer; what variants share counts in each of them."
        )
    several = not results.columns and max((row["seeds"] for row in rows), default=0) >= FEWEST
    if several and not any(len(results.tokenizers(row["variant"])) > 1 for row in rows):
        lines.append(
            "No interval covers the tokenizers, the larger part of the method: all seeds share those of seed 0. "
            "`--tokenizer-seeds` repeats them, too."
        )
    letters = {row["tokenizer"] for row in rows if row.get("cross_entropy_n")}
    if letters and not results.one_tokenizer:
        lines.append(
            "Held-out cross-entropy (nats per token) and accuracy compare only variants that share a tokenizer (its "
            "letter)."
        )
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


def published_files(results: StudyResults) -> list[str]:
    """Names of the files of statistics that a study was scored against."""
    used = [config.published for cell in results.cells if (config := cell.scores_config)]
    return sorted({Path(each.path).name for each in used if each})


def _data_text(results: StudyResults) -> str:
    configs = {cell.scores_config.reference for cell in results.cells if cell.scores_config}
    for data in sorted(configs, key=repr)[:1]:
        return f" on {data.dataset} {data.title if data.root else ''}".rstrip() + f" at {data.image_size} px"
    return ""


def _blanks(results: StudyResults, rows: Sequence[Row]) -> dict[str, str]:
    """Metric -> why some finished cell lacks it."""
    reasons = {}
    for metric in metrics_of(results):
        found = [reason for row in rows if (reason := row[f"{metric.key}_reason"])]
        if found:
            reasons[metric.short] = found[0].rstrip(".")
    return reasons
