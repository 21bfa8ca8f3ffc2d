"""Several short stages in one SLURM job: one after another, or some of them side by side on what the job has.

    python -m studies.engine.backends.pack RUNS --member 3 --packing 8 --side-by-side 2 --wave fvar-scores-0123456789ab

runs the directories in lines 24 to 31 of the file RUNS, each by `python -m fvar.run` in a process of its own, so that
one which fails or is killed takes no other with it. What has ended is passed over: a job that is requeued goes on with
what is left.

The driver's word is job.json: a stage whose record names another job, or which the driver has ended, is not begun, and
is stopped where it runs. The others go on.

Exit status: 0 all have ended, 1 one was lost, 75 a signal stopped some after a checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fvar.job import JobRecord
from fvar.rundir import read_status
from fvar.usage import note, visible_gpus

ENDED = ("done", "failed", "cancelled")
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
STOPPED = 75  # exit status of `fvar.run` after a checkpoint
GLANCE_SECONDS = 0.2
WORD_SECONDS = 2.0  # between two looks at what the driver says of the stages that run
PASS_ON_SECONDS = 5.0  # SLURM signals every process of a job; those that did not hear it are told after this
STOP_SECONDS = 30.0  # that a stage which the driver has ended gets for its checkpoint


def members(path: Path, member: int, packing: int) -> list[Path]:
    """The run directories that one job of a wave works on, from the wave's list of all."""
    lines = path.read_bytes().splitlines()[member * packing : (member + 1) * packing]
    return [Path(os.path.normpath(path.absolute().parent / os.fsdecode(line))) for line in lines]


def is_wanted(run: Path, wave: str) -> bool:
    """Whether a stage has not ended, and the driver still counts on this wave for it."""
    return read_status(run).state not in ENDED and not is_taken_away(run, wave)


def is_taken_away(run: Path, wave: str) -> bool:
    """Whether the driver has ended a stage, or has given it to another job."""
    record = JobRecord.read_in(run)
    return record is not None and (record.wave != wave or bool(record.ended))


@dataclass
class _Stage:
    """A stage at work."""

    run: Path
    slot: int
    process: subprocess.Popen[bytes]
    asked: float = 0.0  # when it was asked to stop; 0: it was not


@dataclass
class Pack:
    """The stages of one job.

    Parameters
    ----------
    gpus
        As CUDA_VISIBLE_DEVICES names them. With several, stages side by side get one each.
    held
        GPUs that are charged.
    cores
        Shared out between stages side by side.
    job
        SLURM's number of it, for the accounting of GPU hours.
    """

    runs: Sequence[Path]
    wave: str
    side_by_side: int = 1
    gpus: Sequence[str] = ()
    held: int = 0
    cores: int = 1
    job: str = ""
    _working: list[_Stage] = field(default_factory=list)
    _noted: list[Path] = field(default_factory=list)  # stages that the GPUs are charged to now
    _stopped: int = 0  # the signal that stops all
    _stopped_at: float = 0.0
    _interrupted: bool = False  # a stage wrote a checkpoint for a signal that only it got

    def work(self) -> int:
        """Run all stages that are left; returns the exit status."""
        with self._listening():
            waiting = list(self.runs)
            looked = time.monotonic()
            while self._working or (waiting and not self._stopped):
                while waiting and not self._stopped and len(self._working) < self.side_by_side:
                    self._begin(waiting.pop(0))
                self._charge()
                time.sleep(GLANCE_SECONDS)
                self._collect()
                if time.monotonic() - looked > WORD_SECONDS:
                    looked = time.monotonic()
                    self._obey()
            self._charge()
        left = any(is_wanted(run, self.wave) for run in self.runs)
        return (STOPPED if self._stopped or self._interrupted else 1) if left else 0

    def _begin(self, run: Path) -> None:
        if not is_wanted(run, self.wave):
            return
        slot = min(set(range(self.side_by_side)) - {stage.slot for stage in self._working})
        command = [sys.executable, "-u", "-m", "fvar.run", str(run)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=self._environment(slot), preexec_fn=_end_with_this_job
        )
        self._working.append(_Stage(run, slot, process))

    def _environment(self, slot: int) -> Mapping[str, str]:
        """What a stage beside others may use: its share of the cores, and one GPU where there are several."""
        threads = str(max(1, self.cores // self.side_by_side))
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **os.environ}
        if self.side_by_side > 1 and len(self.gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return environment

    def _collect(self) -> None:
        for stage in list(self._working):
            status = stage.process.poll()
            if status is None:
                continue
            self._working.remove(stage)
            if status == STOPPED and not stage.asked:
                self._interrupted = True
            if status:
                print(f"{stage.run.name} ended with status {status}", flush=True)

    def _obey(self) -> None:
        """Stop the stages that the driver does not want any more; and all, some time after a signal."""
        now = time.monotonic()
        for stage in self._working:
            if stage.asked:
                if not self._stopped and now - stage.asked > STOP_SECONDS:
                    stage.process.kill()
            elif (self._stopped and now - self._stopped_at > PASS_ON_SECONDS) or is_taken_away(stage.run, self.wave):
                stage.asked = now
                stage.process.send_signal(self._stopped or signal.SIGTERM)

    def _charge(self) -> None:
        """Charge the job's GPUs in equal parts to the stages at work, from when that changes."""
        working = [stage.run for stage in self._working]
        if working == self._noted:
            return
        with contextlib.suppress(OSError):  # a full disk must not end the job
            for run in self._noted:
                note(run, "end", self.job, self.held / len(self._noted))
            for run in working:
                note(run, "start", self.job, self.held / len(working))
        self._noted = working

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Note a stopping signal; each stage hears of it, too, and ends when it has written its checkpoint."""

        def heard(number: int, frame: FrameType | None) -> None:
            if not self._stopped:
                self._stopped, self._stopped_at = number, time.monotonic()

        previous = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGUSR2)}
        try:
            yield
        finally:
            for number, old in previous.items():
                signal.signal(number, old)


def _end_with_this_job() -> None:
    """In a stage's process: be told to stop when the pack dies. A cluster that looks for children misses orphans."""
    with contextlib.suppress(OSError, AttributeError):  # Linux has it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _given(variable: str, otherwise: int) -> int:
    """A number that SLURM has put into the environment."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else otherwise


def main() -> int:
    """What a job's script calls."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.engine.backends.pack", description="Run several stages in one job."
    )
    parser.add_argument("runs", type=Path, help="file of run directories, as seen from its folder, one per line")
    parser.add_argument("--member", type=int, default=0, help="which pack of them, from 0")
    parser.add_argument("--packing", type=int, required=True, help="stages per pack")
    parser.add_argument("--side-by-side", type=int, default=1, help="stages at once")
    parser.add_argument("--wave", required=True, help="the jobs' name")
    asked = parser.parse_args()
    pack = Pack(
        members(asked.runs, asked.member, asked.packing),
        asked.wave,
        asked.side_by_side,
        visible_gpus(),
        _given("SLURM_GPUS_ON_NODE", 0),
        _given("SLURM_CPUS_PER_TASK", 1),
        os.environ.get("SLURM_JOB_ID", ""),
    )
    return pack.work()


if __name__ == "__main__":
    sys.exit(main())
