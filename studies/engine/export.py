"""A study's results as a small folder of their own, from which everything it shows can be drawn again, byte for byte.

    results/reference/                     a results folder like any other, for --results
        <study>/<preset>/                  cells.json, tables, figures, the page; a README says where they are from
        runs/<kind>-<signature>/           what these are drawn from: settings, status, metrics, scores, attempts

Weights, token stores, checkpoints and logs stay behind. The figures show some of the samples: the pixels of these are
kept, all others are black. Paths are shortened to their last part, since they say nothing elsewhere.

Nothing is written to the folder before the copy was drawn and found equal to what the original draws.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis import cells as cells_json
from analysis.cells import Place
from analysis.report import facts, page
from analysis.results import StudyResults
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.rundir import RunDir
from studies.engine import commands, outputs
from studies.study import Study

RECORDS = ("config.json", "provenance.json", "status.json", "metrics.jsonl", "attempts.jsonl", "jobs.jsonl")
NOT_KEPT = ("job.json", "bad_batches.json")
DATA = (".json", ".npz")  # kinds of a stage's own files that tables and figures read
LARGEST = 30 << 20  # bytes of a folder that a repository should take
README = "README.md"


def export(place: Place, to: Path, study: Study, say: Callable[[str], None]) -> list[Path]:
    """Write what a study shows, and what that is drawn from, to the results folder `to`; the files it shows.

    Raises `UserError` where no cell is done, where `to` holds results that were computed there, and where the
    copy would be drawn otherwise than the original.
    """
    _require_ours(place.results, to)
    if study.outputs:
        return _export_whole(place, to)
    results = StudyResults.at(place)
    undone = [cell.name for cell in results.cells if cell.state[0] != "done"]
    if len(undone) == len(results.cells):
        raise UserError(f"{place} has no cell that is done; run it first")
    if undone:
        say(f"warning: not done, and exported so: {', '.join(undone)}")
    say(f"drawing {place} from {place.results}")
    original = _draw(place, study, say)
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=to) as folder:
        copy = replace(place, results=Path(folder))
        try:
            _copy_and_compare(place, copy, study, original, say)
        except UserError:
            if study.report is None:
                raise
            _copy_and_compare(place, copy, study, original, say, whole=True)  # a report of one's own may show others
        (copy.folder / outputs.STAMP).unlink(missing_ok=True)
        atomic.write_text(copy.folder / README, _readme(StudyResults.at(copy), to))
        _move(copy, replace(place, results=to))
    for path in commands.unreferenced(to):  # of an earlier export
        commands.delete(path)
    if (size := commands.size(to)) > LARGEST:
        say(f"warning: {to} holds {size / 2**20:.0f} MiB now, more than a repository should")
    kept = replace(place, results=to).folder
    return sorted(path for path in kept.iterdir() if path.is_file())


def _export_whole(place: Place, to: Path) -> list[Path]:
    """The folder of a study that keeps no runs, which holds what it measured, too."""
    folder = to / place.study
    shutil.copytree(place.results / place.study, folder, ignore=shutil.ignore_patterns("*.lock"), dirs_exist_ok=True)
    return sorted(path for path in folder.iterdir() if path.is_file())


def _require_ours(results: Path, to: Path) -> None:
    """Raises `UserError` for a folder in which studies were run: what they left there would be taken for exports."""
    runs = to / cells_json.RUNS
    if to.resolve() == results.resolve() or (to / "mlflow.db").exists() or next(runs.glob("*/*.safetensors"), None):
        raise UserError(f"{to} is a folder that studies are run in; name another one by --to")


def _draw(place: Place, study: Study, say: Callable[[str], None]) -> dict[str, bytes]:
    """Draw a study, and return its files by name. Raises `UserError` where one of them failed."""
    files, failed = outputs.draw(StudyResults.at(place), study, say)
    if failed:
        raise UserError(f"{', '.join(failed)} could not be drawn from {place.results}")
    return {file.name: file.read_bytes() for file in files}


def _copy_and_compare(
    place: Place,
    copy: Place,
    study: Study,
    original: dict[str, bytes],
    say: Callable[[str], None],
    *,
    whole: bool = False,
) -> None:
    """Copy a study, samples `whole` or those shown. Raises `UserError` where the copy draws something else."""
    _copy(StudyResults.at(place), copy, study, whole)
    say(f"drawing it again from the copy{' with all samples' * whole}")
    _require_same(original, _draw(copy, study, say), _paths(cells_json.read(place).row))


def _require_same(original: dict[str, bytes], copy: dict[str, bytes], paths: Iterable[str]) -> None:
    """Raises `UserError` where the copy draws something else, but for a page that names the path of the data."""
    differing = {name for name in original.keys() | copy.keys() if original.get(name) != copy.get(name)}
    differing -= {page.FILE} if any(paths) else set()
    if differing:
        raise UserError(
            f"the copy would draw another {', '.join(sorted(differing))} than the original, so nothing was exported"
        )


def _copy(results: StudyResults, copy: Place, study: Study, whole: bool) -> None:
    """Everything that tables and figures read, into a results folder of its own; samples `whole` or those shown."""
    shutil.rmtree(copy.results, ignore_errors=True)
    shown = {cell.chain["samples"].name for cell in _shown(results)}
    for cell in results.cells:
        for run in cell.chain.values():
            if not (copy.runs / run.name).exists():
                _copy_run(run, copy.runs / run.name, run.name in shown, whole)
    body = json.loads((results.folder / cells_json.FILE).read_text())
    atomic.write_json(copy.file, _without_paths(body))
    for name in study.measured:
        shutil.copyfile(results.folder / name, copy.folder / name)


def _shown(results: StudyResults) -> Iterable[Any]:
    """The cells whose samples figures show."""
    from analysis import gallery

    return [cell for cells in results.variants().values() if (cell := gallery.first_sampled(cells))]


def _copy_run(run: RunDir, target: Path, shown: bool, whole: bool) -> None:
    from analysis import gallery

    target.mkdir(parents=True)
    for path in sorted(run.path.iterdir()):
        if path.name in RECORDS:
            _copy_record(path, target / path.name)
        elif path.name in (gallery.SAMPLES, gallery.FILMS):
            if shown or whole:
                _copy_samples(path, target / path.name, whole)
        elif path.suffix in DATA and path.name not in NOT_KEPT:
            shutil.copyfile(path, target / path.name)


def _copy_record(path: Path, target: Path) -> None:
    """A file of JSON, or of a JSON object per line, without paths and without the commands that name them."""
    if path.suffix == ".jsonl":
        bodies = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        lines = [json.dumps(_without_paths({k: v for k, v in body.items() if k != "command"})) for body in bodies]
        atomic.write_text(target, "".join(f"{line}\n" for line in lines))
    else:
        atomic.write_json(target, _without_paths(json.loads(path.read_text())))


def _without_paths(value: Any) -> Any:
    """Nested JSON values, with the last part of every absolute path in its place."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _paths(value: Any) -> list[str]:
    """The absolute paths in nested values."""
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return [path for item in items for path in _paths(item)]
    return [value] if isinstance(value, str) and value.startswith("/") else []


def _copy_samples(path: Path, target: Path, whole: bool) -> None:
    """An archive of samples; where not `whole`, only the pixels that figures show, in their places."""
    import numpy as np

    from analysis import gallery, pairs
    from analysis.report import browser

    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    if path.name == gallery.SAMPLES and not whole:
        labels = arrays["labels"]
        kept = {*gallery.columns(labels), *pairs.places(labels.tolist())}
        kept |= {place for places in browser.places(labels).values() for place in places}
        black = np.ones(len(labels), dtype=bool)
        black[sorted(kept)] = False
        arrays["arr_0"][black] = 0
    np.savez_compressed(target, **arrays)


def _move(copy: Place, target: Place) -> None:
    """Put an export where it belongs, in place of an earlier one of the same study and preset."""
    target.runs.mkdir(parents=True, exist_ok=True)
    for run in copy.runs.iterdir():
        shutil.rmtree(target.runs / run.name, ignore_errors=True)
        run.rename(target.runs / run.name)
    shutil.rmtree(target.folder, ignore_errors=True)
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    copy.folder.rename(target.folder)


def _readme(results: StudyResults, to: Path) -> str:
    """Where an export is from: command, machine, commit, hours; and how it is drawn again."""
    record = facts.record(results)
    words = ["python", "-m", "studies", "report", record.place.study, "--preset", record.place.preset]
    words += ["--results", to.name if to.is_absolute() else str(to)]
    where = shlex.join(words + (["--plugin", record.plugin] if record.plugin else []))
    hours = sum(part.hours for part in facts.cost(results))
    gpu_hours = sum(part.gpu_hours for part in facts.cost(results))
    lines = [f"# {results.title}", "", "Computed by", "", f"    {facts.command(record)}", ""]
    lines += ["| commit | machine | device | precision | Python | versions | stages |", "|---|---|---|---|---|---|---|"]
    for each in facts.origins(results):
        shown = (each.commit, each.host, each.device, each.precision, each.python, each.versions, each.kinds)
        lines.append(f"| {' | '.join(shown)} |")
    lines += ["", f"{hours:.2f} hours of all stages, one after another, and {gpu_hours:.2f} GPU hours.", ""]
    lines += ["Drawn again, byte for byte with the versions of requirements.lock, by", "", f"    {where}", ""]
    lines += ["Weights and token stores were left out. `samples.npz` has the pixels of those that figures show."]
    return "\n".join(lines) + "\n"
