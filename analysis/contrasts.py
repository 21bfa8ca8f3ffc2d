"""What a variant is worth: its differences to the full method and to the baseline, seed by seed.

Within one metric and one reference all variants make one family, over which p is corrected by Holm's procedure. A
comparison is made on all seeds of both variants or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.metrics import Metric, compared, named
from analysis.provenance import one_revision
from analysis.results import CellResult, StudyResults
from analysis.sequential import Rule, Ruling, judge
from analysis.standing import STOPPING
from analysis.stats import ALPHA, FEWEST, Difference, compare, holm, pairs


@dataclass(frozen=True)
class Contrast:
    """`variant` minus `reference` in one metric, unscaled; without a difference, `reason` says why it was not made."""

    variant: str
    reference: str
    metric: Metric
    difference: Difference | None
    holm: float | None = None  # Holm's adjusted p
    reason: str = ""


def contrasts(results: StudyResults) -> list[Contrast]:
    """Every variant against every reference that the study has for it, in every metric.

    Raises `UserError` where the variants of a comparison were asked for different seeds, unless the study adds seeds to
    some of them on purpose.
    """
    variants = results.variants()
    found = []
    for reference, others in results.comparisons().items():
        for metric in compared(results):
            made = [contrast(results, metric, variants[variant], variants[reference]) for variant in others]
            adjusted = holm([one.difference.p if one.difference else None for one in made])
            found += [
                Contrast(one.variant, one.reference, metric, one.difference, p, one.reason)
                for one, p in zip(made, adjusted, strict=True)
            ]
    return found


def contrast(
    results: StudyResults, metric: Metric, cells: Sequence[CellResult], others: Sequence[CellResult]
) -> Contrast:
    """The cells of a variant minus those of another, seed by seed, or why that was not made; p is not corrected."""
    first, second = cells[0].variant, others[0].variant

    def not_made(reason: str) -> Contrast:
        return Contrast(first, second, metric, None, reason=reason)

    if metric.source == "heldout" and results.tokenizers(first) != results.tokenizers(second):
        return not_made("they do not share a tokenizer")
    if results.until:
        common = {cell.seed for cell in cells} & {cell.seed for cell in others}
        cells, others = ([cell for cell in side if cell.seed in common] for side in (cells, others))
        if not common:
            return not_made("they share no seed yet")
    for cell in (*cells, *others):
        if (state := cell.state[0]) != "done":
            return not_made(f"{cell.name} is {state}")
    if not one_revision([*cells, *others]):
        return not_made("different revisions of a stage computed them")
    measured = [{cell.seed: metric.of(cell) for cell in side} for side in (cells, others)]
    reasons = [reason for side in measured for _, reason in side.values() if reason]
    if reasons:
        return not_made(reasons[0])
    sides = [{seed: value for seed, (value, _) in side.items() if value is not None} for side in measured]
    return Contrast(first, second, metric, compare(pairs(sides[0], sides[1], (first, second))))


def leader(results: StudyResults, metric: Metric) -> str | None:
    """The variant that is best in a metric and separated, by Holm's p, from every other; None if there is none.

    None, too, where seeds were added by looking at scores: such p do not account for the looks.
    """
    if not metric.better or results.until:
        return None
    sign = 1 if metric.better == "lower" else -1
    values: dict[str, dict[int, float]] = {}
    for variant, cells in results.variants().items():
        found = {cell.seed: value for cell in cells if (value := metric.of(cell)[0]) is not None}
        if found:
            values[variant] = {seed: sign * value for seed, value in found.items()}
            if len(found) < len(cells):
                return None
    if metric.source == "heldout" and len({results.tokenizers(variant) for variant in values}) > 1:
        return None
    if len(values) < 2 or min(map(len, values.values())) < FEWEST:
        return None
    best = min(values, key=lambda variant: sum(values[variant].values()) / len(values[variant]))
    rivals = [variant for variant in values if variant != best]
    ps = holm([compare(pairs(values[rival], values[best], (rival, best))).p for rival in rivals])
    return best if all(p is not None and p <= ALPHA for p in ps) else None


@dataclass(frozen=True)
class Until:
    """How a study decides by itself how many seeds each comparison takes; written to cells.json as "until"."""

    metric: Metric
    reference: str  # the variant that the others are compared with, or a pattern as in "references" of cells.json
    max_seeds: int = Rule.max_seeds
    margin: float | None = None  # in the unit of the metric's column

    @classmethod
    def of(cls, results: StudyResults) -> Until | None:
        """None for a study of as many seeds as were asked for."""
        body = results.until
        if body is None:
            return None
        return cls(named(results, body["metric"]), body["reference"], body["max_seeds"], body["margin"])

    def as_dict(self) -> Mapping[str, Any]:
        return {
            "metric": self.metric.key,
            "reference": self.reference,
            "max_seeds": self.max_seeds,
            "margin": self.margin,
        }

    @property
    def rule(self) -> Rule:
        """Raises `UserError` for one by which nothing could be decided."""
        rule = Rule(self.max_seeds, self.margin)
        return rule if rule.margin is None else Rule(rule.max_seeds, rule.margin / self.metric.scale)


def rulings(results: StudyResults) -> dict[str, Ruling]:
    """Where the comparisons of a study that adds seeds stand, by variant; empty for any other study.

    A comparison is followed as far as both its variants are done; it is "not made" once a run of it has failed, or has
    ended without the number that decides.
    """
    until = Until.of(results)
    if until is None:
        return {}
    variants, comparisons = results.variants(), dict[str, list[float] | None]()
    for variant, reference in decided(results, until).items():
        others = {cell.seed: cell for cell in variants[reference]}
        found = _so_far(until.metric, sorted(variants[variant], key=lambda cell: cell.seed), others)
        comparisons[variant] = None if isinstance(found, str) else found
    return judge(comparisons, until.rule)


def decided(results: StudyResults, until: Until) -> dict[str, str]:
    """Variant -> the reference that it is compared with, of all comparisons that a study decides."""
    asked = replace(results, references=(until.reference,)).comparisons()
    pairs = {variant: reference for reference, variants in asked.items() for variant in variants}
    return {variant: pairs[variant] for variant in results.variants() if variant in pairs}


def why_not_made(results: StudyResults, variant: str) -> str:
    """Why the comparison of a variant cannot be made in a study that adds seeds; empty where it can."""
    until, variants = Until.of(results), results.variants()
    reference = decided(results, until).get(variant) if until else None
    if until is None or reference is None:
        return ""
    others = {cell.seed: cell for cell in variants[reference]}
    found = _so_far(until.metric, sorted(variants[variant], key=lambda cell: cell.seed), others)
    return found if isinstance(found, str) else ""


def closing_in(results: StudyResults) -> list[str]:
    """One line per comparison of a study that adds seeds: its difference, repeated interval and verdict so far."""
    until, variants = Until.of(results), results.variants()
    if until is None:
        return []
    lines, scale, digits = [], until.metric.scale, until.metric.digits
    references = decided(results, until)
    for variant, ruling in rulings(results).items():
        labels = " minus ".join(variants[name][0].label for name in (variant, references[variant]))
        if ruling.mean is None or ruling.low is None or ruling.high is None:
            why = why_not_made(results, variant)
            lines.append(f"{labels}: {ruling.verdict}" + (f", as {why}" if why else ""))
            continue
        mean, low, high = (f"{scale * value:.{digits}f}" for value in (ruling.mean, ruling.low, ruling.high))
        lines.append(f"{labels}: {until.metric.short} {mean} [{low}, {high}] after {ruling.n} seeds, {ruling.verdict}")
    return lines


def _so_far(metric: Metric, cells: Sequence[CellResult], reference: Mapping[int, CellResult]) -> list[float] | str:
    """Differences up to the first seed that is not done on both sides, or why the comparison cannot be made.

    A run that is done but lacks the metric will not get it: to wait for it would end the whole study unseen.
    """
    differences: list[float] = []
    for cell in cells:
        found = []
        for side in (cell, reference.get(cell.seed)):
            state = side.state[0] if side else "waiting"
            if side is None or (state != "done" and state not in STOPPING):
                continue
            if state != "done":
                return f"{side.name} is {state}"
            value, reason = metric.of(side)
            if value is None:
                return f"{metric.short} of {side.name} is blank: {reason}"
            found.append(value)
        if len(found) < 2:
            return differences
        differences.append(found[0] - found[1])
    return differences
