"""Claims of Table 2 and of Figure 5: what each part of the method is worth, and how fast it converges.

"Better" is by FID, or by KID where there are under 10,000 samples. Differences are paired by seed; p is corrected over
the variants of the table (Holm).
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial

from analysis.metrics import BY_KEY, Metric
from analysis.plot_convergence import curve
from analysis.results import CellResult
from analysis.stats import compare, holm, pairs
from analysis.table import published
from studies.claims.claim import Claim, Evidence, Finding, NotMeasured, from_contrast, from_difference, worst

STUDY = "ablation_table2"
TOP_OCTAVE = Metric("top_octave", "Top octave off by", 2, "lower")
SAMPLED = re.compile(r"(fid|kid)_\d+")


def loses_to_full(variant: str, evidence: Evidence) -> Finding:
    """That the full method is better than itself without a part."""
    found = evidence.difference(STUDY, variant, "full")
    return _beside_the_papers(from_contrast(evidence.study(STUDY), found, "worse"), variant, "full")


def beats_baseline(variant: str, evidence: Evidence) -> Finding:
    """That a variant is better than the baseline."""
    found = evidence.difference(STUDY, variant, "baseline")
    return _beside_the_papers(from_contrast(evidence.study(STUDY), found, "better"), variant, "baseline")


def _beside_the_papers(finding: Finding, variant: str, reference: str) -> Finding:
    cited = published(STUDY)
    claimed = float(cited[variant]["fid"]) - float(cited[reference]["fid"])
    return replace(finding, note=f"{finding.note}; paper: FID {claimed:+.2f}")


def aliases_less(evidence: Evidence) -> Finding:
    """That samples of the full method have a spectrum closer to the images', distances averaged over octaves."""
    found = evidence.difference(STUDY, "baseline", "full", "spectral_distance")
    return from_contrast(evidence.study(STUDY), found, "worse")


def keeps_detail(evidence: Evidence) -> Finding:
    """That the energy of FVAR's samples beyond half the Nyquist frequency is closer to the images', in octaves."""
    variants = evidence.study(STUDY).variants()
    off: dict[str, dict[int, float]] = {}
    for name in ("full", "baseline"):
        found = {cell.seed: cell.score("top_octave") for cell in variants.get(name, [])}
        if not found or not all(found.values()):
            raise NotMeasured(f"the spectrum of some samples of {name} was not measured")
        off[name] = {seed: abs(math.log2(value)) for seed, value in found.items() if value}
    difference = compare(pairs(off["full"], off["baseline"], ("full", "baseline")))
    labels = " minus ".join(variants[name][0].label for name in ("full", "baseline"))
    return from_difference(difference, difference.p, True, TOP_OCTAVE, labels, " octaves")


def converges_fastest(evidence: Evidence) -> Finding:
    """That the full method's sampled score, averaged over training, is below that of every other variant.

    The mean over all points of a curve is small where a curve falls early and ends low.
    """
    results = evidence.study(STUDY)
    averages = {name: _averages(cells) for name, cells in results.variants().items()}
    if "full" not in averages or not all(averages.values()):
        raise NotMeasured("no samples were scored while the networks trained (var.curve.every)")
    rivals = [name for name in averages if name != "full"]
    found = [compare(pairs(averages[name], averages["full"], (name, "full"))) for name in rivals]
    ps = holm([difference.p for difference in found])
    metric = BY_KEY[_scored(results.cells)[:3]]
    labels = {name: cells[0].label for name, cells in results.variants().items()}
    every = [
        from_difference(difference, p, False, metric, f"{labels[name]} minus {labels['full']}, mean over the curve")
        for name, difference, p in zip(rivals, found, ps, strict=True)
    ]
    closest = min(range(len(rivals)), key=lambda index: found[index].mean)
    return replace(every[closest], verdict=worst(every).verdict, note=f"closest rival: {every[closest].note}")


def _averages(cells: list[CellResult]) -> dict[int, float]:
    key = _scored(cells)
    curves = {cell.seed: curve([cell], "sampled", key) for cell in cells}
    return {
        seed: sum(point.mean for point in points.values()) / len(points) for seed, points in curves.items() if points
    }


def _scored(cells: list[CellResult] | tuple[CellResult, ...]) -> str:
    """The score that curves are made of: KID of few samples is less biased than FID."""
    keys = {key for cell in cells for record in cell.metrics("sampled") for key in record if SAMPLED.fullmatch(key)}
    return max(keys, default="")


CLAIMS = (
    Claim("full", "Table 2", "The full method beats VAR", partial(loses_to_full, "baseline"), STUDY),
    Claim(
        "refocusing",
        "Table 2",
        "Refocusing carries the gain: without it little is left",
        partial(loses_to_full, "no_refocusing"),
        STUDY,
    ),
    Claim("antialiasing", "Table 2", "Even a Gaussian blur beats VAR", partial(beats_baseline, "gaussian"), STUDY),
    Claim("disk", "Table 2", "A disk beats a Gaussian as the PSF", partial(loses_to_full, "gaussian"), STUDY),
    Claim("teacher", "Table 2", "The high-frequency teacher helps", partial(loses_to_full, "no_teacher"), STUDY),
    Claim("dual", "Table 2", "Two tokenizers beat a shared one", partial(loses_to_full, "no_dual"), STUDY),
    Claim(
        "convergence",
        "Figure 5",
        "The full method converges fastest and to the lowest FID",
        converges_fastest,
        STUDY,
        ("var.curve.every=100",),
    ),
    Claim("detail", "Abstract", "FVAR's samples keep more fine detail than VAR's", keeps_detail, STUDY),
    Claim("less-aliasing", "Abstract", "FVAR's samples show less aliasing than VAR's", aliases_less, STUDY),
)
