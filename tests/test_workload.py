"""The work of stages that train nothing, against counts of what they compute."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fvar.config import DataConfig, SamplesConfig, ScoresConfig, Stage, TokensConfig, VarConfig
from fvar.data import open_dataset
from fvar.estimate import estimate
from fvar.workload import IMAGES, INCEPTION, flops, images
from studies.presets import preset
from studies.variants import chain


def stages(size: str = "smoke") -> dict[str, Stage]:
    return {stage.kind: stage for stage in chain(preset(size), "full", 0).chain()}


@pytest.mark.parametrize("dataset", ["emoji", "text"])
def test_the_images_of_embedded_data_are_counted_right(dataset: str) -> None:
    data = DataConfig(dataset=dataset, image_size=64)  # type: ignore[arg-type]
    assert IMAGES[dataset] == len(open_dataset(data, "train", 1)) + len(open_dataset(data, "heldout", 1))


def test_a_folder_counts_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "train" / "cat" / f"{number}.png").touch()
    assert images(DataConfig(dataset="folder", root=str(tmp_path))) == 3


def test_every_kind_of_stage_costs_something() -> None:
    assert all(flops(stage) > 0 for size in ("smoke", "paper") for stage in chain(preset(size), "full", 0).chain())


def test_sampling_computes_every_image_twice_under_guidance_and_once_without() -> None:
    stage = stages()["samples"]
    assert isinstance(stage.config, SamplesConfig)
    plain = Stage(dataclasses.replace(stage.config, guidance=0.0), stage.inputs)
    var, count = stage.inputs["var"], stage.config.count
    (student,) = (part.forward for part in estimate(var).parts if part.name == "student")
    assert flops(stage) - flops(plain) == pytest.approx(count * student)
    double = Stage(dataclasses.replace(stage.config, count=2 * count), stage.inputs)
    assert flops(double) == pytest.approx(2 * flops(stage))


def test_tokens_code_every_image_of_every_crop() -> None:
    stage = stages()["tokens"]
    assert isinstance(stage.config, TokensConfig)
    crops = dataclasses.replace(stage.config, data=dataclasses.replace(stage.config.data, crops=10))
    assert flops(Stage(crops, stage.inputs)) == pytest.approx(10 * flops(stage))
    tokenizer = estimate(stage.inputs["tokenizer"])
    per_image = flops(stage) / images(stage.config.data)
    assert per_image < sum(part.forward for part in tokenizer.parts)  # the decoder rests


def test_scoring_reads_as_many_images_as_were_sampled() -> None:
    stage = stages()["scores"]
    assert isinstance(stage.config, ScoresConfig)
    samples = stage.inputs["samples"].config
    assert isinstance(samples, SamplesConfig)
    assert flops(stage) == samples.count * INCEPTION


def test_a_curve_costs_its_points() -> None:
    stage = stages()["var"]
    assert isinstance(stage.config, VarConfig)
    every = stage.config.train.steps // 4
    curve = dataclasses.replace(stage.config.curve, every=every)
    measured = Stage(dataclasses.replace(stage.config, curve=curve), stage.inputs)
    point = flops(Stage(curve.samples, {"var": stage})) + INCEPTION * curve.samples.count
    assert flops(measured) - flops(stage) == pytest.approx(4 * point)


def test_timing_costs_what_sampling_as_many_images_would() -> None:
    row = preset("smoke")
    timed = row.speed(row.transformer.depth, 0)
    count = (timed.warmup + timed.rounds) * sum(timed.batches)
    var = chain(row, "baseline", 0).inputs["samples"].inputs["var"]
    assert timed.guidance == row.sampling.guidance
    own = flops(Stage(dataclasses.replace(timed, mixers=("var",))))
    assert own == pytest.approx(flops(Stage(SamplesConfig(count), {"var": var})))
    assert flops(Stage(timed)) > 2 * own  # M-VAR has more to do
