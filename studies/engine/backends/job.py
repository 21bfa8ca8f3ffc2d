"""What a local job carries: the path of a run directory, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StageJob:
    """Does what `python -m fvar.run PATH` does, inside submitit's job."""

    path: str

    def __call__(self) -> None:
        from fvar import plugins
        from fvar.run import execute
        from fvar.usage import recording, visible_gpus

        plugins.load()
        with recording(Path(self.path), gpus=len(visible_gpus())):
            execute(Path(self.path))
