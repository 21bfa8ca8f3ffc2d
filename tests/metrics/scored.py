"""The number of a score that is known to have one."""

from fvar.metrics.compare import Score


def number(score: Score) -> float:
    assert score.value is not None, score.reason
    return score.value
