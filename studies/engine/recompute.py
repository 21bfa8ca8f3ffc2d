"""--recompute KIND: stages of a kind, and all that was computed from them, are set aside and computed anew.

    results/runs/<name>.replaced-<n>                what was there: `python -m studies gc` lists and removes it
    results/<study>/<preset>/recompute.json         the request, until every cell is done

Repeating the command goes on: what was made since the request began is kept, so that nothing is computed twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fvar.config import STAGE_CONFIGS, Stage
from fvar.errors import UserError, unknown
from fvar.job import JobRecord
from fvar.machine import atomic
from fvar.rundir import RunDir, read_status
from studies.engine.backends import submitting

REQUEST = "recompute.json"
ASIDE = ".replaced-"  # in the names of directories that were set aside


def begin(folder: Path, runs: Path, kinds: Sequence[str], stages: Iterable[Stage], dry: bool = False) -> list[str]:
    """Set aside what has to be computed anew.

    Parameters
    ----------
    folder
        Of the study, where the request is kept until `end`.
    runs
        The folder of all run directories.
    kinds
        Stage kinds to compute anew.
    stages
        All stages the study wants.
    dry
        Only say what would be set aside.

    Returns
    -------
    Names of the run directories set aside; none where an earlier, interrupted command has done so already.

    Raises
    ------
    UserError
        For a kind that is unknown or that the study does not have, and for a stage that is being worked on.
    """
    wanted = {stage.name: stage for last in stages for stage in last.chain()}
    for kind in kinds:
        if kind not in {stage.kind for stage in wanted.values()}:
            raise unknown("kind to recompute", kind, set(STAGE_CONFIGS) & {stage.kind for stage in wanted.values()})
    since = _request(folder, kinds)
    chosen = {name for name, stage in wanted.items() if stage.kind in kinds}
    if dry:
        return [path.name for path in _old(runs, _below(runs, chosen), since)]
    runs.mkdir(parents=True, exist_ok=True)
    with submitting(runs):
        atomic.write_json(folder / REQUEST, {"kinds": sorted(kinds), "since": since})
        old = _old(runs, _below(runs, chosen), since)
        for path in old:
            if _at_work(path):
                raise UserError(f"{path.name} is being worked on; wait for it, or `python -m studies cancel` it first")
        for path in old:
            path.rename(_free_name(path))
    return [path.name for path in old]


def end(folder: Path) -> None:
    """The study is done: another `--recompute` is a request of its own."""
    (folder / REQUEST).unlink(missing_ok=True)


def _request(folder: Path, kinds: Sequence[str]) -> float:
    """When this request began: now, unless the same one is still under way."""
    try:
        body: dict[str, Any] = json.loads((folder / REQUEST).read_text())
        if body["kinds"] == sorted(kinds):
            return float(body["since"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass  # none, or one that a crash has torn: then this is the first
    return time.time()


def _below(runs: Path, chosen: set[str]) -> list[str]:
    """These stages and every one in `runs` that was computed from them, what depends on others first."""
    found = (path for path in runs.glob("*/config.json") if ASIDE not in path.parent.name)
    inputs = {path.parent.name: set(_inputs(path)) for path in found}
    depth = dict.fromkeys(chosen, 0)
    grown = True
    while grown:
        grown = False
        for name, above in inputs.items():
            reached = [depth[each] + 1 for each in above if each in depth]
            if reached and max(reached) > depth.get(name, -1):
                depth[name], grown = max(reached), True
    return sorted(depth, key=lambda name: (-depth[name], name))


def _inputs(config: Path) -> Iterable[str]:
    try:
        return list(json.loads(config.read_text())["inputs"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ()  # not a run directory's; whoever opens it says so


def _old(runs: Path, names: Iterable[str], since: float) -> list[Path]:
    """The directories among these that were made before the request began."""
    found = []
    for name in names:
        path = runs / name
        provenance = path / "provenance.json"
        if (path / "config.json").exists() and (not provenance.exists() or _created(provenance) < since):
            found.append(path)
    return found


def _at_work(path: Path) -> bool:
    """Whether a process holds the directory, or a job that was submitted for it may begin.

    More careful than `analysis.standing`, for which an interrupted stage has no job: a cluster may have requeued it.
    """
    record = JobRecord.read_in(path)
    submitted = record is not None and bool(record.job_id)
    return RunDir.open(path).locked or (submitted and read_status(path).state in ("waiting", "running", "interrupted"))


def _created(provenance: Path) -> float:
    try:
        return float(json.loads(provenance.read_text())["created"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0


def _free_name(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.name}{ASIDE}{number}")).exists():
        number += 1
    return target
