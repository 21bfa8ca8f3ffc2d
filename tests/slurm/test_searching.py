"""A search over the cluster: no trial is lost or run twice when drivers die, and pruned trials leave the queue."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

from fvar.rundir import RunDir
from tests.slurm.driving import ToyStudy, lines, wait_until

Toy = Callable[..., ToyStudy]
MEASURED = {"steps": 2, "seconds": 0.1, "measured": True}


def trials(study: ToyStudy) -> list[dict[str, Any]]:
    """What search.json says."""
    (file,) = study.results.glob("toy_search/*/search.json")
    found: list[dict[str, Any]] = json.loads(file.read_text())["trials"]
    return found


def queued(study: ToyStudy, run: RunDir) -> bool:
    """Whether squeue lists the job of a stage."""
    listed = study.cluster.client("squeue", "--noheader", "--array", "--format=%i").stdout.split()
    return study.job_id(run) in listed


def test_a_search_of_32_trials_survives_five_kills_of_its_driver(toy: Toy) -> None:
    study = toy(study="toy_search", cells=1, orders={"*": MEASURED})
    asked = ("--trials", "32", "--parallel", "4")
    moments = random.Random(0)
    for number in range(5):
        before = study.states()["done"]
        driver = study.start(*asked, **({"TOY_DIES": "1"} if number == 3 else {}))
        with contextlib.suppress(AssertionError):  # killed at work, not while it starts
            wait_until(lambda before=before: study.states()["done"] > before + 2, timeout=60)  # type: ignore[misc]
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(moments.uniform(0.0, 2.0))
        driver.kill()
        driver.wait()
    assert study.run(*asked, timeout=600) == 0, study.output()
    told = trials(study)
    assert [trial["number"] for trial in told] == list(range(32))
    assert Counter(trial["state"] for trial in told) == {"done": 32}
    assert study.states() == {"done": 64}
    assert set(study.executions().values()) == {1}
    best = min(told, key=lambda trial: trial["values"])
    assert abs(best["params"]["lambda_feat"] - 2) < 0.3


def test_a_pruned_trial_s_job_is_cancelled_and_not_started_again(toy: Toy) -> None:
    study = toy(study="toy_search", cells=1, orders={"*": MEASURED, "var": {**MEASURED, "steps": 40, "seconds": 0.2}})
    driver = study.start("--trials", "12", "--parallel", "4", "--pruner", "median", "--sampler", "random")

    def given_up() -> list[RunDir]:
        ended = [run for run in study.runs() if run.kind == "var" and (run.path / "job.json").exists()]
        return [run for run in ended if json.loads((run.path / "job.json").read_text())["ended"] == "pruned"]

    wait_until(given_up, timeout=400, what="no trial was pruned")
    (run, *_) = given_up()
    wait_until(lambda: not queued(study, run), timeout=30, what="a pruned job is still in squeue")
    assert driver.wait(600) == 0, study.output()
    told = Counter(trial["state"] for trial in trials(study))
    assert told["pruned"] >= 1
    assert told["pruned"] + told["done"] == 12
    for run in given_up():
        assert run.status.state != "done"
        assert len(lines(run.path / "steps")) < 40
        assert len(lines(run.path / "executions")) == 1
    shown = study.command("status", "toy_search").stdout
    assert shown.count("pruned") >= told["pruned"]
    assert f"{told['pruned']} pruned" in study.output()


def test_a_trial_whose_job_ran_out_of_memory_is_tried_once_more(toy: Toy) -> None:
    study = toy(
        study="toy_search",
        cells=1,
        orders={"*": MEASURED, "var": [{"steps": 1, "seconds": 0.0, "then": "eat memory"}, MEASURED]},
    )
    assert study.run("--trials", "1", timeout=300) == 0, study.output()
    first, second = trials(study)
    assert (first["state"], second["state"]) == ("failed", "done")
    assert second["again_of"] == 0
    assert second["params"] == first["params"]
