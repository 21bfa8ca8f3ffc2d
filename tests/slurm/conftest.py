"""One loopback cluster for all tests of this folder, or one for each of pytest's workers.

It is left running if it ran before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.loopback import Cluster, default_folder, packages
from tests.slurm.driving import ToyStudy


def why_not() -> str:
    """What keeps a cluster from running here; empty if nothing does."""
    if os.geteuid() != 0:
        return "needs root, since slurmd starts jobs as their owners"
    missing = packages.missing(accounting=True)
    if missing and packages.program("apt-get") is None:
        return f"needs {', '.join(missing)}, and there is no apt-get to install them"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason and "CI" not in os.environ:
        pytest.skip(f"NO SLURM TEST RAN: the loopback cluster {reason}")
    folder, worker = default_folder(), os.environ.get("PYTEST_XDIST_WORKER", "")
    one = Cluster(folder.with_name(f"{folder.name}-{worker}") if worker else folder)
    was_running = bool(one.running())
    one.up()
    yield one
    if not was_running:
        one.down()


@pytest.fixture
def toy(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., ToyStudy]]:
    """Makes studies of toy stages; what their drivers and jobs leave behind is stopped."""
    made: list[ToyStudy] = []

    def make(folder: str = "study", **settings: object) -> ToyStudy:
        made.append(ToyStudy(cluster, tmp_path / folder, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for study in made:
        study.stop()
