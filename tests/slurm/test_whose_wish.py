"""A job that ends early by the user's wish stays ended; one that the cluster ended is a loss, and begins again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.loopback import Cluster
from slurm.loopback.processes import job_processes
from tests.slurm.driving import QUICK, ToyStudy, wait_until
from tests.slurm.test_not_now import clients

Toy = Callable[..., ToyStudy]
SLOW = {"steps": 20, "seconds": 0.5}


def jobs_of(study: ToyStudy) -> list[str]:
    return [study.job_id(run) for run in study.runs() if run.kind == "tokenizer"]


@pytest.fixture
def operator(cluster: Cluster) -> Iterator[Callable[..., None]]:
    """Runs a SLURM command as another user, who may operate the cluster."""
    added = cluster.client(
        "sacctmgr", "--immediate", "add", "user", "nobody", "account=root", "adminlevel=Operator"
    )  # fmt: skip
    assert added.returncode == 0, added.stderr

    def act(*command: str) -> None:
        done = subprocess.run(command, env=cluster.environment, user="nobody", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    yield act
    cluster.client("sacctmgr", "--immediate", "delete", "user", "nobody")


def test_a_job_cancelled_by_an_administrator_is_a_loss(toy: Toy, operator: Callable[..., None]) -> None:
    study = toy(cells=2, chain=True, orders={"tokenizer": [SLOW, QUICK]})
    driver = study.start()
    wait_until(lambda: study.states()["running"] == 2)
    operator("scancel", *jobs_of(study))
    assert driver.wait(90) == 0, study.output()
    assert study.states() == {"done": 4}
    assert "again, since its job was cancelled by nobody, not by you" in study.output()


def test_a_pending_array_that_its_user_cancelled_stays_cancelled_as_a_whole(toy: Toy, tmp_path: Path) -> None:
    study = toy(cells=6)
    forgetful = clients(tmp_path / "bin", squeue='"$REAL" "$@" | grep -v CANCELLED || true')
    driver = study.start("--set", 'slurm.constraint=""', "--set", "slurm.array_parallelism=6", PATH=forgetful)
    wait_until(lambda: len([record for record in study.records() if record["job_id"]]) == 6, 60, study.output())
    array = jobs_of(study)[0].partition("_")[0]
    study.cluster.client("scancel", array)
    driver.wait(90)
    assert study.states()["waiting"] == 0
    finished = study.states()["done"]  # those that were faster
    assert study.states() == {"cancelled": 6 - finished, **({"done": finished} if finished else {})}
    assert study.submitted() == 6


def test_jobs_of_a_controller_that_lost_its_state_begin_again(toy: Toy, cluster: Cluster) -> None:
    study = toy(cells=4, orders={"*": [SLOW, QUICK]})
    driver = study.start()
    wait_until(lambda: study.states()["running"] == 4)
    cluster.daemon("slurmctld").stop()
    shutil.rmtree(cluster.folder / "state")
    (cluster.folder / "state").mkdir()
    cluster.up()
    assert driver.wait(200) == 0, study.output()
    assert study.states() == {"done": 4}
    assert "cancelled" not in study.states()


def test_a_rank_that_is_killed_is_a_loss_and_not_the_end_of_its_stage(toy: Toy, cluster: Cluster) -> None:
    study = toy(cells=1, real=True)
    settings = ("nodes=2", "slurm.nodes=2"), ("steps", "tokenizer.train.steps=60"), ("threads", "runtime.threads=1")
    arguments = [word for _, setting in settings for word in ("--set", setting)]
    driver = study.start(*arguments, "--set", "runtime.checkpoint_steps=5")
    wait_until(lambda: study.runs() and study.runs()[0].status.step >= 5, 150)
    for pid in job_processes(cluster.slurm_conf):
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if b"SLURM_PROCID=1" in environment and b"SLURM_NTASKS=2" in environment:
                os.kill(pid, signal.SIGKILL)
    assert driver.wait(200) == 0, study.output()
    (run,) = study.runs()
    assert (run.status.state, run.status.attempts) == ("done", 2)
