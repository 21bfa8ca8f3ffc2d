"""Claims of Table 1: better than VAR and M-VAR at every size, with VAR's parameters and VAR's speed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial

from analysis.plot_speed import machines, ratios
from analysis.stats import FEWEST, compare, median_interval
from analysis.table import published
from studies.claims.claim import Claim, Evidence, Finding, NotMeasured, all_better
from studies.presets import preset

STUDY = "table1"
RIVALS = ("var", "m-var")
SIZES = (12, 16, 20, 24)
FEWEST_ROUNDS = 6  # of which the lowest and the highest enclose the median with 95 %
SAME_SPEED = 0.05  # a difference in time below which networks count as equally fast; ours
ROUNDING = 0.05  # of a printed number of parameters ("1.0B"), and what K = 4 or 10 scales make of it


def beats_both(size: int, evidence: Evidence) -> Finding:
    """That FVAR is better than VAR and than M-VAR of the same size: supported by both, refuted by either."""
    cited, ours = published(STUDY), f"fvar-d{size}"
    compared = {}
    for rival in RIVALS:
        claimed = float(cited[ours]["fid"]) - float(cited[f"{rival}-d{size}"]["fid"])
        compared[ours, f"{rival}-d{size}"] = f" (paper: FID {claimed:+.2f})"
    return all_better(evidence.study(STUDY), compared)


def as_fast(evidence: Evidence) -> Finding:
    """That FVAR's deployment network samples as fast as VAR's of the same size, by the samples of Table 1."""
    variants = evidence.study(STUDY).variants()
    ratios: dict[str, list[float]] = {}
    for size in SIZES:
        sides = [{cell.seed: cell for cell in variants.get(f"{key}-d{size}", [])} for key in ("fvar", "var")]
        ours, theirs = ({seed: cell.sampling("seconds_per_image") for seed, cell in side.items()} for side in sides)
        if not ours or ours.keys() != theirs.keys() or None in (*ours.values(), *theirs.values()):
            continue
        if len({cell.sampled_on for side in sides for cell in side.values()}) == 1:
            pairs = ((ours[seed], theirs[seed]) for seed in sorted(ours))
            ratios[f"d{size}"] = [mine / other for mine, other in pairs if mine and other]
    if not ratios:
        raise NotMeasured("no size of table1 was sampled by VAR and FVAR on the same device")
    return judge_speed(ratios)


def as_fast_as_mvar(evidence: Evidence) -> Finding:
    """That the deployment network is not slower than M-VAR's of the same size: both timed in turns (study `speed`)."""
    results = evidence.study("speed")
    return judge_mvar(ratios(results), "; ".join(machines(results)))


def judge_mvar(found: Mapping[str, Sequence[float]], machine: str) -> Finding:
    """From M-VAR's time over VAR's by depth and batch: supported where no interval lies below 1, refuted by one.

    The interval is of the median over the rounds of each, by the sign test's order statistics (Conover 1999).
    """
    spans = {name: median_interval(values) for name, values in found.items()}
    if not spans or any(span is None for span in spans.values()):
        raise NotMeasured(f"an interval of a median takes {FEWEST_ROUNDS} rounds")
    known = {name: span for name, span in spans.items() if span}
    middle = sorted(statistics.median(found[name]) for name in known)
    low, high = min(low for low, _ in known.values()), max(high for _, high in known.values())
    effect, interval = f"M-VAR takes {middle[0]:.2f} to {middle[-1]:.2f} times as long", f"[{low:.2f}, {high:.2f}]"
    slower = [name for name, (_, most) in known.items() if most < 1]
    unsure = [name for name, (least, most) in known.items() if least < 1 <= most]
    note = f"medians, {len(known)} depths and batches, on {machine}"
    if slower:
        return Finding("refuted", effect, interval, f"{note}; VAR is slower at {', '.join(slower)}")
    return Finding("undecided" if unsure else "supported", effect, interval, note)


def judge_speed(ratios: Mapping[str, Sequence[float]]) -> Finding:
    """From FVAR's time over VAR's by size and seed: the same where every interval lies within 5 %, refuted by one."""
    found = {name: compare([value - 1 for value in values]) for name, values in ratios.items()}
    mean = sum(one.mean for one in found.values()) / len(found)
    spans = {name: (one.low, one.high) for name, one in found.items() if one.low is not None and one.high is not None}
    effect, note = f"time {mean:+.1%}", f"FVAR's over VAR's, {', '.join(found)}"
    if len(spans) < len(found):
        return Finding("undecided", effect, note=f"{note}; an interval takes {FEWEST} seeds", seeds=FEWEST)
    low, high = min(low for low, _ in spans.values()), max(high for _, high in spans.values())
    interval = f"[{low:+.1%}, {high:+.1%}]"
    if low > -SAME_SPEED and high < SAME_SPEED:
        return Finding("supported", effect, interval, f"{note}; within {SAME_SPEED:.0%}")
    if slower := [name for name, (least, _) in spans.items() if least > SAME_SPEED]:
        return Finding("refuted", effect, interval, f"{note}; slower at {', '.join(slower)}")
    return Finding("undecided", effect, interval, f"{note}; the same would be within {SAME_SPEED:.0%}")


def parameters(evidence: Evidence) -> Finding:
    """That VAR and FVAR have the printed numbers of parameters, and M-VAR its own: counted for the paper's sizes."""
    return judge_parameters(counted())


def counted() -> dict[str, float]:
    """Parameters by row of Table 1, of the deployment network at the paper's preset, by `fvar.estimate`."""
    from fvar.estimate import estimate
    from studies.variants import chain

    paper, found = preset("paper"), {}
    for size in SIZES:
        for key, variant, mixer in (("var", "baseline", "var"), ("m-var", "baseline", "mvar"), ("fvar", "full", "var")):
            stage = chain(paper, variant, 0, depth=size, mixer=mixer)  # type: ignore[arg-type]
            bill = estimate(stage.inputs["samples"].inputs["var"])
            found[f"{key}-d{size}"] = next(part.parameters for part in bill.parts if part.name == "student")
    return found


def judge_parameters(found: dict[str, float]) -> Finding:
    """Supported where all are as printed, refuted where FVAR's differ from VAR's, else undecided by other rows."""
    cited = {name: _number(row["parameters"]) for name, row in published(STUDY).items() if name in found}
    off = {name: found[name] / cited[name] - 1 for name in cited}
    wrong = [
        f"{name} {found[name] / 1e6:.0f}M, printed {cited[name] / 1e6:.0f}M"
        for name, share in off.items()
        if abs(share) > ROUNDING
    ]
    furthest = max(off, key=lambda name: abs(off[name]))
    effect = f"at most {off[furthest]:+.1%} from the printed ({furthest})"
    if any(found[f"fvar-d{size}"] != found[f"var-d{size}"] for size in SIZES):
        return Finding("refuted", effect, note="FVAR's deployment network is not as large as VAR's")
    note = "FVAR's equal VAR's exactly"
    return Finding("undecided" if wrong else "supported", effect, note="; ".join([note, *wrong]))


def _number(text: str) -> float:
    return float(text[:-1]) * {"M": 1e6, "B": 1e9}[text[-1]]


CLAIMS = (
    *(
        Claim(
            f"d{size}", "Table 1", f"FVAR-d{size} beats VAR-d{size} and M-VAR-d{size}", partial(beats_both, size), STUDY
        )
        for size in SIZES
    ),
    Claim("parameters", "Table 1", "FVAR has VAR's parameters (132M to 1.0B), M-VAR half as many again", parameters),
    Claim("fast", "Sec. 4.3", "FVAR is not slower than M-VAR", as_fast_as_mvar, "speed"),
    Claim("speed", "Table 1", "FVAR samples as fast as VAR", as_fast, STUDY),
)
