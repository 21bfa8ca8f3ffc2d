"""What the driver costs: trivial stages by a study, against bare `sbatch --array` of the same command.

    python -m tests.benchmarks.bench_slurm [--stages 300] [--array 300] [--rounds 2] [--floor 60]

Needs the loopback cluster (`python -m slurm.loopback up`, as root); without one, only `status` is timed. Both sides run
the same number of stages, in arrays of the same size, eight at once, in turn; the faster round of each counts. The bare
side has all its arrays in the queue from the start, and its run directories are made before the clock starts; the
study's clock includes the driver's start, its run directories, and its last look.

A stage does nothing, so what is timed is SLURM. The floor says what of it: arrays of as many tasks as `--floor` asks
for, whose script does nothing, then starts a step, then Python in it. 0 leaves that out.

SLURM's client programs are counted by wrappers that come first in PATH, the driver's memory is its VmRSS, sampled every
half second. Two thousand stages take seven minutes per side on two quiet cores, ten thousand in proportion:

    python -m tests.benchmarks.bench_slurm --stages 10000 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fvar.config import RuntimeConfig
from fvar.rundir import RunDir
from slurm.loopback import Cluster, default_folder, packages
from slurm.loopback.cluster import MAX_ARRAY
from tests.slurm.drive import first_stage
from tests.slurm.driving import HERE, ToyStudy
from tests.studies.engine.test_commands import large_study

ROOT = HERE.parents[1]
CELLS = 1000
GOAL, MOST_CALLS = 1.3, 1.0
CLIENTS = ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "scancel")
ASKED = ("--mem=200M", "--cpus-per-task=1", "--time=15")  # as the study's profile does
AT_ONCE = 8  # so does the profile; the cluster has as many CPUs
STEP = "srun --cpus-per-task=1"
FLOOR = {  # what a task's script runs
    "a batch script": ":",
    "and a step": f"{STEP} true",
    "and Python": f"{STEP} {shlex.quote(sys.executable)} -c pass",
}


@dataclass(frozen=True)
class Driven:
    """One study by its driver."""

    seconds: float
    before: float  # of these until the first stage's job began, by that job's clock of whole seconds
    calls: Counter[str]  # of SLURM's client programs
    memory: tuple[int, int]  # KiB after a quarter of the time, and at the end


def main() -> None:
    asked = parser().parse_args()
    print(f"status of {CELLS} cells in five stages each: {min(look() for _ in range(3)):.2f} s", flush=True)
    cluster = Cluster(default_folder())
    if not cluster.running():
        print("bench_slurm: no loopback cluster runs here; start one with: python -m slurm.loopback up")
        return
    plain: list[float] = []
    studies: list[Driven] = []
    with tempfile.TemporaryDirectory() as folder:
        for what, script in FLOOR.items() if asked.floor else ():
            seconds = bare(cluster, Path(folder) / what, [script] * asked.floor, asked.array)
            say(f"{asked.floor} tasks of {what}", seconds, asked.floor)
        for number in range(asked.rounds):
            plain.append(bare_stages(cluster, Path(folder) / f"bare{number}", asked.stages, asked.array))
            say(f"round {number}, bare: {asked.stages} stages", plain[-1], asked.stages)
            studies.append(driven(cluster, Path(folder) / f"study{number}", asked.stages, asked.array))
            say(f"round {number}, study: {asked.stages} stages", studies[-1].seconds, asked.stages)
    least, best = min(plain), min(study.seconds for study in studies)
    print(
        f"{asked.stages} trivial stages in arrays of {asked.array}: bare {least:.1f} s, study {best:.1f} s, "
        f"ratio {best / least:.2f} (goal {GOAL:g})"
    )
    for study in studies:
        calls = ", ".join(f"{count} {name}" for name, count in study.calls.most_common())
        rate = study.calls.total() / study.seconds
        print(f"of a study's {study.seconds:.1f} s, {study.before:.1f} s passed before its first stage began")
        print(f"SLURM client calls: {rate:.2f} per second on average (goal {MOST_CALLS:g}; {calls})")
    early, late = studies[-1].memory
    print(f"driver memory: {early / 1024:.0f} MiB after a quarter of the time, {late / 1024:.0f} MiB at the end")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.bench_slurm", description="What the driver costs on the loopback cluster."
    )
    made.add_argument("--stages", type=int, default=300)
    made.add_argument(
        "--array", type=int, default=MAX_ARRAY - 1, help="tasks per array (default: %(default)s, the most)"
    )
    made.add_argument("--rounds", type=int, default=2)
    made.add_argument("--floor", type=int, default=60, metavar="TASKS", help="per rung of the floor (default: 60)")
    return made


def say(what: str, seconds: float, tasks: int) -> None:
    each = AT_ONCE * seconds / tasks
    print(f"{what}: {seconds:.1f} s, {each:.2f} s per task where {AT_ONCE} run at once", flush=True)


def look() -> float:
    """Seconds of `python -m studies status` for a large study, Python's start included."""
    with tempfile.TemporaryDirectory() as folder:
        large_study(Path(folder), CELLS)
        command = [sys.executable, "-m", "studies", "status", "big", "--results", folder]
        started = time.monotonic()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        return time.monotonic() - started


def bare(cluster: Cluster, folder: Path, scripts: Sequence[str], size: int) -> float:
    """Seconds from the first sbatch until each of these shell lines has ended, a task each, in arrays of `size`.

    A task leaves a file as it ends, which costs nothing, where asking the controller would slow it down.
    """
    ended = folder / "ended"
    ended.mkdir(parents=True)
    (folder / "scripts").write_text("".join(f"{script}\n" for script in scripts))
    started = time.monotonic()
    for first in range(0, len(scripts), size):
        count = min(size, len(scripts) - first)
        number = f"$((SLURM_ARRAY_TASK_ID + {first + 1}))"
        script = f'cd {shlex.quote(str(folder))}; eval "$(sed -n "{number}p" scripts)" && touch ended/{number}'
        command = ("sbatch", "--parsable", f"--array=0-{count - 1}%{AT_ONCE}", *ASKED, "--output=/dev/null")
        answer = cluster.client(*command, "--wrap", script)
        assert answer.returncode == 0, answer.stderr
    deadline = started + 300 + 10 * len(scripts)
    while (done := sum(1 for _ in ended.iterdir())) < len(scripts):
        assert time.monotonic() < deadline, f"{done} of {len(scripts)} tasks ended; see {cluster.folder}/log"
        time.sleep(0.5)
    return time.monotonic() - started


def bare_stages(cluster: Cluster, folder: Path, stages: int, size: int) -> float:
    """Seconds of these stages without a driver."""
    study = ToyStudy(cluster, folder / "study", cells=stages)
    root = study.results / "runs"
    runs = [RunDir.create(root, first_stage(cell), RuntimeConfig()) for cell in range(stages)]  # as a driver does
    python = f"PYTHONPATH={HERE / 'toy'}:{ROOT} {STEP} {shlex.quote(sys.executable)} -m fvar.run"
    seconds = bare(cluster, folder, [f"{python} {shlex.quote(str(run.path))}" for run in runs], size)
    assert study.states() == {"done": stages}, study.states()
    return seconds


def driven(cluster: Cluster, folder: Path, stages: int, size: int) -> Driven:
    """A driver for these stages: to its end, each stage run once."""
    study = ToyStudy(cluster, folder, cells=stages, poll=5.0, probed=False)
    calls = folder / "calls"
    shims = folder / "bin"
    shims.mkdir()
    for name in CLIENTS:
        path = shims / name
        path.write_text(f'#!/bin/sh\necho {name} >> {calls}\nexec {packages.program(name)} "$@"\n')
        path.chmod(0o755)
    started, by_the_clock = time.monotonic(), time.time()
    driver = study.start("--set", f"slurm.array_size={size}", PATH=f"{shims}:{os.environ['PATH']}")
    memory = []
    while driver.poll() is None:
        memory.append(resident(driver))
        time.sleep(0.5)
    seconds = time.monotonic() - started
    assert driver.returncode == 0, study.output()
    assert study.states() == {"done": stages}, study.states()
    assert set(study.executions().values()) == {1}
    notes = (json.loads(line) for path in study.results.glob("runs/*/jobs.jsonl") for line in path.open())
    before = min(note["start"] for note in notes if "start" in note) - by_the_clock
    seen = [kib for kib in memory if kib]
    return Driven(seconds, before, Counter(calls.read_text().split()), (seen[len(seen) // 4], seen[-1]))


def resident(driver: subprocess.Popen[str]) -> int:
    """VmRSS in KiB; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{driver.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    main()
