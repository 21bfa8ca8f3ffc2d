"""What running trials have come to: intermediate values from the metrics.jsonl of their training, read incrementally.

A look at a file that did not grow is one `stat`, so that a driver can afford one each second.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from studies.tracking import history

Judged = Literal["cross_entropy", "kid"]
# As `fvar.tasks` log them; a sampled KID names how many samples it is of.
METRICS: dict[Judged, str] = {"cross_entropy": "heldout/cross_entropy", "kid": r"sampled/kid_\d+"}


class Curve:
    """One metric of one run directory, by step; `new` gives what was added since."""

    def __init__(self, folder: Path, judged: Judged) -> None:
        self.folder = folder
        self.metric = re.compile(METRICS[judged])
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
            if self.metric.fullmatch(point.key)
        }
