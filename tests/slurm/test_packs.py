"""Several stages in one job: each once, whatever becomes of the job, of the others in it, or of the driver."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from fvar.rundir import RunDir
from fvar.usage import gpu_hours
from tests.slurm.drive import first_stage
from tests.slurm.driving import QUICK, ToyStudy, wait_until

PACKED = ("--set", "slurm.packing=4", "--set", "slurm.gather=0")


def steps(run: RunDir) -> list[str]:
    path = run.path / "steps"
    return path.read_text().split() if path.exists() else []


def begun(study: ToyStudy) -> list[RunDir]:
    return [run for run in study.runs() if run.status.state == "running"]


def test_ten_stages_in_three_jobs_run_once_each(toy: Callable[..., ToyStudy]) -> None:
    study = toy(cells=10)
    assert study.run(*PACKED, "--set", "slurm.side_by_side=2", "--set", "slurm.gres=gpu:2", timeout=300) == 0, (
        study.output()
    )
    assert study.states() == {"done": 10}
    assert set(study.executions().values()) == {1}
    assert study.submitted() == 3
    assert all(gpu_hours([run.path]) > 0 for run in study.runs())


def test_a_requeued_job_goes_on_with_what_is_left(toy: Callable[..., ToyStudy]) -> None:
    study = toy(cells=3, orders={"*": {"steps": 8, "seconds": 0.3, "then": "listen"}})
    driver = study.start(*PACKED)
    wait_until(lambda: study.states()["done"] == 1 and any(run.status.step >= 2 for run in begun(study)), 200)
    (job,) = {study.job_id(run) for run in study.runs()}
    assert study.cluster.client("scancel", "--signal=USR2", job).returncode == 0
    assert driver.wait(300) == 0, study.output()
    assert study.states() == {"done": 3}
    assert study.submitted() == 1
    assert sorted(study.executions().values()) == [1, 1, 2]  # only the one at work was begun again
    assert all(steps(run) == [str(step + 1) for step in range(8)] for run in study.runs())


def test_a_job_killed_in_the_middle_loses_nothing(toy: Callable[..., ToyStudy]) -> None:
    study = toy(cells=4, orders={"*": {"steps": 12, "seconds": 0.3}})
    driver = study.start(*PACKED)
    wait_until(lambda: study.states()["done"] == 1 and any(run.status.step == 2 for run in begun(study)), 200)
    (at_work,) = begun(study)
    pack = int(parent(at_work.status.pid))
    os.kill(pack, signal.SIGKILL)
    assert driver.wait(300) == 0, study.output()
    assert study.states() == {"done": 4}
    assert sorted(study.executions().values()) == [1, 1, 1, 2]
    assert all(steps(run) == [str(step + 1) for step in range(12)] for run in study.runs())


def test_a_stage_that_kills_its_job_every_time_costs_the_others_nothing(toy: Callable[..., ToyStudy]) -> None:
    culprit = first_stage(0).name
    study = toy(cells=4, orders={culprit: {**QUICK, "then": "die"}})
    assert study.run(*PACKED, timeout=300) == 1, study.output()
    assert study.states() == {"done": 3, "failed": 1}
    assert study.executions()[culprit] == 3
    assert sorted(study.executions().values()) == [1, 1, 1, 3]


def test_scancel_cancels_what_has_not_ended(toy: Callable[..., ToyStudy]) -> None:
    study = toy(cells=3, orders={"*": {"steps": 8, "seconds": 0.3}})
    driver = study.start(*PACKED)
    wait_until(lambda: study.states()["done"] == 1 and begun(study), 200)
    study.cluster.client("scancel", study.job_id(study.runs()[0]))
    assert driver.wait(300) == 1, study.output()
    assert study.states() == {"done": 1, "cancelled": 2}


def test_one_cell_can_be_cancelled_and_the_others_of_its_job_end(toy: Callable[..., ToyStudy]) -> None:
    study = toy(cells=3, orders={"*": {"steps": 20, "seconds": 0.3, "then": "listen"}})
    driver = study.start(*PACKED, "--set", "slurm.side_by_side=2")
    wait_until(lambda: len(begun(study)) == 2 and all(run.status.step for run in begun(study)), 200)
    done = study.command("cancel", "toy", "toy/seed1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert study.first(1).status.state == "cancelled"
    assert driver.wait(300) == 1, study.output()
    assert study.states() == {"done": 2, "cancelled": 1}
    assert study.submitted() == 1


def test_a_stage_that_hangs_is_ended_alone(toy: Callable[..., ToyStudy]) -> None:
    good: dict[str, Any] = {"steps": 16, "seconds": 0.4, "then": "listen"}
    hangs = [{**good, "hang": 4}, {"steps": 16, "seconds": 0.0}]
    study = toy(cells=3, orders={"*": good, first_stage(0).name: hangs})
    arguments = (*PACKED, "--set", "slurm.side_by_side=2", "--hang", "4", "--hang-minutes", "0.2")
    assert study.run(*arguments, timeout=300) == 0, study.output()
    assert "again, since it hung at step 4" in study.output()
    assert sorted(study.executions().values()) == [1, 1, 2]
    assert study.submitted() == 2


def parent(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[1]
