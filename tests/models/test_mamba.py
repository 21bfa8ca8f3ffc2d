"""Mamba-2 in chunks is the recurrence it stands for, token after token, however the sequence is cut."""

from __future__ import annotations

import importlib.util
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fvar.config import MambaConfig
from fvar.errors import UserError
from fvar.models import mamba
from fvar.models.gradients import causal_convolution, gated_norm, segment_decay
from fvar.models.mamba import Mamba2, chunked, state_space
from tests import plain_var, tiny

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def sequential(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token after another: S = exp(dt A) S + dt x B^T, y = S C."""
    y = []
    for t in range(x.shape[1]):
        state = (dt[:, t] * a).exp()[..., None, None] * state
        state = state + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, None, None, :]
        y.append((state * c[:, t, None, None, :]).sum(-1))
    return torch.stack(y, dim=1), state


def inputs(
    batch: int, length: int, heads: int, width: int, n: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Inputs:
    """Random inputs of `state_space`, with steps and decays over the range of the initial values and beyond."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    made = (
        normal(batch, length, heads, width),
        (normal(batch, length, heads) * 2 - 3).exp(),
        -(normal(heads)).exp() * 4,
        normal(batch, length, n),
        normal(batch, length, n),
        normal(batch, heads, width, n),
    )
    return tuple(t.to(dtype).requires_grad_() for t in made)  # type: ignore[return-value]


def gradients(made: tuple[Tensor, Tensor], given_inputs: Inputs) -> tuple[Tensor, ...]:
    """Of a sum in which every output and the last state have a weight of their own."""
    weights = [torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part) for part in made]
    return torch.autograd.grad(made, given_inputs, weights, retain_graph=True)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 30),
    heads=st.integers(1, 3),
    width=st.integers(1, 5),
    n=st.integers(1, 5),
    chunk=st.integers(1, 35),
    seed=st.integers(0, 1000),
)
def test_any_chunks_give_the_recurrence_and_its_gradients(
    batch: int, length: int, heads: int, width: int, n: int, chunk: int, seed: int
) -> None:
    exact = inputs(batch, length, heads, width, n, seed=seed)
    expected = sequential(*exact)
    made = chunked(*exact, chunk=chunk)
    torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(made, exact), gradients(expected, exact), rtol=1e-10, atol=1e-10)

    low: Inputs = tuple(t.detach().float().requires_grad_() for t in exact)  # type: ignore[assignment]
    made = chunked(*low, chunk=chunk)
    for mine, true in zip((*made, *gradients(made, low)), (*expected, *gradients(expected, exact)), strict=True):
        assert ((mine - true).norm() / true.norm().clamp_min(1e-6)).item() < 1e-4


def test_the_sequence_of_ten_scales_in_float32_is_the_recurrence_to_a_part_in_ten_thousand() -> None:
    exact = inputs(1, 680, 2, 8, 16)
    expected = sequential(*exact)
    low: Inputs = tuple(t.detach().float().requires_grad_() for t in exact)  # type: ignore[assignment]
    made = chunked(*low)
    for mine, true in zip((*made, *gradients(made, low)), (*expected, *gradients(expected, exact)), strict=True):
        assert ((mine - true).norm() / true.norm()).item() < 1e-4


def test_a_step_so_long_that_all_is_forgotten_leaves_neither_nan_nor_infinity() -> None:
    x, dt, a, b, c, state = (t.detach() for t in inputs(1, 20, 1, 2, 3, torch.float32))
    dt = dt.clone().index_fill_(1, torch.tensor([3, 11]), 1e5).requires_grad_()
    made = chunked(x, dt, a, b, c, state, chunk=8)
    (gradient,) = torch.autograd.grad(made[0].sum() + made[1].sum(), dt)
    assert all(t.isfinite().all() for t in (*made, gradient))


def test_the_causal_convolution_and_its_gradients() -> None:
    x, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 8, 5), (5, 1, 4), 5)
    )
    expected = torch.nn.functional.silu(torch.nn.functional.conv1d(x.mT, weight, bias, groups=5).mT)
    torch.testing.assert_close(causal_convolution(x, weight, bias), expected)
    assert torch.autograd.gradcheck(causal_convolution, (x, weight, bias))
    assert causal_convolution(x.bfloat16(), weight.float(), bias.float()).dtype == torch.bfloat16


def test_the_decay_of_segments_and_its_gradients() -> None:
    rates = -torch.rand(2, 7, dtype=torch.float64, requires_grad=True)
    expected = torch.stack(
        [
            torch.stack([rates[:, j + 1 : i + 1].sum(1).exp() if j <= i else torch.zeros(2) for j in range(7)], dim=-1)
            for i in range(7)
        ],
        dim=-2,
    )
    torch.testing.assert_close(segment_decay(rates), expected)
    assert torch.autograd.gradcheck(segment_decay, (rates,))


def test_the_gated_norm_and_its_gradients() -> None:
    x, gate, weight = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (2, 3, 5), 5)
    )
    expected = torch.nn.functional.rms_norm(x * torch.nn.functional.silu(gate), (5,), weight, 1e-5)
    torch.testing.assert_close(gated_norm(x, gate, weight, 1e-5), expected)
    assert torch.autograd.gradcheck(lambda x, gate, weight: gated_norm(x, gate, weight, 1e-5), (x, gate, weight))
    assert gated_norm(x.bfloat16(), gate.bfloat16(), weight.float(), 1e-5).dtype == torch.bfloat16


def small(cfg: MambaConfig, dim: int = 12, dtype: torch.dtype = torch.float32) -> Mamba2:
    mixer = Mamba2(dim, cfg)
    tiny.awake(mixer)
    return mixer.to(dtype)


CONFIGS = [
    MambaConfig(d_state=4, head_dim=6),
    MambaConfig(d_state=5, d_conv=1, expand=1, head_dim=12),
    MambaConfig(d_state=1, d_conv=7, expand=3, head_dim=1),
]


@pytest.mark.parametrize("cfg", CONFIGS)
def test_the_mixer_is_its_plain_second_implementation(cfg: MambaConfig) -> None:
    mixer, x = small(cfg, dtype=torch.float64), torch.randn(2, 150, 12, dtype=torch.float64)
    state = {f"m.{key}": value for key, value in mixer.state_dict().items()}
    torch.testing.assert_close(mixer(x), plain_var.mamba(state, "m", x))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=6), index=st.integers(0, len(CONFIGS) - 1))
def test_a_state_carried_over_any_pieces_gives_what_the_whole_sequence_gives(cuts: list[int], index: int) -> None:
    mixer, x = small(CONFIGS[index]), torch.randn(2, 60, 12, generator=torch.Generator().manual_seed(0))
    bounds = sorted({0, 60, *cuts})
    state = mixer.new_cache(2, x)
    pieces = [mixer(x[:, start:end], state) for start, end in pairwise(bounds)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), mixer(x), rtol=1e-5, atol=1e-5)


def test_no_token_changes_an_earlier_output() -> None:
    mixer, x = small(CONFIGS[0]), torch.randn(1, 30, 12)
    before = mixer(x)
    for position in range(30):
        changed = x.clone()
        changed[:, position] += 1
        difference = (mixer(changed) - before).abs().amax(-1)[0]
        assert torch.all(difference[:position] == 0)
        assert torch.all(difference[position:] > 0)


def test_initial_steps_and_decays_lie_where_mamba_2_puts_them() -> None:
    mixer = Mamba2(512, MambaConfig(head_dim=1))
    dt, decay = torch.nn.functional.softplus(mixer.dt_bias), mixer.A_log.exp()
    assert 1e-3 <= dt.min() < 1.1e-3 < 9e-2 < dt.max() <= 1e-1
    assert 1 <= decay.min() < 1.2 < 15.8 < decay.max() <= 16
    assert torch.all(mixer.D == 1)
    assert torch.all(mixer.norm.weight == 1)


def test_in_bfloat16_the_mixer_stays_within_two_percent() -> None:
    mixer, x = small(MambaConfig(d_state=16, head_dim=16), dim=64), torch.randn(2, 100, 64)
    exact = mixer(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mixer(x)
    assert mixed.dtype == torch.bfloat16
    assert ((mixed - exact).norm() / exact.norm()).item() < 0.02


@pytest.mark.skipif(
    not (torch.cuda.is_available() and importlib.util.find_spec("mamba_ssm")), reason="needs a GPU and mamba_ssm"
)
def test_the_kernels_of_mamba_ssm_compute_the_same() -> None:
    exact: Inputs = tuple(t.detach().float().cuda().requires_grad_() for t in inputs(2, 300, 4, 64, 64))  # type: ignore[assignment]
    assert mamba._kernel() is not None
    made, expected = state_space(*exact), chunked(*exact)
    for mine, true in zip((*made, *gradients(made, exact)), (*expected, *gradients(expected, exact)), strict=True):
        assert ((mine - true).norm() / true.norm()).item() < 5e-3  # its products are in TF32


@pytest.mark.parametrize("field", ["d_state", "d_conv", "expand", "head_dim"])
def test_a_size_below_one_is_named(field: str) -> None:
    with pytest.raises(UserError, match=f"MambaConfig.{field} must be at least 1, got 0"):
        MambaConfig(**{field: 0})
