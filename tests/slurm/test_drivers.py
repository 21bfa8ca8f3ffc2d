"""Drivers that die, and drivers that meet: no job is submitted twice, and none is lost."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
from collections.abc import Callable

from tests.slurm.driving import ROOT, ToyStudy, lines, wait_until

Toy = Callable[..., ToyStudy]


def everything_ran_once(study: ToyStudy, stages: int) -> bool:
    assert study.states() == {"done": stages}
    assert set(study.executions().values()) == {1}
    assert study.submitted() == stages
    return True


def test_a_study_of_chained_stages_runs_to_its_end(toy: Toy) -> None:
    study = toy(cells=4, chain=True)
    assert study.run() == 0, study.output()
    assert "4 of 4 cells done" in study.output()
    assert everything_ran_once(study, stages=8)


def test_jobs_run_a_copy_of_the_code_that_later_edits_do_not_reach(toy: Toy) -> None:
    study = toy(cells=1)
    assert study.run() == 0, study.output()
    (code,) = study.results.glob("slurm/code/*")
    assert lines(study.first(0).path / "code") == [str(code / "fvar" / "__init__.py")]
    assert (code / "studies" / "run.py").read_bytes() == (ROOT / "studies" / "run.py").read_bytes()


def test_a_finished_study_submits_nothing_when_repeated(toy: Toy) -> None:
    study = toy(cells=2)
    assert study.run() == 0, study.output()
    assert study.run() == 0, study.output()
    assert everything_ran_once(study, stages=2)


def test_jobs_of_a_driver_killed_between_sbatch_and_its_bookkeeping_are_found_again(toy: Toy) -> None:
    study = toy(cells=5)
    assert study.run(TOY_DIES="1") == -signal.SIGKILL
    assert [record["job_id"] for record in study.records()] == [""] * 5
    assert study.run() == 0, study.output()
    assert everything_ran_once(study, stages=5)


def test_a_single_job_of_a_driver_killed_before_its_bookkeeping_is_found_again(toy: Toy) -> None:
    study = toy(cells=1)
    assert study.run(TOY_DIES="1") == -signal.SIGKILL
    assert study.run() == 0, study.output()
    assert everything_ran_once(study, stages=1)


def test_a_driver_killed_at_ten_random_moments_neither_loses_nor_doubles_a_job(toy: Toy) -> None:
    study = toy(cells=6, chain=True, orders={"*": {"steps": 4, "seconds": 0.5}})
    moments = random.Random(0)
    for number in range(10):
        driver = study.start(**({"TOY_DIES": "1"} if number % 3 == 0 else {}))
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(moments.uniform(0.5, 3.5))
        driver.kill()
        driver.wait()
    assert study.run() == 0, study.output()
    assert everything_ran_once(study, stages=12)


def test_a_second_driver_of_the_same_study_refuses(toy: Toy) -> None:
    study = toy(cells=2, orders={"*": {"steps": 30, "seconds": 0.5}})  # longer than a driver takes to start
    first = study.start()
    wait_until(lambda: study.states()["running"] == 2)
    assert study.run() == 2
    assert f"is being driven by process {first.pid}" in study.output()
    assert len(study.output().splitlines()) == 1
    assert first.wait(60) == 0, study.output(0)
    assert everything_ran_once(study, stages=2)


def test_two_studies_that_share_their_stages_run_each_once(toy: Toy) -> None:
    study = toy(cells=4, chain=True, orders={"*": {"steps": 2, "seconds": 0.5}})
    one, other = study.start("--preset", "smoke"), study.start("--preset", "small")
    assert (one.wait(90), other.wait(90)) == (0, 0), study.output(0) + study.output(1)
    assert everything_ran_once(study, stages=8)


def test_nothing_of_a_surrounding_job_reaches_the_stages_but_the_name_of_the_cluster(toy: Toy) -> None:
    study = toy(cells=2, chain=True)
    surrounding = {
        "SLURM_JOB_ID": "987654", "SLURM_NTASKS": "16", "SLURM_MEM_PER_NODE": "900000", "SLURM_PROCID": "3",
        "SBATCH_PARTITION": "nowhere", "SBATCH_ARRAY_INX": "0-9", "SQUEUE_USERS": "nobody", "SQUEUE_STATES": "RUNNING",
    }  # fmt: skip
    assert study.start(**surrounding).wait(120) == 0, study.output()
    assert everything_ran_once(study, stages=4)
    assert "987654" not in lines(study.first(0).path / "executions")


def test_ctrl_c_leaves_the_jobs_to_the_cluster(toy: Toy) -> None:
    study = toy(cells=2, orders={"*": {"steps": 4, "seconds": 0.5}})
    driver = study.start()
    wait_until(lambda: study.states()["running"] == 2)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 130
    assert "2 jobs go on in SLURM" in study.output()
    wait_until(lambda: study.states()["done"] == 2)
    assert study.run() == 0, study.output()
    assert everything_ran_once(study, stages=2)
