"""What a claim and its finding are, and how paired differences over seeds become a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from analysis import cells
from analysis.cells import Place
from analysis.contrasts import Contrast, Until, contrast, contrasts, rulings
from analysis.metrics import BY_KEY, Metric, deciding
from analysis.results import StudyResults
from analysis.stats import ALPHA, FEWEST, Difference, holm
from fvar.errors import UserError

Verdict = Literal["supported", "refuted", "undecided", "not measured"]
AT_EVERY_PRESET = ("spectral",)  # studies that find the same at each, since they train nothing


class NotMeasured(Exception):
    """What a claim needs is not there; the text says what is missing."""


@dataclass(frozen=True)
class Finding:
    """What the results say of a claim."""

    verdict: Verdict
    effect: str = ""
    interval: str = ""
    note: str = ""
    seeds: int = 0  # that would separate the effect seen with a power of 80 %; 0: not known


@dataclass(frozen=True)
class Claim:
    """A sentence of the published texts, and the function that holds it against results."""

    key: str
    where: str  # in the longer text, unless it says otherwise
    text: str
    judge: Callable[[Evidence], Finding]  # raises `NotMeasured`
    study: str = ""  # that measures it; empty: computed here
    settings: tuple[str, ...] = ()  # --set that the study needs to measure it
    by_tokenizer: bool = False  # its seeds are those of tokenizers

    @property
    def computed(self) -> bool:
        """Whether it is the same at every preset."""
        return not self.study or self.study in AT_EVERY_PRESET

    def find(self, evidence: Evidence) -> Finding:
        """What the results say, "not measured" included."""
        try:
            return self.judge(evidence)
        except (NotMeasured, UserError) as missing:  # such as seeds that differ between the variants
            return Finding("not measured", note=str(missing))


@dataclass(frozen=True)
class Evidence:
    """Results on disk, at one preset (a folder's name: "smoke", or "smoke-1f0c3a" where settings were changed)."""

    results: Path
    preset: str
    _read: dict[str, StudyResults] = field(default_factory=dict, compare=False)
    _compared: dict[str, list[Contrast]] = field(default_factory=dict, compare=False)

    def study(self, name: str) -> StudyResults:
        """What a study left at the preset. Raises `NotMeasured` where no cell of it is done."""
        if name not in self._read:
            place = Place(self.results, name, self.preset)
            if not place.file.exists():
                raise NotMeasured(f"{name} was not run at this preset")
            self._read[name] = StudyResults.at(place)
        if not any(cell.state[0] == "done" for cell in self._read[name].cells):
            raise NotMeasured(f"no cell of {name} is done")
        return self._read[name]

    def difference(self, study: str, variant: str, reference: str, metric: str = "") -> Contrast:
        """A variant minus a reference of the study, p corrected over its variants; without a metric: what decides.

        Raises `NotMeasured` where the comparison was not made.
        """
        results = self.study(study)
        if study not in self._compared:
            self._compared[study] = contrasts(results)
        wanted = BY_KEY[metric] if metric else decider(results)
        for one in self._compared[study]:
            if (one.variant, one.reference, one.metric) == (variant, reference, wanted):
                if one.difference is None:
                    raise NotMeasured(one.reason)
                return one
        raise NotMeasured(f"{study} has no {variant} beside {reference}")


def decider(results: StudyResults) -> Metric:
    """The metric by which a study's variants are told apart: FID, or KID of few samples."""
    counts = [score["count"] for cell in results.cells for score in cell.scores.values() if score.get("count")]
    return deciding(min(counts, default=0))


def started(results: Path) -> list[str]:
    """The presets at which any study was started that depends on it, each once."""
    return list(dict.fromkeys(place.preset for place in cells.started(results) if place.study not in AT_EVERY_PRESET))


# ------------------------------------------------------------------------------------------------------------- verdicts


def from_contrast(results: StudyResults, found: Contrast, claimed: Literal["better", "worse"]) -> Finding:
    """The claim "the variant is better (worse) than the reference": by Holm's p, or by the rule that added seeds."""
    assert found.difference is not None
    metric, until = found.metric, Until.of(results)
    labels = " minus ".join(results.variants()[name][0].label for name in (found.variant, found.reference))
    lower = (metric.better == "lower") == (claimed == "better")
    if until is None:
        return from_difference(found.difference, found.holm, lower, metric, labels)
    ruling = rulings(results).get(found.variant) if until.reference == found.reference else None
    if ruling is None or until.metric != metric or ruling.mean is None or ruling.low is None or ruling.high is None:
        effect, _ = _texts(metric, found.difference.mean, None, None)
        note = f"{labels}; {found.difference.n} pairs, added by looking at other comparisons: no interval holds"
        return Finding("undecided", effect, "", note, needed(found.difference))
    verdict: Verdict = "undecided"
    if ruling.verdict == "separated":
        verdict = "supported" if (ruling.mean < 0) == lower else "refuted"
    note = f"{labels}; {ruling.n} pairs, --until"
    if ruling.verdict == "equivalent":
        note += f", shown to be smaller than {until.margin:g}"
    return Finding(verdict, *_texts(metric, ruling.mean, ruling.low, ruling.high), note, needed(found.difference))


def from_difference(
    found: Difference, p: float | None, lower: bool, metric: Metric, labels: str, unit: str = ""
) -> Finding:
    """The claim that a paired difference is below 0 (`lower`) or above it; `p` is the one that counts."""
    effect, interval = _texts(metric, found.mean, found.low, found.high, unit)
    note = f"{labels}; {found.n} pair{'s' * (found.n > 1)}"
    if p is None:
        return Finding("undecided", effect, interval, f"{note}, an interval takes {FEWEST}", FEWEST)
    note += f", Holm's p {p:.2g}"
    if p <= ALPHA:
        return Finding("supported" if (found.mean < 0) == lower else "refuted", effect, interval, note)
    return Finding("undecided", effect, interval, note, needed(found))


def all_better(results: StudyResults, compared: Mapping[tuple[str, str], str]) -> Finding:
    """That each variant is better than the one beside it, by what decides; told with a note on each.

    Supported where all are, refuted by one; p is corrected over these comparisons. Raises `NotMeasured`.
    """
    variants, metric = results.variants(), decider(results)
    if missing := [name for pair in compared for name in pair if name not in variants]:
        raise NotMeasured(f"{results.study} has no {', '.join(dict.fromkeys(missing))} here")
    made = [contrast(results, metric, variants[ours], variants[theirs]) for ours, theirs in compared]
    adjusted = holm([one.difference.p if one.difference else None for one in made])
    findings = []
    for one, p, note in zip(made, adjusted, compared.values(), strict=True):
        if one.difference is None:
            raise NotMeasured(one.reason)
        labels = " minus ".join(variants[name][0].label for name in (one.variant, one.reference))
        findings.append(from_difference(one.difference, p, metric.better == "lower", metric, labels + note))
    return worst(findings)


def worst(findings: Sequence[Finding]) -> Finding:
    """Of several findings that must all hold: refuted by one, supported by all."""
    verdicts = [finding.verdict for finding in findings]
    order: tuple[Verdict, ...] = ("refuted", "not measured", "undecided", "supported")
    return Finding(
        next(verdict for verdict in order if verdict in verdicts),
        "; ".join(finding.effect for finding in findings),
        "; ".join(finding.interval for finding in findings if finding.interval),
        "; ".join(finding.note for finding in findings),
        max(finding.seeds for finding in findings),
    )


def by_count(holds: int, cases: int) -> Verdict:
    """Of a claim that holds in some of all cases: supported by all, refuted by none, undecided between."""
    return "supported" if holds == cases else "undecided" if holds else "refuted"


def needed(found: Difference) -> int:
    """Seeds at which a paired t test sees the observed effect with a power of 80 %, were it the true one.

    The fewest that have an interval where there is none yet; 0 where no number of seeds can be told.
    """
    from scipy.special import nctdtr, stdtrit

    if found.high is None:
        return FEWEST
    quantile = stdtrit(found.n - 1, 1 - ALPHA / 2)
    sd = (found.high - found.mean) / quantile * found.n**0.5
    if not found.mean or not sd:
        return 0
    for n in range(found.n + 1, 1000):
        if 1 - nctdtr(n - 1, abs(found.mean) / sd * n**0.5, stdtrit(n - 1, 1 - ALPHA / 2)) >= 0.8:
            return n
    return 0


def _texts(metric: Metric, mean: float, low: float | None, high: float | None, unit: str = "") -> tuple[str, str]:
    scale, digits = metric.scale, metric.digits
    name = metric.short + (" ×10³" if scale == 1e3 and "×" not in metric.short else "")
    effect = f"{name} {scale * mean:+.{digits}f}{unit}"
    if low is None or high is None:
        return effect, ""
    return effect, f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
