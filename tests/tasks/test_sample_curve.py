"""The convergence figure's points: FID and KID of samples, drawn and scored beside the training."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fvar.config import CurveConfig, DataConfig, SamplesConfig, ScoresConfig, Stage
from fvar.metrics import features
from fvar.run import execute
from fvar.rundir import RunDir
from fvar.stages.var import build_task
from fvar.training.probes import Cancelled
from tests.training import tiny
from tests.training.processes import records

COUNT = 24
SAMPLES = SamplesConfig(count=COUNT, batch_size=10, precision="fp32", seed=3)
SCORES = ScoresConfig(reference=DataConfig(dataset="emoji", image_size=8), reference_count=30, batch_size=16)
CURVE = CurveConfig(every=10, samples=SAMPLES, scores=SCORES)


class Quarters(nn.Module):
    """Colours of the four quarters, in place of Inception. Draws numbers when it is built, as real networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 1)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


@pytest.fixture(autouse=True)
def quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        features.EXTRACTORS,
        "inception-torchscript",
        lambda weights: features.Extractor("inception-torchscript", Quarters(), 12, None, "no classifier"),
    )


def stage(curve: CurveConfig) -> Stage:
    train = dataclasses.replace(tiny.TRAIN, steps=20)
    return tiny.var_stage(tiny.TEACHER, train=train, curve=curve)


def test_points_are_the_scores_of_the_stages_and_leave_the_training_alone(tmp_path: Path) -> None:
    run = tiny.make_run(tmp_path / "runs", stage(CURVE))
    without = tiny.make_run(tmp_path / "runs", stage(CurveConfig()))
    for each in (run, without):
        execute(each.path)
    assert [record for record in records(run.path) if record["split"] != "sampled"] == records(without.path)

    points = {record["step"]: record for record in run.metrics("sampled")}
    assert list(points) == [10, 20]
    scores = RunDir.create(
        tmp_path / "runs", Stage(SCORES, {"samples": Stage(SAMPLES, {"var": stage(CURVE)})}), run.runtime
    )
    execute(scores.input("samples").path)
    execute(scores.path)
    body = json.loads((scores.path / "scores.json").read_text())
    for key in ("fid", "kid"):
        assert points[20][f"{key}_{COUNT}"] == pytest.approx(body[key]["value"], rel=1e-6)
        assert points[10][f"{key}_{COUNT}"] != points[20][f"{key}_{COUNT}"]


def test_measuring_draws_no_number_that_the_training_would_draw(tmp_path: Path) -> None:
    task = build_task(tiny.make_run(tmp_path / "runs", stage(CURVE)))
    assert task.probe is not None
    measure = task.probe.open()
    before = torch.get_rng_state()
    measure(task.student.state_dict(), threading.Event())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_measurement_ends_when_the_training_does(tmp_path: Path) -> None:
    task = build_task(tiny.make_run(tmp_path / "runs", stage(CURVE)))
    assert task.probe is not None
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(Cancelled):
        task.probe.open()(task.student.state_dict(), stopping)


def test_it_is_off_by_default(tmp_path: Path) -> None:
    assert build_task(tiny.make_run(tmp_path, tiny.var_stage())).probe is None
