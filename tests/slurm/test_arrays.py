"""Many stages at once go to the cluster as few arrays, kept below the largest array it takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slurm.loopback.cluster import MAX_ARRAY
from tests.slurm.driving import ToyStudy

STAGES = 305


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hundred_stages_run_once_each_in_two_arrays(toy: Callable[..., ToyStudy]) -> None:
    assert STAGES > MAX_ARRAY
    study = toy(cells=STAGES)
    assert study.run(timeout=1500) == 0, study.output()
    assert study.states() == {"done": STAGES}
    assert set(study.executions().values()) == {1}
    assert study.submitted() == STAGES
    assert len(list(study.results.glob("slurm/fvar-*"))) == 2
