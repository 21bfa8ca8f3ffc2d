"""A store, and a study to write into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.results import StudyResults
from studies.tracking import local
from tests import fakes


@pytest.fixture
def results(tmp_path: Path, blank: bytes) -> Path:
    (tmp_path / local.DATABASE).write_bytes(blank)
    return tmp_path


@pytest.fixture
def study(results: Path) -> StudyResults:
    """Two variants, one seed; the second is unfinished."""
    stages = {variant: fakes.chain(variant, 0) for variant in ("full", "baseline")}
    fakes.finish(results, stages["full"], 0.5, 0)
    return fakes.write_cells(results, "ablation_table2", [fakes.cell(name, 0, stage) for name, stage in stages.items()])
