"""The loopback cluster is a real SLURM: nodes, steps over both, arrays, accounting, requeue, preemption, memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fvar.errors import UserError
from slurm.loopback import Cluster
from tests.slurm.driving import ROOT, lines, wait_until


def submit(cluster: Cluster, folder: Path, command: str, *options: str) -> str:
    """sbatch a shell line; returns the job's id."""
    arguments = ("sbatch", "--parsable", f"--chdir={folder}", *options, "--wrap", command)
    done = cluster.client(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state(cluster: Cluster, job: str) -> str:
    """State in the accounting, of all members of an array where it is one."""
    listed = cluster.client("sacct", "-X", "-n", "-P", f"--jobs={job}", "--format=State").stdout.split("\n")
    return " ".join(sorted({line.split()[0] for line in listed if line}))


def test_both_nodes_are_up_and_every_port_is_bound_to_the_loopback_address(cluster: Cluster) -> None:
    assert [line.split()[0] for line in cluster.nodes().splitlines()] == ["n1", "n2"]
    pids = {daemon.pid for daemon in cluster.daemons()}
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line.split()[3] for line in listening if any(f"pid={pid}," in line for pid in pids)]
    assert len(ours) == 5
    assert all(address.startswith("127.0.0.1:") for address in ours)


def test_a_step_runs_on_both_nodes(cluster: Cluster) -> None:
    done = cluster.client("srun", "-N2", "--immediate=30", "printenv", "SLURMD_NODENAME")
    assert sorted(done.stdout.split()) == ["n1", "n2"]


def test_an_array_of_ten_completes_and_a_failing_job_is_accounted_as_failed(cluster: Cluster, tmp_path: Path) -> None:
    array = submit(
        cluster, tmp_path, "touch done-$SLURM_ARRAY_TASK_ID", "--array=0-9", "--mem=50", "--output=/dev/null"
    )
    failing = submit(cluster, tmp_path, "exit 3", "--mem=50", "--output=/dev/null")
    wait_until(lambda: state(cluster, array) == "COMPLETED", 60)
    wait_until(lambda: state(cluster, failing) == "FAILED", 30)
    assert len(list(tmp_path.glob("done-*"))) == 10


def test_a_job_above_its_memory_does_not_survive(cluster: Cluster, tmp_path: Path) -> None:
    eat = f'{sys.executable} -c "import time; x = bytearray(300 << 20); time.sleep(30)"'
    job = submit(cluster, tmp_path, eat, "--mem=100", "--output=/dev/null")
    limited = "task/cgroup" in cluster.slurm_conf.read_text()
    wait_until(lambda: state(cluster, job) == ("OUT_OF_MEMORY" if limited else "FAILED"), 30)


def test_a_requeued_job_starts_again_within_half_a_minute(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(
        cluster, tmp_path, "echo x >> starts; sleep $((60 * (2 - $(wc -l < starts))))", "--mem=50", "--requeue"
    )
    wait_until(lambda: len(lines(tmp_path / "starts")) == 1, 30)
    assert cluster.client("scontrol", "requeue", job).returncode == 0
    wait_until(lambda: len(lines(tmp_path / "starts")) == 2, 30)
    wait_until(lambda: state(cluster, job) == "COMPLETED", 30)


SUBMITIT = """
import os, pathlib, sys, time
import submitit

class Counting:
    def __call__(self, folder, number):
        path = pathlib.Path(folder) / f"count-{number}"
        with open(path, "a") as file:
            file.write("start\\n")
        while number == 0 and path.read_text().count("start") < 2:
            time.sleep(0.1)
        return number * number
    def checkpoint(self, *arguments):
        return submitit.helpers.DelayedSubmission(Counting(), *arguments)

folder = sys.argv[1]
executor = submitit.SlurmExecutor(folder)
executor.update_parameters(time=15, mem="200M", setup=[], stderr_to_stdout=True, array_parallelism=4)
jobs = executor.map_array(Counting(), [folder] * 3, range(3))
while not (pathlib.Path(folder) / "count-0").exists():
    time.sleep(0.1)
jobs[0]._interrupt(timeout=False)
print([job.result() for job in jobs])
"""


def test_submitit_runs_an_array_and_requeues_a_preempted_job(cluster: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUBMITIT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=90)
    assert done.stdout.strip() == "[0, 1, 4]", done.stderr
    assert (tmp_path / "count-0").read_text().count("start") == 2
    assert (tmp_path / "count-1").read_text().count("start") == 1


def test_up_again_revives_only_what_died(cluster: Cluster) -> None:
    before = {daemon.name: daemon.pid for daemon in cluster.daemons()}
    killed = before["slurmd-n2"]
    assert killed is not None
    os.kill(killed, 9)
    wait_until(lambda: cluster.daemon("slurmd-n2").pid is None, 5)
    cluster.up()
    after = {daemon.name: daemon.pid for daemon in cluster.daemons()}
    assert after.pop("slurmd-n2") not in (None, before.pop("slurmd-n2"))
    assert after == before


def test_a_second_cluster_without_accounting_lives_and_ends_beside_the_first(cluster: Cluster, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fvar-loopback-test-"))
    folder.chmod(0o711)  # pytest's own folders are closed to the user munge
    second = Cluster(folder, accounting=False)
    sleeper = ""
    try:
        second.up()
        sleeper = submit(second, tmp_path, "echo $$ > pid; exec sleep 300", "--mem=50")
        wait_until(lambda: lines(tmp_path / "pid"), 30)
    finally:
        second.down()
    assert sleeper.endswith("000")  # its first job
    assert not Path(f"/proc/{lines(tmp_path / 'pid')[0]}").exists()
    assert sorted(path.name for path in second.folder.iterdir()) == [".fvar-loopback", "lock", "log"]
    assert len(cluster.running()) == 6
    shutil.rmtree(folder)


def test_a_stale_pid_file_never_leads_to_a_stranger(cluster: Cluster, tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    other = Cluster(tmp_path / "other", accounting=False)
    (other.folder / "run").mkdir(parents=True)
    other.slurm_conf.touch()
    (other.folder / ".fvar-loopback").touch()
    for daemon in other.daemons():
        (other.folder / "run" / f"{daemon.name}.pid").write_text(f"{stranger.pid}\n")
    assert other.running() == []
    other.down()
    time.sleep(0.2)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_folder_its_daemons_cannot_reach_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="closed to the users munge and mysql"):
        Cluster(tmp_path / "new").up()


def test_a_folder_with_other_things_is_refused_untouched(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        Cluster(tmp_path).up()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
