"""The deployment network is VAR: its keys, its numbers, its order of prediction."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import TransformerConfig
from fvar.golden import read_golden
from fvar.models import attention
from fvar.models.attention import KVCache, block_causal_attention
from fvar.models.loading import VarShape
from fvar.models.var import VAR, ScaleByScale
from tests import tiny
from tests.benchmarks import reference

GOLDEN = Path(__file__).parent.parent / "golden"
PATCH_NUMS_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def on_meta(depth: int) -> VAR:
    with torch.device("meta"):
        return VAR(TransformerConfig(depth=depth), 1000, 4096, 32, PATCH_NUMS_256)


def parameter_formula(depth: int) -> int:
    """Counted by hand: per block qkv, proj, MLP, AdaLN; then embeddings, final AdaLN and classifier."""
    c = 64 * depth
    attention = 3 * c * c + 2 * c + depth + c * c + c
    block = attention + (4 * c * c + 4 * c) + (4 * c * c + c) + (6 * c * c + 6 * c)
    embeddings = (32 * c + c) + 1001 * c + 10 * c + 680 * c + c
    return depth * block + embeddings + (2 * c * c + 2 * c) + (4096 * c + 4096)


def test_d16_has_the_originals_keys_and_shapes() -> None:
    expected = json.loads((GOLDEN / "state_dict_shapes.json").read_text())["var_d16"]
    assert {key: list(value.shape) for key, value in on_meta(16).state_dict().items()} == expected


@pytest.mark.parametrize("depth", [12, 16, 20, 24, 30])
def test_parameter_counts_are_the_originals(depth: int) -> None:
    count = sum(parameter.numel() for parameter in on_meta(depth).parameters())
    published = {12: 133_200_000, 16: 310_283_520, 20: 600_917_136, 24: 1_033_399_360}
    assert count == parameter_formula(depth)
    if depth == 12:
        assert abs(count - published[12]) < 50_000
    elif depth in published:
        assert count == published[depth]


def test_logits_equal_the_originals() -> None:
    config, tensors = read_golden(GOLDEN / "var_tiny.safetensors")
    state = {key.removeprefix("var."): value for key, value in tensors.items() if key.startswith("var.")}
    shape = VarShape.of(state, "golden")
    assert (shape.depth, shape.width, shape.heads) == (config["depth"], config["width"], config["heads"])
    network = VAR(shape.transformer(), shape.num_classes, shape.vocab_size, shape.z_channels, shape.patch_nums).eval()
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        logits = network(tensors["in.label"], tensors["out.var_input"]).logits
    torch.testing.assert_close(logits, tensors["out.logits"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("patch_nums", [(1,), (1, 2, 3), (2, 4), PATCH_NUMS_256])
def test_attending_prefixes_equals_attention_under_a_dense_mask(patch_nums: tuple[int, ...]) -> None:
    sizes = [p * p for p in patch_nums]
    level = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ends = tuple(torch.tensor(sizes).cumsum(0).tolist())
    q, k, v = torch.randn(3, 2, 2, ends[-1], 8, dtype=torch.float64, requires_grad=True)
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=level[:, None] >= level, scale=1.0)
    ours = block_causal_attention(q, k, v, ends, 1.0).transpose(1, 2)
    torch.testing.assert_close(ours, dense)
    weight = torch.randn_like(dense)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((dense * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_no_token_changes_the_logits_of_its_own_or_an_earlier_scale() -> None:
    network = tiny.var()
    labels, var_input, _ = tiny.batch(1)
    before = network(labels, var_input).logits
    for start, end in pairwise(network.scale_ends):  # inputs of scales 2, 3 sit at start ... end of the sequence
        for position in range(start, end):
            changed = var_input.clone()
            changed[:, position - 1] += 1
            difference = (network(labels, changed).logits - before).abs().amax(-1)[0]
            assert torch.all(difference[:start] == 0)
            assert torch.all(difference[start:end] > 0), "its own scale does see it"


def test_scale_by_scale_with_a_cache_equals_teacher_forcing() -> None:
    network = tiny.var()
    labels, var_input, _ = tiny.batch(3)
    whole = network(labels, var_input).logits
    stepwise = ScaleByScale(network, labels)
    maps = [None] + [
        torch.unflatten(var_input[:, start - 1 : end - 1].mT, 2, (side, side))
        for (start, end), side in zip(pairwise(network.scale_ends), tiny.PATCH_NUMS[1:], strict=True)
    ]
    torch.testing.assert_close(torch.cat([stepwise.logits(m) for m in maps], dim=1), whole)


def test_features_are_the_last_blocks_outputs_and_the_trunk_what_enters_them() -> None:
    network = tiny.var()
    labels, var_input, _ = tiny.batch()
    out = network(labels, var_input, features=2, trunk_before=1)
    assert out.trunk is not None
    assert len(out.features) == 2
    torch.testing.assert_close(out.trunk.hidden, out.features[0])
    torch.testing.assert_close(network.classify(out.features[1], out.trunk.condition), out.logits)
    assert network(labels, var_input).trunk is None


def test_labels_are_dropped_at_the_configured_rate() -> None:
    network = tiny.var(TransformerConfig(depth=2, width=16, label_drop=0.1))
    labels = torch.arange(20_000) % tiny.CLASSES
    torch.manual_seed(0)
    dropped = network.drop_labels(labels)
    changed = dropped != labels
    assert torch.all(dropped[changed] == tiny.CLASSES)
    assert abs(changed.float().mean() - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 20_000)


def test_drop_path_keeps_the_mean_and_acts_in_training_only() -> None:
    network = tiny.var(TransformerConfig(depth=2, width=32, heads=2, drop_path=0.5))
    labels, var_input, _ = tiny.batch(1)
    torch.manual_seed(0)
    gamma = torch.ones(4000, 1, 1)
    last = network.layers[-1]
    kept = last.train()._kept(gamma)
    assert set(torch.unique(kept).tolist()) == {0.0, 2.0}
    assert abs(kept.mean() - 1) < 0.07
    network.eval()
    assert torch.equal(network(labels, var_input).logits, network(labels, var_input).logits)


def test_initial_values_follow_the_recipe() -> None:
    torch.manual_seed(0)
    cfg = TransformerConfig(depth=4, gamma_init=1e-5)  # the original's code; its README gives one by depth
    network = VAR(cfg, tiny.CLASSES, 512, 8, (1, 2, 4, 8))
    std = math.sqrt(1 / (3 * cfg.dim))
    block = network.layers[1]
    c = cfg.dim
    for weight, expected in (
        (block.attn.mat_qkv.weight, std),
        (block.attn.proj.weight, std / math.sqrt(8)),
        (block.ffn.fc2.weight, std / math.sqrt(8)),
        (block.ada_lin.linear.weight[2 * c :], std / 2),
        (block.ada_lin.linear.weight[: 2 * c], std / 2 * 1e-5),
        (network.head.weight, std * 0.02),
        (network.pos_1LC, std),
        (network.class_emb.weight, std),
    ):
        assert weight.std().item() == pytest.approx(expected, rel=0.06)
    torch.testing.assert_close(block.attn.scale_mul_1H11.exp(), torch.full((1, 4, 1, 1), 4.0))


def test_recomputing_activations_changes_no_gradient() -> None:
    labels, var_input, _ = tiny.batch()
    gradients = []
    for recompute in (False, True):
        network = tiny.var(TransformerConfig(depth=2, width=32, heads=2, checkpointing=recompute)).train()
        torch.manual_seed(0)
        network(labels, var_input).logits.square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(*gradients)


def test_bfloat16_logits_stay_within_two_percent_of_float32() -> None:
    network = tiny.var(TransformerConfig(depth=8, width=128, heads=2))
    labels, var_input, _ = tiny.batch(4)
    exact = network(labels, var_input).logits
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(labels, var_input).logits.float()
    low = network.to(torch.bfloat16)(labels, var_input.bfloat16()).logits.float()
    for approximate in (mixed, low):
        assert ((approximate - exact).norm() / exact.norm()).item() < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_bfloat16_gradients_stay_within_one_percent_of_float32(seed: int) -> None:
    """All together; those of one kind of parameter, over all blocks, within 3 %; every parameter's own within 5 %.

    But for a single temperature of attention, whose gradient is a small sum of large terms.
    """
    network = tiny.var(TransformerConfig(depth=8, width=128, heads=2, drop_path=0.0), seed=seed)
    labels, var_input, _ = tiny.batch(4)
    targets = torch.randint(tiny.VOCAB, (4, tiny.LENGTH), generator=torch.Generator().manual_seed(seed))
    gradients = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = F.cross_entropy(network(labels, var_input).logits.float().mT, targets)
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    kinds: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for (name, _), exact, low in zip(network.named_parameters(), *gradients, strict=True):
        if "scale_mul" not in name:
            assert ((low - exact).norm() / exact.norm()).item() < 0.05, name
        for kind in ("all", re.sub(r"blocks\.\d+\.", "", name)):
            kinds.setdefault(kind, []).append((exact.flatten(), low.flatten()))
    for kind, pairs in kinds.items():
        exact, low = map(torch.cat, zip(*pairs, strict=True))
        assert ((low - exact).norm() / exact.norm()).item() < (0.01 if kind == "all" else 0.03), kind


def test_the_benchmarks_plain_reference_computes_the_same_logits() -> None:
    network = tiny.var()
    labels, var_input, _ = tiny.batch()
    torch.testing.assert_close(reference.forward(network, labels, var_input), network(labels, var_input).logits)


def test_bfloat16_training_on_a_cpu_has_the_gradients_of_the_fused_attention() -> None:
    q, k, v = torch.randn(3, 2, 2, tiny.LENGTH, 8).bfloat16()
    ends = (1, 5, tiny.LENGTH)
    exact = block_causal_attention(q.double(), k.double(), v.double(), ends, 0.125)
    low = block_causal_attention(q.requires_grad_(), k, v, ends, 0.125)  # q needs a gradient: written out
    assert ((low - exact).norm() / exact.norm()).item() < 0.01


@torch.no_grad()
@pytest.mark.parametrize("scores", [1, 200, 1 << 24])
def test_bfloat16_sampling_on_a_cpu_attends_as_the_fused_kernel_does(
    monkeypatch: pytest.MonkeyPatch, scores: int
) -> None:
    """However many images are taken at a time."""
    monkeypatch.setattr(attention, "SCORES", scores)
    cache = KVCache(3, 2, 9, 8, like=torch.empty(0, dtype=torch.bfloat16))
    for length in (4, 5):
        q, k, v = torch.randn(3, 3, 2, length, 8).bfloat16()
        k, v = cache.append(k, v)
        exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=0.5)
        low = attention.attend(q, k, v, 0.5)
        assert ((low - exact).norm() / exact.norm()).item() < 0.01
