"""An hour of a cluster on which something fails every half minute: every stage is done, and none is lost.

A third of the stages are jobs of arrays, a third are packed into jobs of a partition that preempts those, and a third
run on the driver's machine.

    SOAK_MINUTES=5 SOAK_SEED=7 python -m pytest -m slow tests/slurm/test_soak.py -s

The seed is printed, so that what went wrong can be seen again.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fvar.job import JobRecord
from slurm.loopback import Cluster
from tests.slurm.driving import ROOT, ToyStudy, lines
from tests.slurm.test_not_now import clients

MINUTES = float(os.environ.get("SOAK_MINUTES", "60"))
EVERY = 30.0  # seconds between two faults
STAGES = int(os.environ.get("SOAK_STAGES", "501"))
KINDS = 3  # per cell, one after another, so waves never cease; see `Troublemaker.start` for where each kind runs
STEPS = 20
JOBS_HERE = 2
CLIENTS = ("sbatch", "squeue", "sacct")
# While <client>.says exists, the client does as it says: greets, answers in gibberish, or fails.
CLIENT = """\
case "$(cat "$0.says" 2>/dev/null)" in
greeting) echo "CLUSTER: x"; echo "Your last job 12 waited 3 hours" ;;
gibberish) head -c 300 /dev/urandom; echo; echo "7|RUNNING"; echo "||||"; exit 0 ;;
failure) echo "$0: error: slurm_receive_msg: Socket timed out on send/recv operation" >&2; exit 1 ;;
esac
exec "$REAL" "$@"
"""


class Troublemaker:
    """Does one harm after another to a study and its cluster, and undoes what would last.

    Which, and all that is left to chance in it, follows from the seed and the fault's number alone.
    """

    def __init__(
        self, cluster: Cluster, study: ToyStudy, disk: Path, path: str, seed: int, seconds_here: float
    ) -> None:
        self.cluster = cluster
        self.study = study
        self.disk = disk
        self.path = path
        self.seed = seed
        self.seconds_here = seconds_here  # per step of a stage on this machine
        self.random = random.Random(seed)
        self.driver = self.start()
        self.done: list[str] = []

    def start(self) -> subprocess.Popen[str]:
        """A driver, with arrays so small that it has to submit one every minute."""
        settings = {
            "array_size": "20",
            "tokens.partition": "urgent",
            "tokens.packing": "5",
            "tokens.side_by_side": "2",
            "tokens.cpus_per_task": "2",  # so that eight jobs want more than there is, and some are preempted
            "tokens.gather": "10",
            "readability.cluster": "local",
        }
        return self.study.start(
            *(word for key, value in settings.items() for word in ("--set", f"slurm.{key}={value}")),
            "--jobs",
            str(JOBS_HERE),
            PATH=self.path,
            PYTHONPATH=f"{ROOT / 'tests' / 'studies' / 'toy'}:{ROOT}",
            TOY_READ="1",
            TOY_STEPS=str(STEPS),
            TOY_SECONDS=str(self.seconds_here),
        )

    def strike(self) -> None:
        self.random = random.Random(f"{self.seed} {len(self.done)}")
        fault = self.random.choice(
            [
                self.kill_the_driver, self.kill_a_slurmd, self.kill_the_controller, self.restart_the_controller,
                self.hold_a_job, self.requeue_a_job, self.cancel_a_job_as_operator,
                self.kill_a_stage, self.fill_the_disk, self.let_clients_babble, self.lower_a_limit,
            ]
        )  # fmt: skip
        self.done.append(fault.__name__)
        print(f"{time.strftime('%H:%M:%S')} {fault.__name__}, {dict(self.study.states())}", flush=True)
        fault()

    def kill_the_driver(self) -> None:
        self.driver.kill()
        self.driver.wait()
        self.driver = self.start()

    def kill_a_slurmd(self) -> None:
        pid = self.cluster.daemon(f"slurmd-n{self.random.randint(1, 2)}").pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        time.sleep(self.random.uniform(0, 5))
        self.cluster.up()

    def kill_the_controller(self) -> None:
        pid = self.cluster.daemon("slurmctld").pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        time.sleep(self.random.uniform(0, 10))
        self.cluster.up()

    def restart_the_controller(self) -> None:
        self.cluster.daemon("slurmctld").stop()
        time.sleep(self.random.uniform(0, 10))
        self.cluster.up()

    def a_job(self) -> str:
        jobs = [str(record["job_id"]) for record in self.study.records() if record["job_id"]]
        listed = self.cluster.client("squeue", "--noheader", "--array", "--format=%F_%K").stdout.split()
        ours: list[str] = sorted(set(jobs) & set(listed))
        return self.random.choice(ours) if ours else "0"

    def hold_a_job(self) -> None:
        job = self.a_job()
        self.cluster.client("scontrol", "hold", job)
        time.sleep(5)
        self.cluster.client("scontrol", "release", job)

    def requeue_a_job(self) -> None:
        self.cluster.client("scontrol", "requeue", self.a_job())

    def cancel_a_job_as_operator(self) -> None:
        command = ("scancel", self.a_job())
        subprocess.run(command, env=self.cluster.environment, user="nobody", capture_output=True)

    def kill_a_stage(self) -> None:
        """Any of those at work: of an array, of a pack, or on this machine."""
        running = [(run.name, run.status.pid) for run in self.study.runs() if run.status.state == "running"]
        name, pid = self.random.choice(running or [("", 0)])
        with contextlib.suppress(OSError):
            if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():  # and not somebody else's by now
                os.kill(pid, signal.SIGKILL)

    def fill_the_disk(self) -> None:
        with contextlib.suppress(OSError), open(self.disk / "full", "wb") as file:
            while True:
                file.write(b"\0" * (1 << 20))
        time.sleep(5)
        (self.disk / "full").unlink()

    def let_clients_babble(self) -> None:
        folder, says = Path(self.path.partition(":")[0]), self.random.choice(["greeting", "gibberish", "failure"])
        for name in self.random.sample(CLIENTS, self.random.randint(1, len(CLIENTS))):
            (folder / f"{name}.says").write_text(says)
        time.sleep(10)
        for file in folder.glob("*.says"):
            file.unlink()

    def lower_a_limit(self) -> None:
        for jobs in (2, -1):
            self.cluster.client("sacctmgr", "--immediate", "modify", "user", "root", "set", f"MaxSubmitJobs={jobs}")
            time.sleep(10)


@pytest.mark.slow
@pytest.mark.timeout(60 * (2 * MINUTES + 30))
def test_a_study_survives_an_hour_of_faults(cluster: Cluster, tmp_path: Path) -> None:
    seed = int(os.environ.get("SOAK_SEED", str(time.time_ns() % 10_000)))
    print(f"SOAK_SEED={seed}", flush=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "none", str(disk)], check=True)
    cluster.client("sacctmgr", "--immediate", "add", "user", "nobody", "account=root", "adminlevel=Operator")
    cells = STAGES // KINDS
    per_step = 60 * MINUTES / cells / STEPS  # seconds, were all the time for stages of one kind, one after another
    orders = {"*": {"steps": STEPS, "seconds": 0.6 * per_step * 8 / 2}}  # two kinds, eight at once; the rest is faults'
    study = ToyStudy(cluster, disk / "study", cells=cells, chain=True, orders=orders, poll=2.0)
    try:
        path = clients(tmp_path / "bin", **dict.fromkeys(CLIENTS, CLIENT))
        troublemaker = Troublemaker(cluster, study, disk, path, seed, seconds_here=0.4 * per_step * JOBS_HERE)
        next_one, end = time.monotonic() + EVERY, time.monotonic() + 60 * MINUTES
        while next_one < end:
            time.sleep(max(0.0, next_one - time.monotonic()))
            if troublemaker.driver.poll() is not None:
                break
            next_one = time.monotonic() + EVERY  # what a machine that stood still has missed is not made up for
            troublemaker.strike()
        assert troublemaker.driver.wait(60 * (MINUTES + 15)) == 0, (seed, troublemaker.done, study.output())
        every_stage_was_done(study, cells * KINDS)
        every_kind_ran_where_it_should(study)
    except BaseException:
        shutil.copytree(study.folder, tmp_path / "evidence")  # the disk is about to go
        raise
    finally:
        study.stop()
        cluster.client("sacctmgr", "--immediate", "modify", "user", "root", "set", "MaxSubmitJobs=-1")
        cluster.client("sacctmgr", "--immediate", "delete", "user", "nobody")
        cluster.up()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        shutil.rmtree(tmp_path / "bin", ignore_errors=True)


def every_stage_was_done(study: ToyStudy, stages: int) -> None:
    """Each made all its steps, and repeated none but those that a loss kept from being written down."""
    assert study.states() == {"done": stages}
    for run in study.runs():
        steps = lines(run.path / "steps")
        assert len(set(steps)) == STEPS
        repeated = len(steps) - STEPS
        assert repeated < run.status.attempts, f"{run.name} repeated {repeated} steps in {run.status.attempts} attempts"


def every_kind_ran_where_it_should(study: ToyStudy) -> None:
    """Tokenizers as jobs of their own, tokens packed (but for one that was left over), readings on this machine."""
    places: dict[str, set[tuple[str, bool]]] = {}
    for run in study.runs():
        record = JobRecord.read(run)
        assert record is not None
        places.setdefault(run.kind, set()).add((record.cluster, record.pack > 1))
    assert places["tokenizer"] == {("slurm", False)}
    assert ("slurm", True) in places["tokens"]
    assert {cluster for cluster, _ in places["tokens"]} == {"slurm"}
    assert places["readability"] == {("local", False)}
