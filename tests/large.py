"""Results as a large study or a long training leaves them, made without computing anything."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

from fvar.config import RuntimeConfig
from fvar.machine import atomic
from fvar.rundir import RunDir
from studies.presets import preset
from studies.study import Cell, Context, record, study


def context(results: Path, seeds: int, name: str = "ablation_table2") -> Context:
    """A study at preset smoke. Table 2 has six cells and, but for what all share, eighteen stages per seed."""
    return Context(study(name), preset("smoke"), seeds=seeds, results=results)


def finished(results: Path, seeds: int) -> list[Cell]:
    """All of Table 2 done, by its cells.json, statuses and jobs; outputs there are none. Returns its cells."""
    ctx = context(results, seeds)
    cells = list(ctx.study.cells(ctx))
    with mock.patch.object(atomic, "sync"):  # a disk would take minutes
        record(ctx, cells)
        for stage in {stage.name: stage for cell in cells for stage in cell.stage.chain()}.values():
            run = RunDir.create(results / "runs", stage, RuntimeConfig())
            run.update(state="done", step=300, steps=300, seconds=12.5, attempts=1)
            job = {"job": "1", "seen": 0, "nodes": 1, "gpus": 1}
            lines = (json.dumps(job | part) for part in ({"start": 9}, {"end": 99}))
            (run.path / "jobs.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return cells


def write_long_history(run: Path, records: int, evaluations: int = 100) -> None:
    """metrics.jsonl of a training of many steps, a few of which were evaluated."""
    with open(run / "metrics.jsonl", "w") as file:
        for step in range(1, records + 1):
            values = {"step": step, "split": "train", "time": 1764320000.123 + step, "loss": 5.4321, "lr": 8e-05}
            file.write(json.dumps(values | {"accuracy": 0.0123, "grad_norm": 1.25, "distill": 0.5}) + "\n")
            if step % (records // evaluations) == 0:
                values = {"step": step, "split": "heldout", "time": 1764320000.5 + step}
                file.write(json.dumps(values | {"cross_entropy": 4.0, "accuracy": 0.1}) + "\n")
