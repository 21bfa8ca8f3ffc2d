"""The teacher: a deployment network that also sees alias tokens, and owns what its loss trains."""

from collections.abc import Collection
from itertools import pairwise
from typing import Literal

import pytest
import torch

from fvar.config import DistillConfig, TeacherConfig, TransformerConfig, Trunk
from fvar.models.teacher import Teacher
from fvar.models.var import VAR, VarOutput
from fvar.tasks.distill import distillation_loss
from tests import tiny

TRUNKS = ["separate", "shared"]
SEPARATE = TeacherConfig(head_dim=8)


def both(student: VAR, teacher: Teacher, features: int = 0) -> tuple[VarOutput, VarOutput]:
    labels, var_input, alias = tiny.batch()
    mine = student(labels, var_input, features=features, trunk_before=teacher.trunk_before)
    return mine, teacher(labels, var_input, alias, features=features, trunk=mine.trunk)


def alias_reach(config: TeacherConfig, silent: Collection[int] = ()) -> torch.Tensor:
    """reach[q, a]: whether the logits at token q change when alias token a does."""
    student, teacher = tiny.var(), tiny.teacher(config, silent=silent).eval()
    labels, var_input, alias = tiny.batch(1)
    trunk = student(labels, var_input, trunk_before=teacher.trunk_before).trunk
    before = teacher(labels, var_input, alias, trunk=trunk).logits
    rows = []
    for scale, tokens in enumerate(alias):
        for position in range(tokens.shape[1]):
            changed = [t.clone() for t in alias]
            changed[scale][:, position] = (changed[scale][:, position] + 1) % tiny.ALIAS_VOCAB
            after = teacher(labels, var_input, changed, trunk=trunk).logits
            rows.append((after - before).abs().amax(-1)[0] > 0)
    return torch.stack(rows, dim=1)


def level() -> torch.Tensor:
    return tiny.var().lvl_1L[0]


@pytest.mark.parametrize("trunk", TRUNKS)
def test_no_future_alias_token_changes_an_earlier_scale(trunk: Trunk) -> None:
    assert torch.equal(alias_reach(TeacherConfig(head_dim=8, trunk=trunk)), level()[:, None] >= level())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_visibility_before_hides_the_own_scale_too(trunk: Trunk) -> None:
    # Within one block; two blocks would not pass it on either, since structure attention is block-causal.
    config = TeacherConfig(head_dim=8, trunk=trunk, visibility="before")
    assert torch.equal(alias_reach(config), level()[:, None] > level())


@pytest.mark.parametrize("visibility", ["own", "before"])
def test_tokens_of_a_silent_scale_are_never_read(visibility: Literal["own", "before"]) -> None:
    config = TeacherConfig(head_dim=8, visibility=visibility)
    everything, some = alias_reach(config), alias_reach(config, silent={1})
    heard = level() != 1
    assert not some[:, ~heard].any()
    assert torch.equal(some[:, heard], everything[:, heard])


def test_a_teacher_without_any_alias_scale_is_the_deployment_network() -> None:
    assert not alias_reach(SEPARATE, silent={0, 1, 2}).any()


def test_last_scales_restricts_who_asks() -> None:
    reach = alias_reach(TeacherConfig(head_dim=8, last_scales=1))
    assert not reach[:5].any()
    assert reach[5:].all()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_no_structure_token_changes_its_own_or_an_earlier_scale(trunk: Trunk) -> None:
    student, teacher = tiny.var(), tiny.teacher(TeacherConfig(head_dim=8, trunk=trunk)).eval()
    labels, var_input, alias = tiny.batch(1)

    def logits(inputs: torch.Tensor) -> torch.Tensor:
        out = student(labels, inputs, trunk_before=teacher.trunk_before)
        result: torch.Tensor = teacher(labels, inputs, alias, trunk=out.trunk).logits
        return result

    before = logits(var_input)
    for start, end in pairwise(student.scale_ends):
        for position in range(start, end):
            changed = var_input.clone()
            changed[:, position - 1] += 1
            assert torch.equal(logits(changed)[:, :start], before[:, :start])


def set_gates(teacher: Teacher, logit: float) -> None:
    """Make every gate the sigmoid of `logit`, whatever comes in."""
    for cross in teacher.cross:
        torch.nn.init.zeros_(cross.get_parameter("gate.weight"))
        torch.nn.init.constant_(cross.get_parameter("gate.bias"), logit)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_closed_gate_makes_the_teacher_the_student(trunk: Trunk) -> None:
    student, teacher = tiny.var(), tiny.teacher(TeacherConfig(head_dim=8, trunk=trunk)).eval()
    teacher.copy_deployment(student)
    mine, open_gate = both(student, teacher, features=2)
    assert (mine.logits - open_gate.logits).abs().max() > 1e-3
    set_gates(teacher, -200.0)  # sigmoid(-200) is 0 in float32
    mine, theirs = both(student, teacher, features=2)
    assert torch.equal(mine.logits, theirs.logits)
    assert all(torch.equal(a, b) for a, b in zip(mine.features, theirs.features, strict=True))


def test_without_a_gate_the_attention_is_added_whole() -> None:
    gated, plain = tiny.teacher(SEPARATE), tiny.teacher(TeacherConfig(head_dim=8, gate="none"))
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if ".gate." not in key})
    set_gates(gated, 200.0)
    labels, var_input, alias = tiny.batch()
    torch.testing.assert_close(gated(labels, var_input, alias).logits, plain(labels, var_input, alias).logits)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_students_losses_reach_no_parameter_of_the_teacher(trunk: Trunk) -> None:
    student, teacher = tiny.var(), tiny.teacher(TeacherConfig(head_dim=8, trunk=trunk))
    mine, theirs = both(student, teacher, features=2)
    loss, _ = distillation_loss(mine, theirs, DistillConfig(), tiny.PATCH_NUMS)
    (loss + mine.logits.square().mean()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_teachers_loss_trains_all_of_the_teacher_and_nothing_of_the_student(trunk: Trunk) -> None:
    student, teacher = tiny.var(), tiny.teacher(TeacherConfig(head_dim=8, trunk=trunk))
    _, theirs = both(student, teacher)
    theirs.logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in student.parameters())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_modulation_shared_by_all_blocks_is_learned_by_the_student_and_read_by_the_teacher(trunk: Trunk) -> None:
    cfg = TransformerConfig(depth=3, width=32, heads=2, shared_aln=True)
    shape = (tiny.CLASSES, tiny.VOCAB, tiny.CHANNELS, tiny.PATCH_NUMS)
    teacher = Teacher(cfg, TeacherConfig(head_dim=8, trunk=trunk), *shape, tiny.ALIAS_VOCAB)
    student = tiny.var(cfg)
    teacher.copy_deployment(student)
    mine, theirs = both(student, teacher, features=2)
    mine.logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    shared = student.shared_ada_lin.linear.weight
    assert shared.grad is not None
    before = shared.grad.clone()
    theirs.logits.square().mean().backward()
    assert torch.equal(shared.grad, before)
    assert all(parameter.grad is not None for parameter in teacher.parameters())


def test_the_teacher_draws_no_random_numbers() -> None:
    teacher = tiny.teacher(SEPARATE).train()
    state = torch.get_rng_state()
    teacher(*tiny.batch())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("patch_nums", [(1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (2, 4, 8, 16)])
def test_ag_xattn_costs_less_than_three_percent_of_d16(patch_nums: tuple[int, ...]) -> None:
    with torch.device("meta"):
        teacher = Teacher(TransformerConfig(depth=16), TeacherConfig(), 1000, 8192, 32, patch_nums, 512)
    deployment = sum(p.numel() for p in teacher.network.parameters())
    extra = sum(p.numel() for p in teacher.parameters()) - deployment
    assert 0 < extra < 0.03 * 310_283_520 < 0.03 * deployment


def test_wrong_use_is_named() -> None:
    labels, var_input, alias = tiny.batch()
    with pytest.raises(ValueError, match=r"\[1, 4, 9\] per scale, found \[1, 4\]"):
        tiny.teacher(SEPARATE)(labels, var_input, alias[:2])
    with pytest.raises(ValueError, match="at most 2 features, found 3"):
        both(tiny.var(), tiny.teacher(TeacherConfig(head_dim=8, trunk="shared")), features=3)
    with pytest.raises(ValueError, match="at most the depth 3, found 4"):
        tiny.teacher(TeacherConfig(blocks=4))
    with pytest.raises(ValueError, match="0 to 3, found 4"):
        tiny.teacher(TeacherConfig(last_scales=4))
