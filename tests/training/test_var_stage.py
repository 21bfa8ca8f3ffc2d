"""The var stage, from its run directory to the weights it leaves."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fvar.config import DistillConfig, TransformerConfig, Trunk, VarConfig
from fvar.errors import StageFailed, UserError
from fvar.models.var import VAR
from fvar.run import execute
from fvar.rundir import RunDir, read_status
from fvar.stages.var import build_task
from tests.training import tiny
from tests.training.processes import records

FROZEN = dataclasses.replace(tiny.TEACHER, learns="frozen")
ONE_FEATURE = DistillConfig(feature_blocks=1)
NO_DISTILLATION = DistillConfig(lambda_feat=0.0, lambda_logit=0.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A student with its teacher, trained to the end."""
    run = tiny.make_run(tmp_path_factory.mktemp("runs"), tiny.var_stage(tiny.TEACHER))
    execute(run.path)
    return run


@pytest.fixture(scope="module")
def mvar(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The same training of an M-VAR."""
    run = tiny.make_run(tmp_path_factory.mktemp("mvar"), tiny.var_stage(tiny.TEACHER, transformer=tiny.MVAR))
    execute(run.path)
    return run


def column(run: RunDir, key: str, split: str = "train") -> list[float]:
    return [record[key] for record in run.metrics(split)]


def same_weights(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_output_is_the_deployment_network_alone(trained: RunDir) -> None:
    student = VAR(TransformerConfig(depth=2, width=32, heads=2), tiny.CLASSES, tiny.VOCAB, 4, tiny.PATCH_NUMS)
    student.load_state_dict(load_file(trained.path / "model.safetensors"), strict=True)
    assert any(key.startswith("cross.") for key in load_file(trained.path / "teacher.safetensors"))
    assert not (trained.path / "checkpoints").exists()


def test_both_networks_learn_and_the_teacher_sees_more(trained: RunDir) -> None:
    """The alias tokens tell what the structure tokens do not: only the teacher can predict the last scale."""
    student, teacher = column(trained, "cross_entropy"), column(trained, "teacher/cross_entropy")
    assert student[0] == pytest.approx(teacher[0], abs=0.1)
    assert student[-1] < 0.9 * student[0]
    assert teacher[-1] < 0.8 * student[-1]
    assert column(trained, "distill/feature")[0] < 0.05  # both start from the same weights


def test_scales_add_up_to_the_whole(trained: RunDir) -> None:
    sizes = [p * p for p in tiny.PATCH_NUMS]
    for split in ("train", "heldout"):
        for record in trained.metrics(split):
            for name in ("cross_entropy", "accuracy", "teacher/cross_entropy"):
                scales = [record[f"{name}/scale{k}"] for k in (1, 2, 3)]
                mean = sum(n * value for n, value in zip(sizes, scales, strict=True)) / sum(sizes)
                assert mean == pytest.approx(record[name], abs=1e-5)


def test_speed_is_logged(trained: RunDir) -> None:
    last = trained.metrics("speed")[-1]
    assert last["images_per_second"] > 0
    assert last["tokens_per_second"] == pytest.approx(21 * last["images_per_second"])
    assert 0 <= last["data_wait"] < 1
    assert last["peak_memory_bytes"] > 1e6


def test_teacher_without_distillation_leaves_the_student_alone(tmp_path: Path) -> None:
    """Bit for bit: the same initial weights, label drops and gradients, whatever else is trained beside it."""
    alone = tiny.make_run(tmp_path, tiny.var_stage())
    beside = tiny.make_run(tmp_path, tiny.var_stage(tiny.TEACHER, distill=NO_DISTILLATION))
    execute(alone.path)
    execute(beside.path)
    assert same_weights(alone.path / "model.safetensors", beside.path / "model.safetensors")


def test_distillation_changes_the_student(trained: RunDir, tmp_path: Path) -> None:
    alone = tiny.make_run(tmp_path, tiny.var_stage())
    execute(alone.path)
    assert not same_weights(alone.path / "model.safetensors", trained.path / "model.safetensors")


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_distillation_does_not_pull_the_teacher(tmp_path: Path, trunk: Trunk) -> None:
    """Eq. 13 sees the teacher as a constant: its gradient is that of its own cross-entropy."""

    def gradients(distill: DistillConfig) -> list[torch.Tensor | None]:
        teacher = dataclasses.replace(tiny.TEACHER, trunk=trunk)
        task = build_task(tiny.make_run(tmp_path, tiny.var_stage(teacher, distill=distill)))
        task.student.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))  # far from the teacher's
        torch.manual_seed(0)
        task.loss("train", task.fetch(torch.arange(8), torch.Generator()), 0)[0].backward()
        assert task.teacher is not None
        return [p.grad for p in task.teacher.parameters()]

    with_it, without = gradients(DistillConfig(feature_blocks=1)), gradients(NO_DISTILLATION)
    assert sum(gradient is not None for gradient in without) > 10
    for a, b in zip(with_it, without, strict=True):
        assert (a is None) is (b is None)
        assert a is None or b is None or torch.equal(a, b)


def test_frozen_teacher_must_be_named(tmp_path: Path) -> None:
    run = tiny.make_run(tmp_path, tiny.var_stage(FROZEN))
    with pytest.raises(UserError, match="needs an input 'teacher'"):
        execute(run.path)
    assert run.status.state == "failed"


def test_frozen_teacher_teaches_and_does_not_change(trained: RunDir) -> None:
    stage = tiny.var_stage(FROZEN)
    stage = dataclasses.replace(stage, inputs={**stage.inputs, "teacher": tiny.var_stage(tiny.TEACHER)})
    run = tiny.make_run(trained.path.parent, stage)
    execute(run.path)
    assert not (run.path / "teacher.safetensors").exists()
    held = column(run, "teacher/cross_entropy", "heldout")
    assert held[0] == held[-1] == column(trained, "teacher/cross_entropy", "heldout")[-1]
    assert column(run, "distill/logit")[-1] < column(run, "distill/logit")[0]


def test_shared_trunk_cannot_be_frozen(tmp_path: Path) -> None:
    frozen = dataclasses.replace(FROZEN, trunk="shared")
    with pytest.raises(UserError, match="a shared trunk is the student's"):
        build_task(tiny.make_run(tmp_path, tiny.var_stage(frozen, distill=NO_DISTILLATION)))


def test_damaged_token_store_ends_the_stage_with_its_file(tmp_path: Path) -> None:
    run = tiny.make_run(tmp_path, tiny.var_stage())
    tokens = run.input("tokens").path / "train" / "scale_1.npy"
    tokens.write_bytes(tokens.read_bytes()[:-2] + b"\xff\xff")
    with pytest.raises((UserError, StageFailed), match=r"scale_1\.npy does not match its checksum"):
        execute(run.path)


def test_m_var_trains_beside_var_to_a_comparable_loss_and_its_teacher_sees_more(trained: RunDir, mvar: RunDir) -> None:
    for key in ("cross_entropy", "teacher/cross_entropy"):
        theirs, ours = column(trained, key, "heldout")[-1], column(mvar, key, "heldout")[-1]
        assert ours == pytest.approx(theirs, rel=0.15)
    assert column(mvar, "cross_entropy")[-1] < 0.9 * column(mvar, "cross_entropy")[0]
    assert column(mvar, "teacher/cross_entropy")[-1] < 0.8 * column(mvar, "cross_entropy")[-1]


@pytest.mark.parametrize("undisturbed", ["trained", "mvar"])
def test_command_continues_after_sigterm_and_sigkill_to_the_identical_end(
    undisturbed: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    whole: RunDir = request.getfixturevalue(undisturbed)
    assert isinstance(whole.config, VarConfig)
    stage = tiny.var_stage(tiny.TEACHER, transformer=whole.config.transformer)
    run = tiny.make_run(tmp_path, stage, checkpoint_steps=5)
    command = [sys.executable, "-m", "fvar.run", str(run.path)]

    def stop_by(number: signal.Signals, after_step: int) -> int:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while (run.metrics("train") or [{"step": 0}])[-1]["step"] < after_step:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        return process.wait(60)

    assert stop_by(signal.SIGTERM, 8) == 75
    assert read_status(run.path).state == "interrupted"
    assert stop_by(signal.SIGKILL, 20) == -signal.SIGKILL
    assert read_status(run.path).state == "running"
    assert not run.locked
    assert execute(run.path).attempts == 3
    assert records(run.path) == records(whole.path)
    assert same_weights(run.path / "model.safetensors", whole.path / "model.safetensors")


def test_more_features_than_a_shared_teacher_has_are_refused(tmp_path: Path) -> None:
    shared = dataclasses.replace(tiny.TEACHER, trunk="shared")
    with pytest.raises(UserError, match=r"feature_blocks is 2, but the teacher .* has 1 blocks of its own"):
        build_task(tiny.make_run(tmp_path, tiny.var_stage(shared)))


# --------------------------------------------------------------------------------------------- controls of the teacher


def test_a_teacher_that_reads_another_images_alias_tokens_learns_nothing_from_them(
    trained: RunDir, tmp_path: Path
) -> None:
    """Here the alias tokens alone tell the last scale: the placebo has the parameters, and not the information."""
    run = tiny.make_run(tmp_path, tiny.var_stage(dataclasses.replace(tiny.TEACHER, alias="other")))
    execute(run.path)
    keys = [load_file(one.path / "teacher.safetensors").keys() for one in (trained, run)]
    assert keys[0] == keys[1]
    (placebo, own), student = (
        (column(one, "teacher/cross_entropy", "heldout")[-1] for one in (run, trained)),
        column(run, "cross_entropy", "heldout")[-1],
    )
    assert own < 0.8 * student
    assert placebo > 0.95 * student


def test_the_placebo_takes_each_images_tokens_once_and_never_its_own(tmp_path: Path) -> None:
    task = build_task(tiny.make_run(tmp_path, tiny.var_stage(dataclasses.replace(tiny.TEACHER, alias="other"))))
    items = torch.tensor([3, 1, 4, 15, 9])
    lenders = task._lenders(items)
    assert sorted(lenders.tolist()) == sorted(items.tolist())
    assert not (lenders == items).any()
    assert task.train_set.alias is not None
    batch = task.fetch(items, torch.Generator())
    assert batch.alias is not None
    for scale, tokens in enumerate(task.train_set.alias.batch(lenders)[0]):
        assert torch.equal(batch.alias[scale], tokens)
    assert torch.equal(batch.labels, task.train_set.structure.batch(items)[1])
    with pytest.raises(UserError, match=r"another image of the micro-batch, and here it is alone; [^\n]*$"):
        task.fetch(items[:1], torch.Generator())


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_self_distillation_has_no_cross_attention_and_needs_no_alias_tokens(tmp_path: Path, trunk: Trunk) -> None:
    stage = tiny.var_stage(dataclasses.replace(tiny.TEACHER, alias="none", trunk=trunk), distill=ONE_FEATURE)
    run = tiny.make_run(tmp_path, dataclasses.replace(stage, inputs={"tokens": stage.inputs["tokens"]}))
    execute(run.path)
    assert not [key for key in load_file(run.path / "teacher.safetensors") if key.startswith(("cross.", "alias."))]
    student, teacher = (column(run, key, "heldout")[-1] for key in ("cross_entropy", "teacher/cross_entropy"))
    assert teacher == pytest.approx(student, rel=0.05)  # it sees nothing that the student does not
