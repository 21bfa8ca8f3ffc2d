"""Claims of Sec. 3.1, 3.2 and 3.4: mathematics, computed here, and what the study `spectral` measured of pyramids."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from studies.claims.claim import Claim, Evidence, Finding, NotMeasured, by_count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RADII = (12.0, 9.0, 3.0, 0.0)  # px at 256 px: Eq. 2 with its sign mended, K = 4
FACTORS = (8, 4, 2)  # by which the views that are blurred are decimated
BETAS = (1e-3, 4e-3, 7e-3, 1e-2)  # Eq. 3 at K = 4
NEGLIGIBLE = 0.01  # amplitude, or share of an energy, below which a part counts as absent; ours
NATURAL = ("emoji", "text")  # the image sets of `spectral` that stand for pictures


def schedule(evidence: Evidence) -> Finding:
    """That Eq. 2 as printed gives radii that fall to 0."""
    return judge_schedule([12.0 * (1 - math.cos(math.pi * k / 3)) / 2 for k in range(4)])


def judge_schedule(radii: Sequence[float]) -> Finding:
    """Supported where they fall to 0, refuted where they rise, else undecided."""
    steps = [later - earlier for earlier, later in pairwise(radii)]
    effect = "rho = " + ", ".join(f"{radius:g}" for radius in radii)
    if all(step < 0 for step in steps) and radii[-1] == 0:
        return Finding("supported", effect)
    note = "as printed they rise; the pyramid uses (1 + cos)/2"
    return Finding("refuted", effect, note=note) if all(step > 0 for step in steps) else Finding("undecided", effect)


def band_limited(evidence: Evidence) -> Finding:
    """That nothing beyond a view's Nyquist frequency passes the disk."""
    return judge_band([_beyond_nyquist(rho / s) for rho, s in zip(RADII, FACTORS, strict=False)])


def _beyond_nyquist(rho_over_s: float) -> float:
    """Largest |OTF| of the disk, |2 J1(z) / z| with z = 2 pi rho f, at f of 1 / (2 s) or more."""
    import numpy as np

    return float(np.abs(disk_otf(2 * np.pi * rho_over_s * np.linspace(0.5, 4, 20_001))).max())


def disk_otf(z: Array) -> Array:
    """2 J1(z) / z, 1 at z = 0."""
    import numpy as np
    from scipy.special import j1

    found: Array = np.where(z > 1e-6, 2 * j1(z) / np.maximum(z, 1e-6), 1.0)
    return found


def judge_band(amplitudes: Sequence[float]) -> Finding:
    """From the largest amplitude that each blurred view lets through: supported where all are negligible."""
    passing = sum(amplitude >= NEGLIGIBLE for amplitude in amplitudes)
    effect = "passes up to " + ", ".join(f"{amplitude:.1%}" for amplitude in amplitudes)
    note = "amplitude beyond the view's Nyquist frequency, scale by scale; side lobes of a disk fall as f^-1.5"
    return Finding(by_count(len(amplitudes) - passing, len(amplitudes)), effect, note=note)


def monotone_information(evidence: Evidence) -> Finding:
    """That each focus state tells more of an image than the one before, in bits per pixel."""
    same = [_information(rho, BETAS[0]) for rho in RADII]
    own = [_information(rho, beta) for rho, beta in zip(RADII, BETAS, strict=True)]
    return judge_information(same, own)


def _information(rho: float, beta: float) -> float:
    """Bits per pixel that k_rho * x + beta eps tells of x: the mean over frequencies of log2(1 + S |H|^2 / beta^2) / 2.

    x is a Gaussian image of power S in proportion to 1/f^2, as natural ones have (Field 1987), and variance 0.25.
    """
    import numpy as np

    f = np.fft.fftfreq(256)
    distance = np.hypot(f[:, None], f[None, :])
    distance[0, 0] = np.inf  # the mean is left out
    power = distance**-2
    power *= 0.25 / power.mean()
    passed = disk_otf(2 * np.pi * rho * np.where(np.isinf(distance), 0, distance)) ** 2
    return float(np.mean(np.log2(1 + power * passed / beta**2)) / 2)


def judge_information(same: Sequence[float], own: Sequence[float]) -> Finding:
    """Bits per pixel of the states at the same noise, and at Eq. 3's: supported where both rise at every step."""
    rising = [all(later > earlier for earlier, later in pairwise(bits)) for bits in (same, own)]
    effect = f"{', '.join(f'{bits:.2f}' for bits in own)} bits per px"
    note = f"at the noise of Eq. 3; at its least noise everywhere {', '.join(f'{bits:.2f}' for bits in same)}"
    return Finding(by_count(sum(rising), len(rising)), effect, note=note)


def energy(evidence: Evidence) -> Finding:
    """That the residual's energy is that of the folded part, Eq. 8, for the disk: measured on noise of power 1/f^2."""
    return judge_energy(_folded_shares())


@functools.cache
def _folded_shares() -> tuple[float, ...]:
    import torch

    from fvar.focus.aliasing import RECIPES, folded_share

    f = torch.fft.fftfreq(256)
    distance = torch.hypot(f[:, None], f[None, :])
    distance[0, 0] = torch.inf
    noise = torch.randn(4, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    image = torch.fft.ifft2(torch.fft.fft2(noise) / distance).real
    image /= image.abs().amax()
    return tuple(
        folded_share(image, 256 // s, rho, RECIPES["disk"]).mean().item()
        for rho, s in zip(RADII, FACTORS, strict=False)
    )


def judge_energy(shares: Sequence[float]) -> Finding:
    """From the share of each residual's energy that folded in: supported where it is all, refuted where it never is."""
    whole = sum(share >= 1 - NEGLIGIBLE for share in shares)
    effect = "alias is " + ", ".join(f"{share:.0%}" for share in shares) + " of the residual"
    note = "scale by scale, on noise of power 1/f^2; the rest is what the disk took from the base band"
    return Finding(by_count(whole, len(shares)), effect, note=f"{note}. Equal only for an ideal low-pass")


# ------------------------------------------------------------------------------------------------- the study `spectral`


def less_alias_than_area(evidence: Evidence) -> Finding:
    """That the disk's views alias less than those of VAR's own downsampling, at the paper's radii."""
    return judge_alias(_paper_views(evidence), "area", "VAR's area filter")


def less_alias_than_gaussian(evidence: Evidence) -> Finding:
    """That the disk's views alias less than those of a Gaussian of equal variance, at the paper's radii."""
    return judge_alias(_paper_views(evidence), "gaussian", "the Gaussian")


def judge_alias(views: Sequence[Mapping[str, float]], rival: str, name: str) -> Finding:
    """From the aliased share of each view by recipe: supported where the disk has less in all, refuted in none."""
    wins = sum(view["disk"] < view[rival] for view in views)
    ratios = sorted(view["disk"] / view[rival] for view in views)
    effect = f"less alias in {wins} of {len(views)} views"
    interval = f"{ratios[0]:.2g} to {ratios[-1]:.2g} times"
    return Finding(
        by_count(wins, len(views)), effect, interval, f"the disk's over {name}'s; K = 4, {' and '.join(NATURAL)}"
    )


def _paper_views(evidence: Evidence) -> list[dict[str, float]]:
    """Aliased share by recipe, of each blurred view of the paper's pyramid and each natural image set."""
    path = evidence.results / "spectral" / "aliasing.csv"
    if not path.exists():
        raise NotMeasured("spectral was not run")
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["K"] == "4" and row["images"] in NATURAL]
    views: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if not row["rho_max"] or float(row["rho_max"]) == RADII[0]:
            views.setdefault((row["images"], row["k"]), {})[row["recipe"]] = float(row["aliasing"])
    return [view for view in views.values() if "disk" in view]


CLAIMS = (
    Claim("source", "Sec. 3.2", "Refocused views alias less than VAR's", less_alias_than_area, "spectral"),
    Claim(
        "realism",
        "Sec. 4.4",
        "A real camera's disk removes more alias than a Gaussian",
        less_alias_than_gaussian,
        "spectral",
    ),
    Claim("schedule", "Eq. 2", "Radii fall to 0, as the equation is printed", schedule),
    Claim("band-limited", "Sec. 3.1", "Each focus state is band-limited by its PSF", band_limited),
    Claim("monotone", "Sec. 3.1", "Information grows from each focus state to the next", monotone_information),
    Claim("energy", "Eq. 8", "The residual's energy is that of the folded part", energy),
)
