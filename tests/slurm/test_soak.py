"""An hour of a cluster on which something fails every half minute: every stage is done, and none is lost.

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

from slurm.loopback import Cluster
from tests.slurm.driving import ToyStudy, lines
from tests.slurm.test_not_now import clients

MINUTES = float(os.environ.get("SOAK_MINUTES", "60"))
EVERY = 30.0  # seconds between two faults
STAGES = int(os.environ.get("SOAK_STAGES", "500"))  # half of them wait for the other half, so waves never cease
STEPS = 20
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

    def __init__(self, cluster: Cluster, study: ToyStudy, disk: Path, path: str, seed: int) -> None:
        self.cluster = cluster
        self.study = study
        self.disk = disk
        self.path = path
        self.seed = seed
        self.random = random.Random(seed)
        self.driver = self.start()
        self.done: list[str] = []

    def start(self) -> subprocess.Popen[str]:
        """A driver, with arrays so small that it has to submit one every minute."""
        return self.study.start("--set", "slurm.array_size=20", PATH=self.path)

    def strike(self) -> None:
        self.random = random.Random(f"{self.seed} {len(self.done)}")
        fault = self.random.choice(
            [
                self.kill_the_driver, self.kill_a_slurmd, self.kill_the_controller, self.restart_the_controller,
                self.hold_a_job, self.requeue_a_job, self.cancel_a_job_as_operator,
                self.fill_the_disk, self.let_clients_babble, self.lower_a_limit,
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
    seconds = 0.75 * 60 * MINUTES * 8 / STAGES / STEPS  # of work for eight at once; faults take the rest of the time
    orders = {"*": {"steps": STEPS, "seconds": seconds}}
    study = ToyStudy(cluster, disk / "study", cells=STAGES // 2, chain=True, orders=orders)
    try:
        path = clients(tmp_path / "bin", **dict.fromkeys(CLIENTS, CLIENT))
        troublemaker = Troublemaker(cluster, study, disk, path, seed)
        started = time.monotonic()
        while (next_one := EVERY * (len(troublemaker.done) + 1)) < 60 * MINUTES:
            time.sleep(max(0.0, started + next_one - time.monotonic()))
            if troublemaker.driver.poll() is not None:
                break
            troublemaker.strike()
        assert troublemaker.driver.wait(60 * (MINUTES + 15)) == 0, (seed, troublemaker.done, study.output())
        every_stage_was_done(study)
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


def every_stage_was_done(study: ToyStudy) -> None:
    """Each reached its last step, and repeated none but those that a loss kept from being written down."""
    assert study.states() == {"done": STAGES // 2 * 2}
    for run in study.runs():
        steps = [int(step) for step in lines(run.path / "steps")]
        assert max(steps) == STEPS
        repeated = len(steps) - len(set(steps))
        assert repeated < run.status.attempts, f"{run.name} repeated {repeated} steps in {run.status.attempts} attempts"
