"""The verdict of a study, in sentences: which differences are separated from 0, which are not, which were not made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.contrasts import Contrast, Until, contrasts, leader, rulings
from analysis.metrics import Metric, decider
from analysis.render import number, probability, span
from analysis.results import StudyResults
from analysis.stats import ALPHA, FEWEST

Outcome = Literal["separated", "equivalent", "undecided", "not made"]


@dataclass(frozen=True)
class Sentence:
    """What is known of one comparison."""

    outcome: Outcome
    text: str


@dataclass(frozen=True)
class Verdict:
    """One line on the whole study, and a sentence per comparison, the separated ones first."""

    headline: str
    sentences: Sequence[Sentence] = ()


def verdict(results: StudyResults) -> Verdict:
    """What a study decides, by the metric that suits its number of samples.

    A study that adds seeds by itself is judged by its own rule, any other by Holm's p of the paired t test.
    """
    labels = {variant: cells[0].label for variant, cells in results.variants().items()}
    until = Until.of(results)
    if until is not None:
        metric = until.metric
        found = _by_rulings(results, until, labels)
    else:
        metric = decider(results)
        found = [_sentence(one, labels) for one in _each_pair_once(contrasts(results)) if one.metric == metric]
    order: tuple[Outcome, ...] = ("separated", "equivalent", "undecided", "not made")
    found.sort(key=lambda sentence: order.index(sentence.outcome))
    return Verdict(_headline(results, metric, found, labels), found)


def _each_pair_once(made: Sequence[Contrast]) -> Iterator[Contrast]:
    """Without those that say the other way round what an earlier reference has said."""
    told: set[tuple[str, str, str]] = set()
    for one in made:
        if (one.metric.key, one.reference, one.variant) not in told:
            told.add((one.metric.key, one.variant, one.reference))
            yield one


def _headline(results: StudyResults, metric: Metric, found: Sequence[Sentence], labels: dict[str, str]) -> str:
    if not found:
        return "This study compares no variants by their scores."
    counts = {outcome: sum(sentence.outcome == outcome for sentence in found) for outcome in ("separated", "not made")}
    if counts["not made"] == len(found):
        seeds = len({cell.seed for cell in results.cells})
        few = f": {seeds} seed{'s' * (seeds > 1)}, and {FEWEST} are the fewest that give an interval"
        return f"Undecided. No comparison can be made in {metric.short}{few if seeds < FEWEST else ''}."
    text = f"{counts['separated']} of {len(found)} comparisons are separated in {metric.short}."
    best = leader(results, metric)
    return f"{text} {labels[best]} is separated from every other variant." if best else text


def _sentence(contrast: Contrast, labels: dict[str, str]) -> Sentence:
    names, metric, found = (labels[contrast.variant], labels[contrast.reference]), contrast.metric, contrast.difference
    if found is None:
        return Sentence("not made", f"{names[0]} against {names[1]}: not compared, as {contrast.reason}.")
    if found.low is None or found.high is None or contrast.holm is None:
        shown = f"{names[0]} minus {names[1]} is {number(metric.scale * found.mean, metric.digits)} in {_unit(metric)}"
        reason = "one seed gives no interval" if found.n == 1 else f"{found.n} seeds give no interval"
        return Sentence("not made", f"{shown}, but {reason}: which is better is not known.")
    outcome: Outcome = "separated" if contrast.holm <= ALPHA else "undecided"
    told = f"{found.n} seeds, Holm's p {probability(contrast.holm)}"
    return Sentence(outcome, _told(names, metric, outcome, (found.mean, found.low, found.high), told))


def _unit(metric: Metric) -> str:
    """What a metric's numbers are, without the number of samples: "KID ×10³"."""
    return metric.name.replace("@{n}", "")


def _by_rulings(results: StudyResults, until: Until, labels: dict[str, str]) -> list[Sentence]:
    sentences = []
    for variant, ruling in rulings(results).items():
        names = (labels[variant], labels.get(until.reference, until.reference))
        if ruling.mean is None or ruling.low is None or ruling.high is None:
            outcome: Outcome = "not made" if ruling.verdict == "not made" else "undecided"
            sentences.append(
                Sentence(outcome, f"{names[0]} against {names[1]}: {ruling.verdict}, without an interval.")
            )
            continue
        told = f"{ruling.n} seeds, interval repeated at every look"
        values = (ruling.mean, ruling.low, ruling.high)
        sentences.append(Sentence(ruling.verdict, _told(names, until.metric, ruling.verdict, values, told)))
    return sentences


def _told(
    names: tuple[str, str], metric: Metric, outcome: Outcome, values: tuple[float, float, float], how: str
) -> str:
    """One sentence on a difference: who is better by how much, or that this is not known."""
    mean, low, high = (metric.scale * value for value in values)
    shown = f"{number(mean, metric.digits)} {span(low, high, metric.digits)} in {_unit(metric)} ({how})"
    if outcome == "separated" and metric.better:
        better = (mean < 0) == (metric.better == "lower")
        return f"{names[0]} is {'better' if better else 'worse'} than {names[1]}: a difference of {shown}."
    if outcome == "separated":
        return f"{names[0]} differs from {names[1]} by {shown}."
    if outcome == "equivalent":
        return f"{names[0]} and {names[1]} differ by less than the margin: {shown}."
    return f"{names[0]} and {names[1]} are not separated: a difference of {shown}."
