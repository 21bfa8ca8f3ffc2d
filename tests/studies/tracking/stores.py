"""What MLflow's own client finds in a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.results import StudyResults
from studies.database import address
from studies.tracking import local

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


def reread(study: StudyResults) -> StudyResults:
    return StudyResults.read(study.folder.parent.parent, study.study, study.preset)


def client(results: Path) -> MlflowClient:
    """MLflow's own."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(address(results / local.DATABASE))


def runs(mlflow: MlflowClient, experiment: str = "ablation_table2/smoke") -> dict[str, Run]:
    """The runs of an experiment by name."""
    known = mlflow.get_experiment_by_name(experiment)
    assert known is not None
    found = mlflow.search_runs([known.experiment_id])
    names = [run.info.run_name for run in found]
    assert len(names) == len(set(names)), f"something has two runs: {names}"
    return dict(zip(names, found, strict=True))


def history(mlflow: MlflowClient, run: Run, key: str) -> list[tuple[int, float]]:
    """Steps and values of a metric."""
    return sorted((metric.step, metric.value) for metric in mlflow.get_metric_history(run.info.run_id, key))
