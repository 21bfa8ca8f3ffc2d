"""What running trials have come to: intermediate values from the metrics.jsonl of their training, read incrementally.

A look at a file that did not grow is one `stat`, so that a driver can afford one each second.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from studies.tracking import history

Judged = Literal["cross_entropy", "kid"]
METRICS: dict[Judged, str] = {"cross_entropy": "heldout/cross_entropy", "kid": "sampled/kid"}


class Curve:
    """One metric of one run directory, by step; `new` gives what was added since."""

    def __init__(self, folder: Path, judged: Judged) -> None:
        self.folder = folder
        self.metric = METRICS[judged]
        self._progress = history.Progress()
        self._seen: tuple[int, int] | None = None

    def new(self) -> dict[int, float]:
        """The values added since the last call. A file that a resume has rewritten is read anew: repeated steps come
        again, with the same values."""
        try:
            found = os.stat(self.folder / "metrics.jsonl")
        except FileNotFoundError:
            return {}
        seen = (found.st_size, found.st_ino)
        if seen == self._seen:
            return {}
        self._seen = seen
        if not self._progress.still_holds(self.folder):
            self._progress = history.Progress()
        return {
            point.step: point.value
            for points in history.news(self.folder, self._progress)
            for point in points
            if point.key == self.metric
        }
