"""Studies over real stages, shortened: sweeps and a search to their end, and Table 2 killed again and again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fvar.rundir import RunDir
from tests import shortened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]


def command(study: str, results: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "studies.run", study, "--results", str(results), *more, *shortened.ARGUMENTS]


def run(study: str, results: Path, *more: str) -> str:
    done = subprocess.run(command(study, results, *more), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def stages(results: Path, kind: str) -> list[RunDir]:
    return [RunDir.open(path.parent) for path in results.glob(f"runs/{kind}-*/config.json")]


@pytest.mark.parametrize(
    ("study", "more", "cells", "tokenizers"),
    [
        ("sweep_psf_radius", (), 7, 14),  # every radius has a pair of tokenizers
        ("sweep_lambda", (), 16, 2),
        ("search_distillation", ("--trials", "8"), 8, 2),
    ],
)
def test_a_sweep_or_search_really_trains_and_shares_its_tokenizers(
    study: str, more: tuple[str, ...], cells: int, tokenizers: int, tmp_path: Path
) -> None:
    out = run(study, tmp_path, *more)
    assert f"{cells} of {cells} cells done" in out
    assert len(stages(tmp_path, "tokenizer")) == tokenizers
    assert all(run.done and run.status.attempts == 1 for run in stages(tmp_path, "*"))
    (table,) = tmp_path.glob(f"{study}/*/table.csv")
    assert len(table.read_text().splitlines()) >= cells


def test_table_2_killed_three_times_ends_with_the_same_table(tmp_path: Path) -> None:
    run("ablation_table2", tmp_path / "undisturbed")
    results = tmp_path / "killed"
    rng = random.Random(0)
    for _ in range(3):
        driver = subprocess.Popen(command("ablation_table2", results), cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(8, 25))
        driver.kill()
        driver.wait()
    run("ablation_table2", results)
    (whole,) = (tmp_path / "undisturbed").glob("ablation_table2/*/table.csv")
    (mended,) = results.glob("ablation_table2/*/table.csv")
    assert mended.read_bytes() == whole.read_bytes()
    assert max(run.status.attempts for run in stages(results, "*")) > 1, "no kill hit a stage at work"
