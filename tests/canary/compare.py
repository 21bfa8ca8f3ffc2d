"""Whether a canary computed what was recorded, within what processors may differ by."""

from __future__ import annotations

import json
import math
from typing import Any

from tests.canary.stages import VALUES, Canary, Values

# Losses of the first steps agree to about 1e-5 between processors; a change of the science moves them far more.
RELATIVE = {"tokenizer": 2e-3, "var": 2e-3, "scores": 5e-3}
ABSOLUTE = {"tokenizer": 1e-4, "var": 1e-4, "scores": 1e-4, "samples": 2.0, "readability": 0.13}
# A value near the border between two codes may fall on either side: this share of a list may differ.
STRAYS = {"tokens": 0.01, "samples": 0.05}


def recorded() -> dict[str, Any]:
    """Canary -> {"revision", "values"}."""
    body: dict[str, Any] = json.loads(VALUES.read_text())
    return body


def differences(kind: str, before: Values, now: Values) -> list[str]:
    """Lines about every list of values that is not what it was."""
    lines = [f"{key} is no longer there" for key in before.keys() - now.keys()]
    for key in before.keys() & now.keys():
        old, new = before[key], now[key]
        if len(old) != len(new):
            lines.append(f"{key}: {len(old)} values, now {len(new)}")
            continue
        close = [
            math.isclose(a, b, rel_tol=RELATIVE.get(kind, 0.0), abs_tol=ABSOLUTE.get(kind, 0.0))
            for a, b in zip(old, new, strict=True)
        ]
        if close.count(False) > STRAYS.get(kind, 0.0) * len(close):
            worst = close.index(False)
            lines.append(f"{key}: value {worst + 1} was {old[worst]:.6g}, is {new[worst]:.6g}")
    return sorted(lines)


def verdict(canary: Canary, now: Values) -> str:
    """Empty where the stage computes what it did; otherwise what whoever changed it has to do."""
    config = canary.stage.config
    kind, place = config.kind, f"{type(config).__name__}.REVISION in fvar/config.py"
    again = f"record it anew by `python -m tests.canary {canary.name}`"
    then = recorded()[canary.name]
    if then["revision"] != config.REVISION:
        return f"{place} is {config.REVISION}, but the canary of the {kind} stage is of {then['revision']}: {again}"
    if lines := differences(kind, then["values"], now):
        return (
            f"the {kind} stage computes something else for the same configuration. If that is meant, raise {place} "
            f"with a line of history, then {again}; if not, mend it:\n  " + "\n  ".join(lines)
        )
    return ""
