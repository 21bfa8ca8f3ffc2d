"""What a new GPU has to show within eight minutes: that everything is right on it, and how fast it is.

    make gpu-check                                   the whole of it, on one GPU, without a network
    make gpu-check ARGS="--original DIR"             beside the original's own code, from a checkout of it
    python -m tests.gpu.check --device cpu --tiny    the same path at toy sizes, to test this script

First the tests marked `gpu`, then training steps and sampling (`tests.gpu.measure`), then Table 2 at preset smoke, then
compiled steps, which take a minute each to compile. Each part has a share of the time; what one leaves over goes to
those after it, and what is not done by the end of its share is stopped, and named. Writes NAME.json and NAME.md to
results/gpu: commit both to report a GPU.

Exit status: 0, also where time ran out; 1 where a test, a case or the study failed; 2 without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fvar.errors import UserError, run_main
from fvar.machine import atomic
from fvar.run import commit_of_this_code
from tests import shortened
from tests.benchmarks.original import require_sources
from tests.gpu import measure, table
from tests.gpu.conftest import DEVICE

ROOT = Path(__file__).parents[2]
GRACE = 10.0  # seconds a part is given to stop in order, taken from its share
# Seconds of eight minutes, per part; steps and sampling are two parts each. Half a minute is left for all the rest.
SHARES = {"tests": 75, "step": 55, "sampling": 40, "compiled": 90, "table2": 95}
LINES = 60  # of what a part said are shown, where it failed
VERDICT = re.compile(r"^tests/\S+?::(\S.*?) (PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)
STUDY = ["studies.run", "ablation_table2", "--preset", "smoke"]


@dataclass
class Outcome:
    """What a part's process said, and how it ended: `status` is None where its time ran out."""

    said: str
    status: int | None
    seconds: float


@dataclass
class Check:
    """One run of the check; `deadline` is when the part in hand has to be done (`time.monotonic`)."""

    device: str
    sizes: measure.Sizes
    tiny: bool
    original: Path | None = None
    scale: float = 1.0  # of all shares
    deadline: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """All parts, in order; what they found."""
        tests, (*first, last) = self.tests(), self.sizes.parts
        measured = self.timings(first)
        table2 = self.table2()
        return {"tests": tests, "measured": measured + self.timings([last]), "table2": table2}

    def tests(self) -> dict[str, int]:
        """How many tests passed and how many did not."""
        command = ["pytest", "-v", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider", "--color", "no"]
        done = self.part("tests", command)
        found = VERDICT.findall(done.said)
        self.failed += [f"test {name}" for name, verdict in found if verdict in ("FAILED", "ERROR")]
        self.left_out += [f"test {name} (skipped)" for name, verdict in found if verdict == "SKIPPED"]
        if done.status is None:
            self.left_out.append(f"tests after the first {len(found)} (out of time)")
        elif done.status and not self.failed:
            self.failed.append(f"tests: {_last_line(done.said)}")
        return dict(Counter(verdict.lower() for _, verdict in found))

    def timings(self, parts: Sequence[str]) -> list[dict[str, Any]]:
        """A row per case of these parts that was reached."""
        bench, rows = measure.Bench(self.sizes, torch.device(self.device), self.original), []
        for part in parts:
            kind = part.partition("-")[0]
            command = ["tests.gpu.measure", part, "--device", self.device, *(["--tiny"] if self.tiny else [])]
            if self.original:
                command += ["--original", str(self.original)]
            done = self.part(kind, command)
            mine = [json.loads(line) for line in done.said.splitlines() if line.startswith('{"case"')]
            reached = {row["case"] for row in mine}
            why = "out of time" if done.status is None else f"its process ended: {_last_line(done.said)}"
            missing = [case.name for case in bench.cases(part) if case.name not in reached]
            if done.status:
                self.failed.append(f"{part}: {missing[0] if missing else 'after its last case'} ({why})")
            self.left_out += [f"{part}: {name} ({why})" for name in missing]
            self.left_out += [f"{part}: {row['case']} ({row['left_out']})" for row in mine if "left_out" in row]
            self.failed += [f"{part}: {row['case']} ({row['failed']})" for row in mine if "failed" in row]
            rows += [{"part": part, **row} for row in mine if "seconds" in row]
        return rows

    def table2(self) -> dict[str, Any]:
        """Table 2 at preset smoke, from nothing: its seconds, and those of the stages that were done, by kind."""
        jobs = str(min(8, os.cpu_count() or 1))
        scope = [*shortened.ARGUMENTS, "--only", "baseline"] if self.tiny else ["--cluster", "local", "--jobs", jobs]
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder)
            command = [*STUDY, *scope, "--results", folder, "--set", f"runtime.device={self.device}"]
            done = self.part("table2", command)
            stages = [(path.parent.name, json.loads(path.read_text())) for path in results.glob("runs/*/status.json")]
        took: dict[str, list[float]] = {}
        for name, status in stages:
            if status["state"] == "done":
                took.setdefault(name.rpartition("-")[0], []).append(status["seconds"])
        finished = sum(map(len, took.values()))
        if done.status is None:
            self.left_out.append(f"Table 2: all but its first {finished} stages (out of time)")
        elif done.status:
            self.failed.append(f"Table 2: {_last_line(done.said)}")
        return {"seconds": done.seconds, "stages_done": finished, "finished": done.status == 0, "took": took}

    def part(self, kind: str, command: Sequence[str]) -> Outcome:
        """Run a module of Python until it ends or its time has come; an earlier part's rest is its, too."""
        self.deadline += SHARES[kind] * self.scale
        print(f"{command[0]} {command[1]}: at most {self.deadline - time.monotonic():.0f} s", flush=True)
        done = run_until(self.deadline - GRACE, [sys.executable, "-m", *command], {DEVICE: self.device})
        if done.status:
            print("\n".join(done.said.splitlines()[-LINES:]), flush=True)
        return done


def run_until(deadline: float, command: Sequence[str], environment: dict[str, str]) -> Outcome:
    """A command and all it starts, asked to stop when the time has come, and ended `GRACE` seconds after that."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | environment,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = process.wait(max(deadline - started, 0.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return Outcome(said.read(), status, time.monotonic() - started)


def _last_line(said: str) -> str:
    return next((line.strip()[:200] for line in reversed(said.splitlines()) if line.strip()), "without a word")


def machine(device: str) -> dict[str, Any]:
    """What a table has to say about where it was measured."""
    on_gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} processor",
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory if on_gpu else None,
        "cuda": torch.version.cuda if on_gpu else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit_of_this_code() or "unknown",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, which measure nothing; for a CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="to be done in (%(default)g)")
    parser.add_argument("--original", type=Path, metavar="DIR", help="a checkout of FoundationVision/VAR, which is run")
    parser.add_argument("--name", default="", help="of the two files; default: the device's")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu", metavar="DIR")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no GPU here; run make gpu-check where there is one, or add --device cpu --tiny")
    if args.device == "cpu" and not args.tiny:
        raise UserError("on a CPU these sizes would take a day; add --tiny")
    if not args.minutes > 0:
        raise UserError(f"--minutes must be more than 0, got {args.minutes:g}")
    if args.original:
        require_sources(args.original)
        args.original = args.original.resolve()
    started = time.monotonic()
    where = machine(args.device)
    sizes = measure.TOY if args.tiny else measure.Sizes()
    check = Check(args.device, sizes, args.tiny, args.original, args.minutes / 8)
    found = check.run()
    report = {
        **where, "toy": args.tiny, "batch": check.sizes.batch, "seconds": time.monotonic() - started, **found,
        "left_out": check.left_out, "failed": check.failed,
    }  # fmt: skip
    name = args.name or re.sub(r"[^a-z0-9]+", "-", where["device"].lower()).strip("-") + ("-toy" if args.tiny else "")
    args.out.mkdir(parents=True, exist_ok=True)
    text = table.text(report)
    atomic.write_json(args.out / f"{name}.json", report)
    (args.out / f"{name}.md").write_text(text)
    print(f"\n{text}\nwritten: {args.out / name}.json and .md")
    return 1 if check.failed else 0


if __name__ == "__main__":
    run_main(main)
