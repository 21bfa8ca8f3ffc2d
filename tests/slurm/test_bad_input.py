"""A mistake is answered by one line that says what to do, with status 2, and nothing is submitted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.driving import ROOT, ToyStudy

Toy = Callable[..., ToyStudy]


def refused(study: ToyStudy, *arguments: str, **environment: str) -> str:
    """Run the driver, which must refuse; returns its one line."""
    assert study.start(*arguments, **environment).wait(120) == 2, study.output()
    assert study.records() == []
    assert len(study.output().splitlines()) == 1, study.output()
    return study.output().strip()


def test_an_unreachable_controller(toy: Toy, tmp_path: Path) -> None:
    study = toy()
    conf = tmp_path / "slurm.conf"
    lines = study.cluster.slurm_conf.read_text().splitlines()
    conf.write_text("\n".join("SlurmctldPort=9" if line.startswith("SlurmctldPort") else line for line in lines))
    line = refused(study, SLURM_CONF=str(conf))
    assert line.startswith("error: cannot reach SLURM (")
    assert "check that squeue works here, or use --cluster local" in line


def test_a_configuration_that_is_not_there(toy: Toy) -> None:
    line = refused(toy(), SLURM_CONF="/nowhere/slurm.conf")
    assert "cannot reach SLURM (SLURM_CONF names /nowhere/slurm.conf, which does not exist)" in line


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("slurm.partition=nowhere", "invalid partition specified: nowhere"),
        ("slurm.partitoin=normal", "(did you mean 'partition'?)"),
        ("slurm.time=soon", "slurm.time 'soon' is not a time"),
        ("slurm.gres=gpu:99", "Requested node configuration is not available"),
        ("slurm.cpus_per_task=0", "slurm.cpus_per_task must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_of_the_profile(toy: Toy, setting: str, told: str) -> None:
    assert told in refused(toy(), "--set", setting)


def test_a_profile_that_does_not_exist(toy: Toy) -> None:
    study = toy()
    study.profile = study.folder / "none.toml"
    assert "cannot be read" in refused(study)


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "toy/../toy"])
def test_a_study_name_with_path_characters(toy: Toy, name: str) -> None:
    study = toy(probed=False)
    command = [sys.executable, "-m", "studies.run", name, "--cluster", "slurm", "--results", str(study.results)]
    done = subprocess.run(command, cwd=ROOT, env=study.environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: unknown study {name!r}")
    assert sorted(path.name for path in study.results.iterdir()) == ["slurm", "toy.json"]
    assert list((study.results / "slurm").iterdir()) == []


def test_a_results_folder_that_the_nodes_do_not_share(toy: Toy) -> None:
    study = toy(cells=1, probed=False)
    # The driver alone sees a file system of its own there; the nodes see what lies below.
    hidden = f"mount -t tmpfs none {study.results / 'slurm'}"
    alone = ("unshare", "--mount", "sh", "-c", f'{hidden} && exec "$0" "$@"')
    assert study.run(prefix=alone) == 2, study.output()
    assert study.records() == []
    asked, line = study.output().splitlines()
    assert "asking a node of the cluster whether it sees" in asked
    assert line.startswith(f"error: the cluster's nodes do not see {study.results / 'slurm'} (job ")
    assert line.endswith("--results must be a folder they share")


def test_nodes_that_share_the_results_folder_are_asked_once(toy: Toy) -> None:
    study = toy(cells=1, probed=False)
    assert study.run() == 0, study.output()
    assert "asking a node" in study.output()
    study.order(**{"*": {"steps": 1, "seconds": 0.0}})
    study.cells = 2
    assert study.run() == 0, study.output()
    assert "asking a node" not in study.output()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--detach", "--cluster", "local"), "--detach leaves the study to SLURM; add --cluster slurm"),
        (("--max-gpu-hours", "-1"), "--max-gpu-hours must not be negative"),
    ],
)
def test_a_wrong_option(toy: Toy, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused(toy(), *arguments)
