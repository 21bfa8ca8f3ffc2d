"""Critical values of a t test that is repeated after every seed, exact for few seeds.

|t_k| > c_k ever happens with probability alpha, of which alpha (k / K)^2 is spent after k of at most K seeds: alpha
spending (Lan and DeMets 1983) by the power family of Kim and DeMets (1987), for t statistics as in Jennison and
Turnbull (1991, "Exact calculations for sequential t, chi^2 and F tests").

Without a difference the statistic u_k = sum x / sqrt(sum x^2) of the first k normal differences is a Markov chain that
knows no sd: sum x^2 is complete and sufficient for the sd, hence independent of the past of u (Basu's theorem), and

    u_(k+1) = (u_k + v) / sqrt(1 + v^2),   v sqrt(k) ~ Student's t with k degrees of freedom.

So the distribution of |u_k| over the paths that have not crossed yet is carried from look to look on a grid;
t_k = u_k sqrt((k - 1) / (k - u_k^2)).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from analysis.stats import FEWEST

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

EXPONENT = 2.0  # of the spending; chosen by simulation, see `analysis.sequential`
CELLS = 300  # of the grid; c_k are right to 0.1 %
ANGLES = 20_001  # at which a distribution function is tabulated

Below = Callable[[Any], Any]  # edges (E,) -> P(|u_k| < edge and no look so far has crossed) (E,)


@functools.cache
def boundaries(alpha: float, most: int) -> tuple[float, ...]:
    """c_k for k = 3 ... `most`, the largest number of seeds."""
    import numpy as np

    found: list[float] = []
    below: Below = _first_look
    going, spent = 1.0, 0.0
    for k in range(FEWEST, most + 1):
        share = alpha * (k / most) ** EXPONENT - spent
        spent, going = spent + share, going - share
        angle = _where(below, going, k)
        found.append(float(_t_of(math.sqrt(k) * math.sin(angle), k)))
        edges, middles = np.linspace(0, angle, CELLS + 1), (np.arange(CELLS) + 0.5) / CELLS * angle
        below = _next_look(k, math.sqrt(k) * np.sin(middles), np.diff(below(math.sqrt(k) * np.sin(edges))))
    return tuple(found)


def _where(below: Below, probability: float, k: int) -> float:
    """The angle a at which `below` sqrt(k) sin(a), which |u_k| never exceeds, has this probability."""
    import numpy as np
    from scipy.optimize import brentq

    def excess(angle: float) -> float:
        return float(below(np.array([math.sqrt(k) * math.sin(angle)]))[0]) - probability

    return float(brentq(excess, 1e-6, math.pi / 2, xtol=1e-12))


def _first_look(edges: Array) -> Array:
    from scipy.special import stdtr

    found: Array = 1 - 2 * stdtr(FEWEST - 1, -_t_of(edges, FEWEST))
    return found


def _next_look(k: int, places: Array, masses: Array) -> Below:
    """One step of the chain, from |u_k| = `places` (C,) with probabilities `masses` (C,).

    With v = tan(phi), u_(k+1) = sqrt(1 + u^2) sin(phi + arctan u), where phi in (-pi/2, pi/2) has a density in
    proportion to cos(phi)^(k - 1).
    """
    import numpy as np
    from scipy.special import stdtr

    angles = np.linspace(-np.pi / 2, np.pi / 2, ANGLES)
    table = stdtr(k, math.sqrt(k) * np.tan(angles))
    reach, start = np.sqrt(1 + places**2)[:, None], np.arctan(places)[:, None]  # (C, 1)

    def cumulative(phi: Array) -> Array:
        found: Array = np.interp(phi, angles, table)
        return found

    def below(edges: Array) -> Array:
        bend = np.arcsin(np.minimum(edges / reach, 1.0))  # (C, E)
        # |sin| is small enough around phi + start = 0, and for some u again before phi + start = pi/2 + arctan u.
        inside = cumulative(bend - start) - cumulative(-bend - start) + 1 - cumulative(np.pi - bend - start)
        found: Array = masses @ np.where(edges >= reach, 1.0, inside)
        return found

    return below


def _t_of(u: Any, k: int) -> Any:
    import numpy as np

    return u * np.sqrt((k - 1) / np.maximum(k - u * u, 1e-300))
