"""A toy study on the loopback cluster: start its driver, wait for things, count what was executed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fvar.rundir import RunDir
from slurm.loopback import Cluster
from tests.slurm.drive import first_stage

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
QUICK = {"steps": 1, "seconds": 0.0}
PROFILE = """\
time = "00:15:00"
cpus_per_task = 1
memory = "{memory}"
array_parallelism = 8
poll = {poll}
"""
TOYS = f'setup = ["export PYTHONPATH={HERE / "toy"}:$PYTHONPATH"]\n'


class ToyStudy:
    """A results folder, its profile, and the drivers working on it.

    Parameters
    ----------
    cells
        Number of cells, of one stage each (two with `chain`).
    orders
        What stages do, see `toy_stage`.
    poll
        Seconds between two questions to the cluster.
    real
        Train real, if tiny, networks instead.
    study
        Which of `tests.slurm.drive`.
    probed
        Pretend that the nodes were asked whether they see the results folder.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        cells: int = 4,
        chain: bool = False,
        orders: Mapping[str, Any] | None = None,
        poll: float = 0.5,
        real: bool = False,
        probed: bool = True,
        study: str = "toy",
    ) -> None:
        self.study = study
        self.cluster = cluster
        self.folder = folder
        self.cells = cells
        self.results = folder / "results"
        (self.results / "slurm").mkdir(parents=True)
        if probed:
            (self.results / "slurm" / "shared-default").touch()
        self.order(**{"*": QUICK, **(orders or {})})
        self.profile = folder / "toy.toml"
        self.profile.write_text(PROFILE.format(memory="1500M" if real else "200M", poll=poll) + ("" if real else TOYS))
        self.environment = {**cluster.environment, "OMP_NUM_THREADS": "1", **({"TOY_CHAIN": "1"} if chain else {})}
        self.drivers: list[subprocess.Popen[str]] = []

    def order(self, **orders: Any) -> None:
        (self.results / "toy.json").write_text(json.dumps(orders))

    # -------------------------------------------------------------------------------------------------------- drivers

    def start(self, *arguments: str, prefix: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
        """Start a driver (under another command) and return at once; its output goes to a file of its own."""
        out = open(self.folder / f"driver-{len(self.drivers)}.out", "w")  # noqa: SIM115
        command = [
            *prefix, sys.executable, "-m", "tests.slurm.drive", "run", self.study, "--cluster", "slurm",
            "--profile", str(self.profile), "--results", str(self.results), "--seeds", str(self.cells), *arguments,
        ]  # fmt: skip
        driver = subprocess.Popen(
            command, cwd=ROOT, env={**self.environment, **environment}, stdout=out, stderr=subprocess.STDOUT, text=True
        )
        out.close()
        self.drivers.append(driver)
        return driver

    def run(self, *arguments: str, timeout: float = 300, prefix: Sequence[str] = (), **environment: str) -> int:
        """Run a driver to its end; returns its exit status."""
        return self.start(*arguments, prefix=prefix, **environment).wait(timeout)

    def output(self, driver: int = -1) -> str:
        """What a driver printed."""
        return (self.folder / f"driver-{range(len(self.drivers))[driver]}.out").read_text()

    def stop(self) -> None:
        for driver in self.drivers:
            if driver.poll() is None:
                driver.send_signal(signal.SIGKILL)
                driver.wait()
        names = {record["wave"] for record in self.records() if record.get("wave")}
        if names:
            self.cluster.client("scancel", f"--name={','.join(names)}")

    # --------------------------------------------------------------------------------------------------------- stages

    def runs(self) -> list[RunDir]:
        """The run directories there are, by name."""
        return [RunDir.open(path.parent) for path in sorted(self.results.glob("runs/*/config.json"))]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -m studies …` on this study's results."""
        line = [sys.executable, "-m", "tests.slurm.drive", "command", *arguments, "--results", str(self.results)]
        return subprocess.run(line, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60)

    def first(self, cell: int) -> RunDir:
        """Run directory of the first stage of a cell."""
        return RunDir.open(self.results / "runs" / first_stage(cell).name)

    def states(self) -> Counter[str]:
        return Counter(run.status.state for run in self.runs())

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.results.glob("runs/*/job.json"))]

    def executions(self) -> Counter[str]:
        """How often each stage was started, by run name."""
        return Counter({run.name: len(lines(run.path / "executions")) for run in self.runs()})

    def job_id(self, run: RunDir) -> str:
        return str(json.loads((run.path / "job.json").read_text())["job_id"])

    def most_at_once(self) -> int:
        """Of how many jobs the stages ran at once at most, by what each job wrote at its start and end, in seconds."""
        files = self.results.glob("runs/*/jobs.jsonl")
        notes = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        ends = [(note["end"], -1) for note in notes if "end" in note]
        most = now = 0
        for _, change in sorted(ends + [(note["start"], 1) for note in notes if "start" in note]):
            now += change
            most = max(most, now)
        return most

    def submitted(self) -> int:
        """How many jobs SLURM was ever given for this study, one for each member of an array."""
        folders = [path.name for path in self.results.glob("slurm/fvar-*")]
        command = ("squeue", "--noheader", "--array", "--states=all", f"--name={','.join(folders)}", "--format=%i")
        return len(self.cluster.client(*command).stdout.split())


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def wait_until(condition: Callable[[], object], timeout: float = 180.0, what: str = "") -> None:
    """Poll until `condition()` is true; fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or condition}"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
