"""The original VAR's schedule and parameter groups."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from fvar.config import TrainConfig
from fvar.training import optim


def test_schedule_warms_up_holds_and_falls_linearly() -> None:
    config = TrainConfig(steps=1001, warmup=0.02, warmup_from=0.005, flat=0.05, final=0.1)
    factors = [optim.lr_factor(config, step) for step in range(1001)]
    assert factors[0] == pytest.approx(0.005)
    assert factors[10] == pytest.approx(0.005 + 0.995 * 10 / 20.02)
    assert factors[21:70] == [1.0] * 49
    assert factors[-1] == pytest.approx(0.1)
    falls = [a - b for a, b in itertools.pairwise(factors[80:])]
    assert max(falls) == pytest.approx(min(falls))


def test_schedule_of_a_single_step_is_defined() -> None:
    assert 0 < optim.lr_factor(TrainConfig(steps=1, warmup=0.0), 0) <= 1


@pytest.mark.parametrize(("batch_size", "peak"), [(256, 1e-4), (768, 3e-4), (64, 2.5e-5)])
def test_rate_grows_with_the_batch(batch_size: int, peak: float) -> None:
    assert optim.peak_lr(TrainConfig(lr=1e-4, batch_size=batch_size)) == pytest.approx(peak)


DECAYED = ["word_embed.weight", "attn.mat_qkv.weight", "attn.proj.weight", "ffn.fc1.weight", "ada_lin.1.weight",
           "head.weight", "encoder.conv_in.weight", "post_quant_conv.weight"]  # fmt: skip
KEPT = [
    "class_emb.weight",
    "lvl_embed.weight",
    "pos_1LC",
    "pos_start",
    "attn.scale_mul_1H11",
    "ada_gss",
    "quantize.embedding.weight",
]


@pytest.mark.parametrize("name", DECAYED)
def test_matrices_decay(name: str) -> None:
    assert optim.decays(f"student.blocks.0.{name}", torch.zeros(4, 4))


@pytest.mark.parametrize("name", KEPT)
def test_tables_positions_and_scales_do_not_decay(name: str) -> None:
    assert not optim.decays(f"student.{name}", torch.zeros(1, 4, 4))


@pytest.mark.parametrize("name", ["blocks.0.attn.q_bias", "encoder.norm_out.weight", "head.bias"])
def test_vectors_do_not_decay(name: str) -> None:
    assert not optim.decays(name, torch.zeros(4))


def test_optimiser_state_survives_the_flat_form() -> None:
    def make() -> tuple[nn.Module, torch.optim.AdamW]:
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        return net, optim.adamw(list(net.named_parameters()), TrainConfig())

    def step(net: nn.Module, optimiser: torch.optim.AdamW, seed: int) -> None:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        optimiser.zero_grad()
        net(x).square().mean().backward()
        optimiser.step()

    net, optimiser = make()
    step(net, optimiser, 1)
    flat = {key: value.clone() for key, value in optim.pack(optimiser, list(net.named_parameters())).items()}
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    step(net, optimiser, 2)

    other, fresh = make()
    other.load_state_dict(weights)
    optim.unpack(fresh, list(other.named_parameters()), flat)
    step(other, fresh, 2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_decay_pulls_matrices_towards_zero_only() -> None:
    net = nn.Linear(3, 3)
    before = [p.detach().clone() for p in net.parameters()]
    optimiser = optim.adamw(list(net.named_parameters()), TrainConfig(lr=1.0, batch_size=256, weight_decay=0.5))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert torch.allclose(net.weight, 0.5 * before[0])
    assert torch.equal(net.bias, before[1])
