"""Claims that Table 2 alone cannot bear, held against the controls, and the completed images of Figure 4."""

from __future__ import annotations

from functools import partial

from studies.claims.claim import Claim, Evidence, Finding, all_better, from_contrast, worst

STUDY = "ablation_controls"
LOW_PASSES = ("area", "bicubic", "ideal")
MASKS = ("center", "border")


def loses_to_full(control: str, evidence: Evidence) -> Finding:
    """That the full method is better than a control of it; p is corrected over the controls."""
    return from_contrast(evidence.study(STUDY), evidence.difference(STUDY, control, "full"), "worse")


def beats_low_passes(evidence: Evidence) -> Finding:
    """That the disk is better than every other low-pass: not that any anti-aliasing will do."""
    return worst([loses_to_full(kernel, evidence) for kernel in LOW_PASSES])


def completes_better(evidence: Evidence) -> Finding:
    """That FVAR fills both a hole and a margin better than VAR does."""
    compared = {(f"full-{mask}", f"baseline-{mask}"): "" for mask in MASKS}
    return all_better(evidence.study("inpainting"), compared)


CLAIMS = (
    Claim(
        "information",
        "Sec. 4.4",
        "The teacher helps by what alias tokens say (not by its parameters: placebo)",
        partial(loses_to_full, "placebo"),
        STUDY,
    ),
    Claim("optics", "Sec. 4.4", "Real optics matter, not any low-pass", beats_low_passes, STUDY),
    Claim(
        "not-cost",
        "Table 2",
        "The gain is the method's (not its training cost: VAR trained as long)",
        partial(loses_to_full, "equal_cost"),
        STUDY,
    ),
    Claim("completion", "Figure 4", "FVAR completes images better than VAR", completes_better, "inpainting"),
)
