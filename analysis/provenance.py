"""Which code computed a table's numbers: the commits, said in its notes, and the revisions, which are never mixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.results import CellResult, StudyResults
from fvar.rundir import RunDir

DIGITS = 10  # of a commit's name


def commits(results: StudyResults) -> list[str]:
    """One sentence on the commits that computed the finished cells, a warning where they are several; none unknown.

    "+" marks a source that differed from its commit.
    """
    runs = {run.name: run for cell in results.cells if cell.state[0] == "done" for run in cell.chain.values()}
    by_commit: dict[str, set[str]] = {}
    for run in runs.values():
        for commit in _commits_of(run):
            by_commit.setdefault(commit, set()).add(run.kind)
    if not by_commit:
        return []
    if len(by_commit) == 1:
        return [f"Computed by commit {next(iter(by_commit))}."]
    parts = "; ".join(f"{commit} ({', '.join(sorted(kinds))})" for commit, kinds in sorted(by_commit.items()))
    return [
        f"WARNING: computed by {len(by_commit)} commits: {parts}. Where the science changed between them without a "
        "raised revision, rows differ by more than their variants."
    ]


def of_one_revision(cells: Sequence[CellResult]) -> tuple[list[CellResult], str]:
    """The cells that the newest revisions among them computed, and a sentence on those left out.

    Averaging two revisions of a stage would average two methods.
    """
    revisions = {cell.name: _revisions(cell) for cell in cells}
    newest = max(revisions.values(), default=())
    kept = [cell for cell in cells if revisions[cell.name] == newest]
    left = [cell.name for cell in cells if revisions[cell.name] != newest]
    if not left:
        return kept, ""
    return kept, f"{', '.join(left)} left out, computed by an older revision of a stage; run the study again"


def one_revision(cells: Iterable[CellResult]) -> bool:
    """Whether every stage that several cells have was computed by one revision, so that they can be compared."""
    found: dict[str, set[int]] = {}
    for cell in cells:
        for role, run in cell.chain.items():
            found.setdefault(role, set()).add(run.revision)
    return all(len(revisions) == 1 for revisions in found.values())


def _revisions(cell: CellResult) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((role, run.revision) for role, run in cell.chain.items()))


def _commits_of(run: RunDir) -> Iterable[str]:
    """The commits of a run's attempts, shortened."""
    for commit in dict.fromkeys(str(attempt.get("commit") or "") for attempt in run.attempts()):
        if commit:
            yield commit[:DIGITS] + ("+" if commit.endswith("+") else "")
