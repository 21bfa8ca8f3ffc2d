"""M-VAR is what its public code computes: its keys, its numbers, its order of prediction; beside a teacher, too."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import DistillConfig, MambaConfig, TeacherConfig, TransformerConfig, Trunk
from fvar.errors import UserError
from fvar.golden import read_golden
from fvar.models.attention import block_diagonal_attention
from fvar.models.loading import VarShape, build_var
from fvar.models.teacher import Teacher
from fvar.models.var import VAR, ScaleByScale
from fvar.tasks.distill import distillation_loss
from tests import plain_var, tiny

GOLDEN = Path(__file__).parent.parent / "golden"
PATCH_NUMS_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
TRUNKS = ["separate", "shared"]


def on_meta(depth: int) -> VAR:
    with torch.device("meta"):
        return VAR(TransformerConfig(depth=depth, mixer="mvar"), 1000, 4096, 32, PATCH_NUMS_256)


def teacher(trunk: Trunk = "separate", visibility: str = "own") -> Teacher:
    config = TeacherConfig(head_dim=8, trunk=trunk, visibility=visibility)  # type: ignore[arg-type]
    network = Teacher(tiny.MVAR, config, tiny.CLASSES, tiny.VOCAB, tiny.CHANNELS, tiny.PATCH_NUMS, tiny.ALIAS_VOCAB)
    tiny.awake(network, seed=1)
    return network.eval()


# ------------------------------------------------------------------------------------------------------ the public code


def test_d16_has_the_public_codes_keys_and_shapes() -> None:
    expected = json.loads((GOLDEN / "mvar_d16_shapes.json").read_text())
    assert {key: list(value.shape) for key, value in on_meta(16).state_dict().items()} == expected


@pytest.mark.parametrize(
    ("depth", "count"), [(12, 198_435_568), (16, 464_157_440), (20, 900_529_136), (24, 1_550_067_136)]
)
def test_parameter_counts_are_the_public_codes(depth: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(depth).parameters()) == count


def golden() -> tuple[dict[str, Tensor], dict[str, Tensor], plain_var.Settings]:
    """State dict, all tensors and settings of M-VAR's golden file."""
    config, tensors = read_golden(GOLDEN / "mvar_tiny.safetensors")
    state = {key.removeprefix("var."): value for key, value in tensors.items() if key.startswith("var.")}
    settings = plain_var.Settings(
        tuple(config["patch_nums"]), config["heads"], config["attn_l2_norm"], config["norm_eps"]
    )
    return state, tensors, settings


def test_logits_and_buffers_equal_the_public_codes() -> None:
    state, tensors, settings = golden()
    shape = VarShape.of(state, "golden")
    assert (shape.mixer, shape.mamba, shape.patch_nums) == ("mvar", MambaConfig(), settings.patch_nums)
    network = VAR(shape.transformer(), shape.num_classes, shape.vocab_size, shape.z_channels, shape.patch_nums).eval()
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, state[name]), name
        assert buffer.dtype == state[name].dtype, name
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        logits = network(tensors["in.label"], tensors["out.var_input"]).logits
    torch.testing.assert_close(logits, tensors["out.logits"], atol=5e-6, rtol=0)


def test_the_plain_second_implementation_gives_the_public_codes_logits() -> None:
    state, tensors, settings = golden()
    exact = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    logits = plain_var.logits(exact, tensors["in.label"], tensors["out.var_input"].double(), settings)
    torch.testing.assert_close(logits.float(), tensors["out.logits"], atol=5e-6, rtol=0)


@pytest.mark.parametrize("aln", [False, True])
@pytest.mark.parametrize("l2_norm", [False, True])
def test_the_network_is_its_plain_second_implementation_whatever_its_shape(l2_norm: bool, aln: bool) -> None:
    mamba = MambaConfig(d_state=5, d_conv=3, expand=3, head_dim=9)
    cfg = TransformerConfig(2, 48, 3, attn_l2_norm=l2_norm, shared_aln=aln, mixer="mvar", mamba=mamba)
    network = tiny.var(cfg, (2, 3, 10)).double()
    labels = torch.tensor([0, 4])
    var_input = torch.randn(2, 109, tiny.CHANNELS, dtype=torch.float64)
    made = network(labels, var_input).logits
    expected = plain_var.logits(
        network.state_dict(), labels, var_input, plain_var.Settings((2, 3, 10), 3, l2_norm, 1e-6)
    )
    torch.testing.assert_close(made, expected)


def test_initial_values_follow_the_public_code() -> None:
    torch.manual_seed(0)
    cfg = TransformerConfig(depth=4, mixer="mvar", gamma_init=1e-5)
    block = VAR(cfg, tiny.CLASSES, 512, 8, (1, 2, 4, 8)).layers[1]
    std, c = math.sqrt(1 / (3 * cfg.dim)), cfg.dim
    for weight, expected in (
        (block.get_parameter("mamba.in_proj.weight"), std),
        (block.get_parameter("mamba.out_proj.weight"), std),
        (block.get_parameter("mamba.conv1d.weight"), 0.02),
        (block.attn.proj.weight, std / math.sqrt(8)),
        (block.ffn.fc2.weight, std / math.sqrt(8)),
        (block.ada_lin.linear.weight[: 2 * c], std / 2 * 1e-5),
        (block.ada_lin.linear.weight[2 * c :], std / 2),  # gamma3, too
    ):
        assert weight.std().item() == pytest.approx(expected, rel=0.06)
    assert torch.all(block.get_parameter("mamba.conv1d.bias") == 0)


# ---------------------------------------------------------------------------------------------- the order of prediction


@pytest.mark.parametrize("patch_nums", [(1,), (1, 2, 3), (2, 4), PATCH_NUMS_256])
def test_attending_scale_by_scale_equals_attention_under_a_block_diagonal_mask(patch_nums: tuple[int, ...]) -> None:
    sizes = [p * p for p in patch_nums]
    level = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ends = tuple(torch.tensor(sizes).cumsum(0).tolist())
    q, k, v = torch.randn(3, 2, 2, ends[-1], 8, dtype=torch.float64)
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=level[:, None] == level, scale=1.0)
    torch.testing.assert_close(block_diagonal_attention(q, k, v, ends, 1.0).transpose(1, 2), dense)


def test_no_token_changes_the_logits_of_an_earlier_scale_and_every_token_those_of_all_later_ones() -> None:
    network = tiny.var(tiny.MVAR)
    labels, var_input, _ = tiny.batch(1)
    before = network(labels, var_input).logits
    for start, end in pairwise(network.scale_ends):
        for position in range(start, end):
            changed = var_input.clone()
            changed[:, position - 1] += 1
            difference = (network(labels, changed).logits - before).abs().amax(-1)[0]
            assert torch.all(difference[:start] == 0)
            assert torch.all(difference[start:] > 0)


@pytest.mark.parametrize("patch_nums", [tiny.PATCH_NUMS, (1,), (2, 5, 9)])
def test_sampling_with_a_carried_state_gives_the_teacher_forced_logits(patch_nums: tuple[int, ...]) -> None:
    network = tiny.var(tiny.MVAR, patch_nums)
    labels, length = torch.tensor([0, 3, tiny.CLASSES]), network.scale_ends[-1]
    first = network.scale_ends[0]
    var_input = torch.randn(3, length - first, tiny.CHANNELS)
    whole = network(labels, var_input).logits
    stepwise = ScaleByScale(network, labels)
    maps = [None] + [
        torch.unflatten(var_input[:, start - first : end - first].mT, 2, (side, side))
        for (start, end), side in zip(pairwise(network.scale_ends), patch_nums[1:], strict=True)
    ]
    torch.testing.assert_close(torch.cat([stepwise.logits(m) for m in maps], dim=1), whole, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- training


def test_recomputing_activations_changes_no_gradient() -> None:
    labels, var_input, _ = tiny.batch()
    gradients = []
    for recompute in (False, True):
        cfg = TransformerConfig(2, 32, 2, mixer="mvar", mamba=tiny.MVAR.mamba, drop_path=0.3, checkpointing=recompute)
        network = tiny.var(cfg).train()
        torch.manual_seed(0)
        network(labels, var_input).logits.square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("half_precision")
def test_bfloat16_logits_stay_within_two_percent_of_float32_and_gradients_within_three() -> None:
    network = tiny.var(
        TransformerConfig(depth=8, width=128, heads=2, mixer="mvar", mamba=MambaConfig(16), drop_path=0.0)
    )
    labels, var_input, _ = tiny.batch(4)
    found = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            logits = network(labels, var_input).logits.float()
        gradients = torch.autograd.grad(logits.square().mean(), list(network.parameters()))
        found.append((logits, torch.cat([gradient.flatten() for gradient in gradients])))
    for (exact, low), within in zip(zip(*found, strict=True), (0.02, 0.03), strict=True):
        assert ((low - exact).norm() / exact.norm()).item() < within


# -------------------------------------------------------------------------------------------------------------- teacher


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("visibility", ["own", "before"])
def test_alias_tokens_change_no_scale_earlier_than_their_own(trunk: Trunk, visibility: str) -> None:
    student, taught = tiny.var(tiny.MVAR), teacher(trunk, visibility)
    labels, var_input, alias = tiny.batch(1)
    below = student(labels, var_input, trunk_before=taught.trunk_before).trunk
    before, level = taught(labels, var_input, alias, trunk=below).logits, student.lvl_1L[0]
    for scale, tokens in enumerate(alias):
        for position in range(tokens.shape[1]):
            changed = [t.clone() for t in alias]
            changed[scale][:, position] = (changed[scale][:, position] + 1) % tiny.ALIAS_VOCAB
            after = taught(labels, var_input, changed, trunk=below).logits
            reached = (after - before).abs().amax(-1)[0] > 0
            assert torch.equal(reached, level >= scale if visibility == "own" else level > scale)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_closed_gate_makes_the_teacher_the_student(trunk: Trunk) -> None:
    student, taught = tiny.var(tiny.MVAR), teacher(trunk)
    taught.copy_deployment(student)
    for cross in taught.cross:
        torch.nn.init.zeros_(cross.get_parameter("gate.weight"))
        torch.nn.init.constant_(cross.get_parameter("gate.bias"), -200.0)
    labels, var_input, alias = tiny.batch()
    mine = student(labels, var_input, trunk_before=taught.trunk_before)
    assert torch.equal(mine.logits, taught(labels, var_input, alias, trunk=mine.trunk).logits)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_each_networks_losses_train_all_of_it_and_nothing_of_the_other(trunk: Trunk) -> None:
    student, taught = tiny.var(tiny.MVAR), teacher(trunk)
    labels, var_input, alias = tiny.batch()
    mine = student(labels, var_input, features=2, trunk_before=taught.trunk_before)
    theirs = taught(labels, var_input, alias, features=2, trunk=mine.trunk)
    loss, _ = distillation_loss(mine, theirs, DistillConfig(), tiny.PATCH_NUMS)
    (loss + mine.logits.square().mean()).backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in taught.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    student.zero_grad()
    theirs.logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in taught.parameters())
    assert all(parameter.grad is None for parameter in student.parameters())


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_head_width_that_does_not_divide_is_named() -> None:
    message = r"transformer.mamba.head_dim 64 does not divide the inner width 2 \* 48 = 96"
    with pytest.raises(UserError, match=message):
        TransformerConfig(depth=3, width=48, mixer="mvar")
    assert TransformerConfig(depth=3, width=48).mixer == "var"  # which has no such width


def test_a_checkpoint_of_the_other_kind_is_refused_by_both_names() -> None:
    vqvae = tiny.vqvae()
    for held, expected, message in (
        (tiny.MVAR, tiny.CFG, r"holds an M-VAR \(transformer.mixer mvar\) where a VAR \(transformer.mixer var\)"),
        (tiny.CFG, tiny.MVAR, r"holds a VAR \(transformer.mixer var\) where an M-VAR \(transformer.mixer mvar\)"),
    ):
        with pytest.raises(UserError, match=f"^x.pth {message} is expected$"):
            build_var(tiny.var(held).state_dict(), expected, vqvae, "x.pth")


def test_another_state_size_is_named() -> None:
    cfg = TransformerConfig(3, 32, 2, mixer="mvar", mamba=MambaConfig(4, head_dim=16))
    with pytest.raises(UserError, match=r"expected mamba MambaConfig\(d_state=4.*found MambaConfig\(d_state=8"):
        build_var(tiny.var(tiny.MVAR).state_dict(), cfg, tiny.vqvae(), "x.pth")
