"""The cluster itself misbehaves: a dead slurmd, a dead node, a controller that is away, preemption, no accounting."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.loopback import Cluster
from slurm.loopback.processes import job_processes
from tests.slurm.driving import QUICK, ToyStudy, lines, wait_until

Toy = Callable[..., ToyStudy]
STEPS = 24
SLOW = {"steps": STEPS, "seconds": 0.5}


@pytest.fixture
def healed(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with its dead daemons revived afterwards."""
    yield cluster
    cluster.up()


def every_step_was_done(study: ToyStudy, repeated: int = 1) -> bool:
    for run in study.runs():
        steps = [int(step) for step in lines(run.path / "steps")]
        assert sorted(set(steps)) == list(range(1, STEPS + 1))
        assert len(steps) <= STEPS + repeated
    return True


def four_at_work(toy: Toy) -> tuple[ToyStudy, subprocess.Popen[str]]:
    """A study all of whose four stages run now, and its driver."""
    study = toy(cells=4, orders={"*": SLOW})
    driver = study.start()
    wait_until(lambda: study.states()["running"] == 4)
    return study, driver


def kill_a_slurmd(study: ToyStudy) -> str:
    """`kill -9` of the slurmd on the node of the first stage; returns the node's name."""
    job = study.job_id(study.first(0))
    node = study.cluster.client("squeue", "--noheader", f"--jobs={job}", "--format=%N").stdout.strip()
    pid = study.cluster.daemon(f"slurmd-{node}").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return node


def test_a_study_goes_on_when_the_controller_is_away_for_20_seconds(toy: Toy, healed: Cluster) -> None:
    study = toy(cells=3, chain=True, orders={"tokenizer": {"steps": 6, "seconds": 0.5}, "tokens": QUICK})
    driver = study.start()
    wait_until(lambda: study.states()["running"] == 3)
    healed.daemon("slurmctld").stop()
    with contextlib.suppress(Exception):
        driver.wait(20)  # the tokenizers end, and tokens are to be submitted, while nobody answers
    assert driver.poll() is None, study.output()
    healed.up()
    assert driver.wait(90) == 0, study.output()
    assert set(study.executions().values()) == {1}


def test_a_killed_slurmd_costs_no_step_and_doubles_none(toy: Toy, healed: Cluster) -> None:
    study, driver = four_at_work(toy)
    kill_a_slurmd(study)
    assert driver.wait(120) == 0, study.output()
    assert every_step_was_done(study)


def test_stages_of_a_dead_node_continue_on_another(toy: Toy, healed: Cluster) -> None:
    study, driver = four_at_work(toy)
    node = kill_a_slurmd(study)
    for sign in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: a dead node does not report the deaths of others
        for process in job_processes(healed.slurm_conf, node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, sign)
    assert driver.wait(150) == 0, study.output()
    assert every_step_was_done(study)
    assert max(study.executions().values()) == 2
    assert study.submitted() == 4  # requeued, not submitted again


def test_preempted_stages_continue_after_the_urgent_job(toy: Toy, cluster: Cluster) -> None:
    study, driver = four_at_work(toy)
    urgent = ("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    assert cluster.client(*urgent).returncode == 0
    assert driver.wait(120) == 0, study.output()
    assert every_step_was_done(study)
    assert max(study.executions().values()) == 2
    assert study.submitted() == 4  # requeued, not submitted again


def test_a_cluster_without_accounting_is_enough(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fvar-loopback-test-"))
    folder.chmod(0o711)  # pytest's own folders are closed to the user munge
    bare = Cluster(folder, accounting=False)
    try:
        bare.up()
        study = ToyStudy(bare, tmp_path / "study", cells=3, chain=True)
        assert study.run(TOY_DIES="1") == -signal.SIGKILL
        assert study.run() == 0, study.output()
        assert set(study.executions().values()) == {1}
    finally:
        bare.down()
        shutil.rmtree(folder)
