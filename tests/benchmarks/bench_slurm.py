"""What the driver costs: 300 trivial stages by a study against a bare `sbatch --array` of the same command.

    python -m tests.benchmarks.bench_slurm [STAGES [ROUNDS]]

Needs the loopback cluster (`python -m slurm.loopback up`, as root); without one, only `status` is timed. Both sides are
run in turn, twice unless told otherwise, and the faster run of each counts. SLURM's client programs are counted by
wrappers that come first in PATH, the driver's memory is its VmRSS, sampled every half second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slurm.loopback import Cluster, default_folder, packages
from tests.slurm.driving import HERE, ToyStudy, wait_until
from tests.studies.engine.test_commands import large_study

STAGES = 300
CELLS = 1000
CLIENTS = ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "scancel")
MEMORY = ("--mem=200M", "--cpus-per-task=1", "--time=15")


def main() -> None:
    stages = int(sys.argv[1]) if len(sys.argv) > 1 else STAGES
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    print(f"status of {CELLS} cells in five stages each: {min(look() for _ in range(3)):.2f} s", flush=True)
    cluster = Cluster(default_folder())
    if not cluster.running():
        print("bench_slurm: no loopback cluster runs here; start one with: python -m slurm.loopback up")
        return
    plain_runs, study_runs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            plain_runs.append(bare(cluster, Path(folder) / f"bare{number}", stages))
            study_runs.append(driven(cluster, Path(folder) / f"study{number}", stages))
            print(f"round {number}: bare {plain_runs[-1]:.1f} s, study {study_runs[-1][0]:.1f} s", flush=True)
    plain = min(plain_runs)
    study = min(seconds for seconds, _, _ in study_runs)
    calls = max(count / seconds for seconds, count, _ in study_runs)
    early, late = study_runs[-1][2]
    print(f"{stages} trivial stages: bare sbatch --array {plain:.1f} s, study {study:.1f} s, ratio {study / plain:.2f}")
    print(f"SLURM client calls: {calls:.2f} per second on average")
    print(f"driver memory: {early / 1024:.0f} MiB after a quarter of the time, {late / 1024:.0f} MiB at the end")


def look() -> float:
    """Seconds of `python -m studies status` for a large study, Python's start included."""
    with tempfile.TemporaryDirectory() as folder:
        large_study(Path(folder), CELLS)
        command = [sys.executable, "-m", "studies", "status", "big", "--results", folder]
        started = time.monotonic()
        subprocess.run(command, cwd=HERE.parents[1], stdout=subprocess.DEVNULL, check=True)
        return time.monotonic() - started


def bare(cluster: Cluster, folder: Path, stages: int) -> float:
    """Seconds from sbatch until the last of these stages is done, without a driver."""
    study = ToyStudy(cluster, folder, cells=stages)
    runs = prepare(study)
    (folder / "runs.txt").write_text("\n".join(str(run) for run in runs) + "\n")
    script = (
        f"export PYTHONPATH={HERE / 'toy'}:{HERE.parents[1]}; cd {folder}; "
        f"srun --cpus-per-task=1 {sys.executable} -m fvar.run "
        '"$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" runs.txt)"'
    )
    started = time.monotonic()
    command = ("sbatch", "--parsable", f"--array=0-{stages - 1}%8", *MEMORY, "--output=/dev/null", "--wrap", script)
    job = cluster.client(*command).stdout.strip()
    wait_until(lambda: not cluster.client("squeue", "--noheader", f"--jobs={job}").stdout, 1200)
    seconds = time.monotonic() - started
    assert study.states()["done"] == stages, study.states()
    return seconds


def driven(cluster: Cluster, folder: Path, stages: int) -> tuple[float, int, tuple[int, int]]:
    """Seconds of a driver for these stages, its number of SLURM calls, and its memory in KiB early and at the end."""
    study = ToyStudy(cluster, folder, cells=stages, poll=5.0, probed=False)
    calls = folder / "calls"
    shims = folder / "bin"
    shims.mkdir()
    for name in CLIENTS:
        path = shims / name
        path.write_text(f'#!/bin/sh\necho {name} >> {calls}\nexec {packages.program(name)} "$@"\n')
        path.chmod(0o755)
    started = time.monotonic()
    driver = study.start(PATH=f"{shims}:{os.environ['PATH']}")
    memory = []
    while driver.poll() is None:
        memory.append(resident(driver))
        time.sleep(0.5)
    seconds = time.monotonic() - started
    assert driver.returncode == 0, study.output()
    seen = [size for size in memory if size]
    return seconds, len(calls.read_text().splitlines()), (seen[len(seen) // 4], seen[-1])


def prepare(study: ToyStudy) -> list[Path]:
    """Run directories as a driver makes them, before anything is submitted."""
    from fvar.config import RuntimeConfig
    from fvar.rundir import RunDir
    from tests.slurm.drive import first_stage

    root = study.results / "runs"
    return [RunDir.create(root, first_stage(cell), RuntimeConfig()).path for cell in range(study.cells)]


def resident(driver: subprocess.Popen[str]) -> int:
    """VmRSS in KiB; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{driver.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    main()
