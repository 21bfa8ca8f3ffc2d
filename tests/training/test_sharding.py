"""Weights sharded over two ranks (FSDP2) train as whole ones, and their checkpoints are interchangeable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fvar.config import DistillConfig, Stage, TeacherConfig, TransformerConfig
from fvar.run import execute
from fvar.rundir import RunDir
from tests.training import tiny
from tests.training.processes import execute_stage, records, run_ranks, sigterm

SIGTERM_EXIT = 75
NETWORK = TransformerConfig(depth=2, width=32, heads=2, drop_path=0.3, label_drop=0.2)
TRAIN = dataclasses.replace(tiny.TRAIN, steps=20, eval_every=10, ema=0.9)


def stage(
    teacher: TeacherConfig | None = tiny.TEACHER, distill: DistillConfig | None = None, checkpointing: bool = False
) -> Stage:
    network = dataclasses.replace(NETWORK, checkpointing=checkpointing)
    return tiny.var_stage(teacher, transformer=network, distill=distill or DistillConfig(), train=TRAIN)


def make_run(root: Path, parallel: str) -> RunDir:
    return tiny.make_run(root, stage(), parallel=parallel, checkpoint_steps=5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The same training on one rank."""
    run = make_run(tmp_path_factory.mktemp("alone"), "ddp")
    execute(run.path)
    return run


def assert_same_training(run: RunDir, other: RunDir) -> None:
    ours, theirs = records(run.path), records(other.path)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.pop("split") == b.pop("split")
        assert a == {key: pytest.approx(value, abs=1e-5) for key, value in b.items()}
    assert sorted(path.name for path in run.path.glob("*.safetensors")) == sorted(
        path.name for path in other.path.glob("*.safetensors")
    )
    for file in (path.name for path in other.path.glob("*.safetensors")):
        mine, whole = load_file(run.path / file), load_file(other.path / file)
        assert mine.keys() == whole.keys()
        for key in mine:
            torch.testing.assert_close(mine[key], whole[key], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sharded_ranks_give_the_losses_and_weights_of_one(tmp_path: Path, alone: RunDir, accumulate: int) -> None:
    run = tiny.make_run(tmp_path, stage(), parallel="fsdp", accumulate=accumulate)
    assert run_ranks(2, execute_stage, run.path) == [0, 0]
    assert_same_training(run, alone)


SHARED = dataclasses.replace(tiny.TEACHER, trunk="shared")
FEWER_FEATURES = DistillConfig(feature_blocks=1)  # a shared trunk leaves one block of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        stage(None),
        stage(SHARED, FEWER_FEATURES),
        stage(checkpointing=True),
        tiny.var_stage(tiny.TEACHER, transformer=tiny.MVAR, train=TRAIN),
    ],
    ids=["no teacher", "shared trunk", "recomputed activations", "M-VAR"],
)
def test_sharding_suits_every_kind_of_network(tmp_path: Path, variant: Stage) -> None:
    alone, run = (tiny.make_run(tmp_path / kind, variant, parallel=kind) for kind in ("ddp", "fsdp"))
    execute(alone.path)
    assert run_ranks(2, execute_stage, run.path) == [0, 0]
    assert_same_training(run, alone)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(("fsdp", 2), ("fsdp", 2), id="sharded", marks=pytest.mark.slow),
        pytest.param(("ddp", 1), ("fsdp", 2), id="one to sharded"),
        pytest.param(("fsdp", 2), ("ddp", 1), id="sharded to one"),
    ],
)
def test_any_rank_count_continues_any_checkpoint(
    tmp_path: Path, alone: RunDir, before: tuple[str, int], after: tuple[str, int]
) -> None:
    run = make_run(tmp_path, before[0])
    assert set(run_ranks(before[1], execute_stage, run.path, 11, sigterm)) == {SIGTERM_EXIT}
    assert (run.path / "checkpoints" / "step-00000012").is_dir()
    path = run.path / "config.json"
    path.write_text(path.read_text().replace(f'"parallel": "{before[0]}"', f'"parallel": "{after[0]}"'))
    assert run_ranks(after[1], execute_stage, run.path) == [0] * after[1]
    assert_same_training(run, alone)


def test_every_rank_keeps_a_part_of_every_large_weight(tmp_path: Path) -> None:
    run = make_run(tmp_path, "fsdp")
    assert run_ranks(2, parts_of_weights, run.path) == [0, 0]


def parts_of_weights(path: Path) -> None:
    from torch.distributed.tensor import DTensor

    from fvar.machine import distributed
    from fvar.stages.var import build_task
    from fvar.training import sharding

    with distributed.process_group(torch.device("cpu")):
        task = build_task(RunDir.open(path))
        sharding.shard(task)
        for _, parameter in task.parameter_groups("train"):
            assert isinstance(parameter, DTensor)
            if parameter.shape[0] % 2 == 0:
                assert 2 * parameter.to_local().numel() == parameter.numel()
