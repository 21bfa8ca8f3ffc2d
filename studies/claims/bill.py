"""Claims about cost: Sec. 3.3 and 3.5, counted by `fvar.estimate` at the paper's settings (as the study `cost`)."""

from __future__ import annotations

from collections.abc import Sequence

from studies.claims.claim import Claim, Evidence, Finding, by_count
from studies.cost import CLAIMED_FLOPS, CLAIMED_PARAMETERS, DEPTHS, Row, rows


def flops(evidence: Evidence) -> Finding:
    """That the teacher adds 6-15 % training FLOPs."""
    return judge_flops(list(rows()))


def judge_flops(found: Sequence[Row]) -> Finding:
    """Supported where every reading at every depth is within, refuted where none is."""
    within = [row for row in found if row.flops_as_claimed]
    shares = [row.flops for row in found]
    low, high = CLAIMED_FLOPS
    note = f"claimed {low:.0%} to {high:.0%}; within it: " + (_listed(within) or "no reading at any depth")
    return Finding(by_count(len(within), len(found)), f"{min(shares):+.0%} to {max(shares):+.0%}", note=note)


def parameters(evidence: Evidence) -> Finding:
    """That AG-XAttn adds less than 3 % parameters."""
    return judge_parameters(list(rows()))


def judge_parameters(found: Sequence[Row]) -> Finding:
    """By AG-XAttn and the alias embedding alone; the teacher's own blocks are told beside it."""
    within = sum(row.cross_attention < CLAIMED_PARAMETERS for row in found)
    alone, trained = ([getattr(row, name) for row in found] for name in ("cross_attention", "trained"))
    effect = f"{min(alone):+.1%} to {max(alone):+.1%}"
    note = f"AG-XAttn alone; all that is trained, the teacher's blocks too: {min(trained):+.0%} to {max(trained):+.0%}"
    return Finding(by_count(within, len(found)), effect, note=note)


def overhead(evidence: Evidence) -> Finding:
    """That the deployment network has the parameters and the FLOPs of VAR's."""
    return judge_overhead(deployed())


def deployed() -> list[tuple[float, float]]:
    """(parameters, forward FLOPs) of FVAR's deployment network over VAR's, by depth."""
    from fvar.estimate import estimate
    from studies.presets import preset
    from studies.variants import chain

    found = []
    for depth in DEPTHS:
        ours, theirs = (
            next(part for part in estimate(stage.inputs["samples"].inputs["var"]).parts if part.name == "student")
            for stage in (chain(preset("paper"), variant, 0, depth=depth) for variant in ("full", "baseline"))
        )
        found.append((ours.parameters / theirs.parameters, ours.forward / theirs.forward))
    return found


def judge_overhead(ratios: Sequence[tuple[float, float]]) -> Finding:
    """Supported where all are 1, refuted where all are more."""
    equal = sum(pair == (1.0, 1.0) for pair in ratios)
    most = max(max(pair) for pair in ratios) - 1
    note = "parameters and FLOPs of the deployment network over VAR's, d12 to d24; the study speed measures time"
    return Finding(by_count(equal, len(ratios)), f"{most:+.1%}", note=note)


def _listed(found: Sequence[Row]) -> str:
    depths: dict[str, list[str]] = {}
    for row in found:
        depths.setdefault(row.reading, []).append(f"d{row.depth}")
    return "; ".join(f"{reading} ({', '.join(names)})" for reading, names in depths.items())


CLAIMS = (
    Claim("flops", "Sec. 3.5", "The teacher adds 6-15 % training FLOPs", flops),
    Claim("three-percent", "Sec. 3.5", "AG-XAttn adds under 3 % parameters", parameters),
    Claim("zero-overhead", "Sec. 3.6", "Deployment costs what VAR does", overhead),
)
