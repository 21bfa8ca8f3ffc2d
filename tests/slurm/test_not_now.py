"""A driver waits where an operator would: limits, partitions that are down, full disks, clients that say nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fvar.job import JobRecord
from slurm.loopback import Cluster
from tests.slurm.drive import first_stage
from tests.slurm.driving import QUICK, ROOT, ToyStudy, wait_until

Toy = Callable[..., ToyStudy]
LIMIT = 10
STAGES = 24


def every_stage_ran_once(study: ToyStudy, stages: int) -> bool:
    assert study.states() == {"done": stages}
    assert set(study.executions().values()) == {1}
    return True


@pytest.fixture(params=["association", "quality of service"])
def limited(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The cluster, where nobody may have more than 10 jobs."""
    what, field = {
        "association": (("user", "root"), "MaxSubmitJobs"),
        "quality of service": (("qos", "normal"), "MaxSubmitJobsPerUser"),
    }[request.param]

    def limit(jobs: int) -> None:
        done = cluster.client("sacctmgr", "--immediate", "modify", *what, "set", f"{field}={jobs}")
        assert done.returncode == 0, done.stderr

    limit(LIMIT)
    try:
        yield cluster
    finally:
        limit(-1)


def test_of_more_stages_than_a_user_may_have_jobs_what_fits_is_submitted_and_the_rest_later(
    toy: Toy, limited: Cluster
) -> None:
    study = toy(cells=STAGES, orders={"*": {"steps": 4, "seconds": 0.5}})
    assert study.run(timeout=200) == 0, study.output()
    assert every_stage_ran_once(study, STAGES)
    assert study.submitted() == STAGES
    assert "not now: sbatch refuses tokenizer stages for now (" in study.output()


def test_a_detached_study_waits_until_everything_is_queued(toy: Toy, limited: Cluster) -> None:
    study = toy(cells=7, chain=True)
    assert study.run("--detach", timeout=200) == 0, study.output()
    wait_until(lambda: study.states() == {"done": 14})
    assert every_stage_ran_once(study, 14)
    assert study.submitted() == 14


@pytest.mark.parametrize("state", ["INACTIVE", "DRAIN"])
def test_a_partition_that_goes_down_in_mid_study_is_waited_for(toy: Toy, cluster: Cluster, state: str) -> None:
    study = toy(cells=2, chain=True, orders={"tokenizer": {"steps": 6, "seconds": 0.5}, "tokens": QUICK})
    driver = study.start()
    wait_until(lambda: study.states()["running"] == 2)
    try:
        assert cluster.client("scontrol", "update", "PartitionName=normal", f"State={state}").returncode == 0
        wait_until(lambda: "not now: sbatch refuses tokens stages for now (" in study.output(), 60, study.output())
        assert driver.poll() is None
    finally:
        cluster.client("scontrol", "update", "PartitionName=normal", "State=UP")
    assert driver.wait(300) == 0, study.output()
    assert every_stage_ran_once(study, 4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 MiB and 2,000 inodes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,nr_inodes=2000", "none", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(folder: Path, what: str) -> None:
    """Write files until there is no room for one more."""
    folder.mkdir()
    with contextlib.suppress(OSError):
        for number in range(10_000):
            (folder / str(number)).write_bytes(b"\0" * (1 << 20) if what == "bytes" else b"")
        raise AssertionError("this disk has no end")


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_full_disk_is_waited_for(cluster: Cluster, small_disk: Path, what: str) -> None:
    study = ToyStudy(cluster, small_disk / "study", cells=3, chain=True, orders={"*": {"steps": 4, "seconds": 0.5}})
    try:
        driver = study.start()
        wait_until(lambda: study.states()["running"] == 3, what=study.output())
        fill(small_disk / "full", what)
        time.sleep(6)
        assert driver.poll() is None, study.output()
        shutil.rmtree(small_disk / "full")
        assert driver.wait(150) == 0, study.output()
        assert study.states() == {"done": 6}
        assert "Traceback" not in study.output()
    finally:
        study.stop()


def clients(folder: Path, **scripts: str) -> str:
    """A PATH on which these client programs are shell scripts; REAL is the one they stand in for."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\nREAL={shutil.which(name)}\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_disk_that_fails_a_stage_is_waited_for_as_often_as_it_does(toy: Toy) -> None:
    fails = {**QUICK, "then": "no space"}
    study = toy(cells=2, orders={first_stage(0).name: [fails, fails, fails, fails, QUICK]})
    assert study.run(timeout=400) == 0, study.output()
    assert study.states() == {"done": 2}
    assert sorted(study.executions().values()) == [1, 5]
    assert f"not now: {first_stage(0).name}: the disk is full (model); it is started again by itself" in study.output()


def test_stages_of_a_kind_can_run_on_this_machine_and_the_rest_in_slurm(toy: Toy) -> None:
    study = toy(cells=3, chain=True)
    here = f"{ROOT / 'tests' / 'studies' / 'toy'}:{ROOT}"
    assert study.run("--set", "slurm.tokens.cluster=local", "--jobs", "1", timeout=400, PYTHONPATH=here) == 0
    assert study.states() == {"done": 6}
    assert Counter((run.kind, JobRecord.read(run).cluster) for run in study.runs()) == {  # type: ignore[union-attr]
        ("tokenizer", "slurm"): 3,
        ("tokens", "local"): 3,
    }
    assert study.submitted() == 3


def test_greetings_of_the_clients_are_passed_over(toy: Toy, tmp_path: Path) -> None:
    study = toy(cells=3, chain=True)
    noisy = (
        'echo "CLUSTER: x"\necho "Your last job 12 waited 3 hours"\n"$REAL" "$@"\nrc=$?\necho "500_0|FAILED"\nexit $rc'
    )
    path = clients(tmp_path / "bin", sbatch=noisy, squeue=noisy, sacct=noisy)
    assert study.run(PATH=path) == 0, study.output()
    assert every_stage_ran_once(study, 6)
    assert study.submitted() == 6


def test_an_sbatch_whose_answer_cannot_be_read_may_have_come_through(toy: Toy, tmp_path: Path) -> None:
    study = toy(cells=3, chain=True)
    path = clients(tmp_path / "bin", sbatch='"$REAL" "$@" >/dev/null\necho "Your last job 12 waited 3 hours"')
    assert study.run(PATH=path) == 0, study.output()
    assert every_stage_ran_once(study, 6)
    assert study.submitted() == 6


def test_rows_without_a_state_are_asked_for_again(toy: Toy, tmp_path: Path) -> None:
    study = toy(cells=2)
    blank = (
        'if [ -e "$0.done" ]; then exec "$REAL" "$@"; fi\n"$REAL" "$@" | sed "s/|[A-Z]*|fvar/||fvar/"\ntouch "$0.done"'
    )
    path = clients(tmp_path / "bin", squeue=blank, sacct=blank)
    assert study.run(PATH=path) == 0, study.output()
    assert every_stage_ran_once(study, 2)
    assert study.submitted() == 2


def test_array_parallelism_holds_over_all_waves(toy: Toy) -> None:
    study = toy(cells=5, chain=True, orders={"*": {"steps": 4, "seconds": 0.5}})
    assert study.run("--set", "slurm.array_parallelism=2", timeout=400) == 0, study.output()
    assert every_stage_ran_once(study, 10)
    assert study.most_at_once() == 2


def test_array_parallelism_holds_in_a_detached_study(toy: Toy) -> None:
    study = toy(cells=4, chain=True, orders={"*": {"steps": 4, "seconds": 0.5}})
    assert study.run("--detach", "--set", "slurm.array_parallelism=2") == 0, study.output()
    wait_until(lambda: study.states()["done"] == 8, 400)
    assert every_stage_ran_once(study, 8)
    assert study.most_at_once() <= 2


def test_results_finished_on_slurm_are_continued_where_there_is_none(toy: Toy, tmp_path: Path) -> None:
    study = toy(cells=2, chain=True)
    assert study.run() == 0, study.output()
    for cluster in ("inline", "local"):
        assert study.run("--cluster", cluster, SLURM_CONF="/nowhere/slurm.conf") == 0, study.output()
        assert "2 of 2 cells done" in study.output()
    assert every_stage_ran_once(study, 4)


def test_a_stage_whose_cluster_cannot_be_asked_here_is_blocked_and_says_why(toy: Toy) -> None:
    study = toy(cells=1, chain=True, orders={"*": {"steps": 20, "seconds": 0.5}})
    assert study.run("--detach") == 0, study.output()
    assert study.run("--cluster", "inline", SLURM_CONF="/nowhere/slurm.conf") == 1
    assert "its job was given to SLURM, which cannot be asked here (SLURM_CONF names /nowhere" in study.output()
