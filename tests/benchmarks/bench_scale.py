"""What looking at large studies costs: processor time and memory of the commands a user types.

    python -m tests.benchmarks.bench_scale [CELLS [STAGES [LINES]]]

Makes a Table 2 of 2,000 cells and looks at it, half done, by a dry run, and finished by `status`, a dry run and `gc`;
plans one of 100,000 stages of which nothing exists; and draws the report of a study whose longest metrics.jsonl has
600 lines, as most have, and then a million: what the second takes more is what grows with the lines. Python's start is
included, compiling is not: bytecode is written first, as Python does on its own unless PYTHONDONTWRITEBYTECODE is set
(each start then takes 0.1 to 0.2 s more). Seconds are of the processor (user and system), which other processes
stretch a little. Memory is the peak, or that of this process where it is more: a command starts as its copy.
"""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fakes import ablation
from tests.large import finished, write_long_history

CELLS, STAGES, LINES = 2_000, 100_000, 1_000_000
PER_SEED = 6, 18  # cells and stages of Table 2
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:]]
    cells, stages, lines = (*given, *(CELLS, STAGES, LINES)[len(given) :])
    for package in ("fvar", "analysis", "studies"):
        compileall.compile_dir(ROOT / package, quiet=1)
    with tempfile.TemporaryDirectory() as folder:
        seeds = -(-cells // PER_SEED[0])
        where = ("--results", folder)
        dry_run = "studies.run", "ablation_table2", "--dry-run", "--seeds", str(seeds), *where
        finished(Path(folder), seeds // 2)
        say(f"dry run of {seeds * PER_SEED[0]} cells half done", 1, *dry_run)
        made = len(finished(Path(folder), seeds))
        say(f"dry run of {made} cells", 1, *dry_run)
        say(f"status of {made} cells", 1, "studies", "status", "ablation_table2", *where)
        say(f"gc of {made} cells", 1, "studies", "gc", *where)
        say(f"gc --old-revisions of {made} cells", 1, "studies", "gc", "--old-revisions", *where)
    with tempfile.TemporaryDirectory() as folder:
        seeds = -(-stages // PER_SEED[1])
        line = "studies.run", "ablation_table2", "--dry-run", "--seeds", str(seeds), "--results", folder
        say(f"plan of {stages} stages", 30, *line)
    with tempfile.TemporaryDirectory() as folder:
        study = ablation(Path(folder), seeds=1)
        for count in (600, lines):
            write_long_history(study.cells[0].chain["var"].path, count)
            say(f"report with {count} lines of metrics", 5, "studies", "report", "ablation_table2", "--results", folder)


def say(what: str, limit: float, *command: str) -> None:
    """Run a command and print what it took."""
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}"
    seconds = used.ru_utime + used.ru_stime
    print(f"{what}: {seconds:.2f} s of the processor (goal {limit:g}), {used.ru_maxrss / 1024:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
