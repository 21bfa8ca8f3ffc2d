"""Eq. 13 against its formula, and its stop-gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fvar.config import DistillConfig, TeacherConfig, Trunk
from fvar.models.var import VarOutput
from fvar.tasks.distill import distillation_loss
from tests import tiny


def output(seed: int, scale: float = 1.0) -> VarOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, tiny.LENGTH, 7, generator=generator) * scale
    features = [torch.randn(2, tiny.LENGTH, 5, generator=generator) for _ in range(3)]
    return VarOutput(logits.requires_grad_(), [feature.requires_grad_() for feature in features])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), feat=st.floats(0, 2), logit=st.floats(0, 2), blocks=st.integers(1, 3))
def test_the_loss_is_equation_13(seed: int, feat: float, logit: float, blocks: int) -> None:
    student, teacher = output(seed), output(seed + 1)
    cfg = DistillConfig(lambda_feat=feat, lambda_logit=logit, feature_blocks=blocks)
    loss, _ = distillation_loss(student, teacher, cfg, tiny.PATCH_NUMS)
    distance = sum(
        (a - b).square().mean() for a, b in zip(student.features[-blocks:], teacher.features[-blocks:], strict=True)
    )
    p, q = F.softmax(teacher.logits.double(), -1), F.softmax(student.logits.double(), -1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    assert loss.item() == pytest.approx(float((feat * distance + logit * divergence).detach()), rel=1e-4, abs=1e-6)


def test_it_vanishes_for_equal_outputs_and_only_there() -> None:
    same, _ = distillation_loss(output(0), output(0), DistillConfig(), tiny.PATCH_NUMS)
    other, parts = distillation_loss(output(0), output(1), DistillConfig(), tiny.PATCH_NUMS)
    assert same.item() == pytest.approx(0, abs=1e-6)
    assert other.item() > 0
    assert all(part > 0 for part in parts.values())


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = output(0), output(1)
    distillation_loss(student, teacher, DistillConfig(), tiny.PATCH_NUMS)[0].backward()
    assert student.logits.grad is not None
    assert teacher.logits.grad is None
    assert all(feature.grad is None for feature in teacher.features)


def test_scale_weights_choose_the_scales_that_count() -> None:
    student, teacher = output(0), output(1)
    first = DistillConfig(scale_weights=(1.0, 0.0, 0.0))
    loss, _ = distillation_loss(student, teacher, first, tiny.PATCH_NUMS)
    loss.backward()
    assert student.logits.grad is not None
    assert torch.all(student.logits.grad[:, 0] != 0)
    assert torch.all(student.logits.grad[:, 1:] == 0)
    equal, _ = distillation_loss(student, teacher, DistillConfig(scale_weights=(3.0, 3.0, 3.0)), tiny.PATCH_NUMS)
    plain, _ = distillation_loss(student, teacher, DistillConfig(), tiny.PATCH_NUMS)
    torch.testing.assert_close(equal, plain)


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_lambda_zero_and_no_teacher_give_identical_student_updates(trunk: Trunk) -> None:
    def updated(with_teacher: bool) -> list[Tensor]:
        student = tiny.var().train()
        teacher = tiny.teacher(TeacherConfig(head_dim=8, trunk=trunk))
        optimiser = torch.optim.AdamW(student.parameters(), lr=1e-2)
        labels, var_input, alias = tiny.batch()
        targets = torch.arange(2 * tiny.LENGTH) % tiny.VOCAB
        torch.manual_seed(0)
        for _ in range(2):
            dropped = student.drop_labels(labels)
            mine = student(dropped, var_input, features=2, trunk_before=teacher.trunk_before)
            loss = F.cross_entropy(mine.logits.flatten(0, 1), targets)
            if with_teacher:
                theirs = teacher(dropped, var_input, alias, features=2, trunk=mine.trunk)
                off = DistillConfig(lambda_feat=0.0, lambda_logit=0.0)
                loss = loss + distillation_loss(mine, theirs, off, tiny.PATCH_NUMS)[0]
                loss = loss + F.cross_entropy(theirs.logits.flatten(0, 1), targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return list(student.parameters())

    assert all(torch.equal(a, b) for a, b in zip(updated(True), updated(False), strict=True))


def test_wrong_sizes_are_named() -> None:
    few = VarOutput(output(0).logits, output(0).features[:1])
    with pytest.raises(ValueError, match="last 2 blocks' features, found 1"):
        distillation_loss(few, output(1), DistillConfig(), tiny.PATCH_NUMS)
    with pytest.raises(ValueError, match="3 weights, one per scale, found 2"):
        distillation_loss(output(0), output(1), DistillConfig(scale_weights=(1.0, 2.0)), tiny.PATCH_NUMS)
