"""How good generated images are: features, and the numbers computed from them. `python -m fvar.metrics --help`."""

from fvar.metrics.compare import METRICS, Score, Statistics, score
from fvar.metrics.features import EXTRACTORS, Extractor, extract, extract_cached, load_extractor

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "Extractor",
    "Score",
    "Statistics",
    "extract",
    "extract_cached",
    "load_extractor",
    "score",
]
