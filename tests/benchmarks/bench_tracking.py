"""What bringing MLflow up to date costs: time and memory of `python -m studies sync`, its start included.

    python -m tests.benchmarks.bench_tracking [CELLS [RUNS [LINES]]]

CELLS finished cells (2,000) for the first time, again without a change, again after one new line; RUNS trainings (200)
of 1,000 steps; a training of LINES lines (1,000,000), and that again after one more. The limits are 30 s, 1 s, 1 s,
60 s, once; 300 MiB each. Processor time is what counts; the time on the wall is that of a quiet machine alone. MLflow
has made the empty store before, in about 5 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fvar.config import RuntimeConfig, Stage
from fvar.rundir import RunDir
from studies.tracking import local
from tests import fakes

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    cells, runs, lines = (int(text) for text in (*sys.argv[1:], "2000", "200", "1000000")[:3])
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        local.make(results / local.DATABASE)
        many_cells(results, cells)
        report(f"first sync of {cells} finished cells", *measured(results, "big"))
        report("again, nothing changed", *measured(results, "big"))
        one_line(results)
        report("again, after one new line", *measured(results, "big"))
        trainings(results, runs, 1000, "trainings")
        report(f"{runs} trainings of 1,000 steps", *measured(results, "trainings"))
        trainings(results, 1, lines, "long")
        report(f"a training of {lines} lines", *measured(results, "long"))
        one_line(results)
        report("again, after one new line", *measured(results, "long"))


def measured(results: Path, study: str) -> tuple[float, float, int]:
    """Seconds of processor time and on the wall, and MiB at most, of the sync of one study."""
    command = [sys.executable, "-m", "studies", "sync", study, "--results", str(results)]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, status
    return used.ru_utime + used.ru_stime, time.monotonic() - began, used.ru_maxrss >> 10


def report(what: str, seconds: float, wall: float, memory: int) -> None:
    print(f"{what}: {seconds:.2f} s of the processor, {wall:.1f} s on the wall, {memory} MiB", flush=True)


def many_cells(results: Path, count: int) -> None:
    """A finished study of six variants, whose seeds share tokenizers."""
    first, entries = fakes.ablation(results, seeds=1), []
    templates = {cell.variant: cell for cell in first.cells}
    for number in range(count):
        variant, seed = list(fakes.VARIANTS)[number % 6], number // 6
        stage = fakes.chain(variant, seed)
        copy_stages(results, stage, templates[variant].chain)
        entries.append(fakes.cell(variant, seed, stage))
    fakes.write_cells(results, "big", entries)


def copy_stages(results: Path, stage: Stage, templates: dict[str, RunDir]) -> None:
    """Give a chain what the run directories of another one hold, without drawing samples again."""
    RunDir.create(results / "runs", stage, RuntimeConfig())
    for part in stage.chain():
        run = RunDir.open(results / "runs" / part.name)
        if run.done:
            continue
        for name in ("metrics.jsonl", "scores.json"):
            with contextlib.suppress(FileNotFoundError):
                (run.path / name).write_bytes((templates[part.kind].path / name).read_bytes())
        run.update(state="done", step=fakes.STEPS, steps=fakes.STEPS, started=1.0)


def trainings(results: Path, count: int, steps: int, study: str) -> None:
    """Cells whose trainings have this many lines."""
    entries = []
    for seed in range(count):
        whole = fakes.chain("full", seed)
        var = whole.inputs["samples"].inputs["var"]
        var = replace(var, config=replace(var.config, train=replace(var.config.train, steps=steps + 1)))  # type: ignore[attr-defined, call-arg]
        RunDir.create(results / "runs", var, RuntimeConfig())
        run = RunDir.open(results / "runs" / var.name)
        with open(run.path / "metrics.jsonl", "w") as file:
            file.writelines(records(steps))
        run.update(state="running", step=steps, steps=steps + 1, started=1.0)
        entries.append(fakes.cell("full", seed, var))
    fakes.write_cells(results, study, entries)


def records(steps: int) -> Iterator[str]:
    for step in range(steps):
        values = {"cross_entropy": 6.0 - step / steps, "accuracy": step / steps / 10, "lr": 1e-4}
        yield json.dumps({"step": step, "split": "train", "time": 1.8e9 + step / 10, **values}) + "\n"


def one_line(results: Path) -> None:
    """One more record in the metrics of the training written last."""
    newest = max((results / "runs").glob("var-*/metrics.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path))
    with open(newest, "a") as file:
        file.write(json.dumps({"step": 10**7, "split": "train", "time": 1.9e9, "cross_entropy": 1.0}) + "\n")


if __name__ == "__main__":
    main()
