"""`status` shows what SLURM does with a job: held, suspended, or not to be asked."""

from __future__ import annotations

from collections.abc import Callable

from tests.slurm.driving import ToyStudy, wait_until

Toy = Callable[..., ToyStudy]


def shown(study: ToyStudy, cell: int) -> str:
    lines = study.command("status", "toy").stdout.splitlines()
    return next(line for line in lines if line.startswith(f"toy/seed{cell}"))


def test_held_and_suspended_jobs_are_not_running(toy: Toy) -> None:
    study = toy(cells=2, orders={"*": {"steps": 40, "seconds": 0.5}})
    driver = study.start("--set", "slurm.array_parallelism=1")
    wait_until(lambda: study.states()["running"] == 1)
    running = next(cell for cell in range(2) if study.first(cell).status.state == "running")
    for verb, cell in (("suspend", running), ("hold", 1 - running)):
        done = study.cluster.client("scontrol", verb, study.job_id(study.first(cell)))
        assert done.returncode == 0, done.stderr
    wait_until(lambda: "SLURM: SUSPENDED" in shown(study, running), 20)
    assert "queued" in shown(study, running)
    assert "SLURM: PENDING, JobHeld" in shown(study, 1 - running)
    driver.kill()


def test_a_silent_cluster_costs_status_a_line(toy: Toy) -> None:
    study = toy(cells=1, orders={"*": {"steps": 20, "seconds": 0.5}})
    assert study.run("--detach") == 0, study.output()
    study.environment["SLURM_CONF"] = "/nowhere/slurm.conf"
    out = study.command("status", "toy").stdout
    assert "SLURM does not answer (SLURM_CONF names /nowhere/slurm.conf, which does not exist)" in out
    assert "toy/seed0" in out
