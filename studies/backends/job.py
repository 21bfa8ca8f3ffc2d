"""What a submitted job carries: the path of a run directory, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StageJob:
    """Does what `python -m fvar.run PATH` does, inside submitit's job.

    A stopping signal ends the stage with a checkpoint. submitit then asks `checkpoint` what to queue again: the same
    path, since the run directory knows how far it came.
    """

    path: str

    def __call__(self) -> None:
        from fvar.run import execute

        execute(Path(self.path))

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(StageJob(self.path))
