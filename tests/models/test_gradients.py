"""Gradients written out by hand are those autograd would find."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from fvar.models.gradients import modulated_norm, prefix_attention, prefixes, runs, unit_length

SCALES = [(1,), (1, 5), (4, 20, 84), (1, 5, 14, 30, 55)]


def test_unit_length_and_its_gradients() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    size = (torch.rand(1, 3, 1, 1, dtype=torch.float64) + 0.5).requires_grad_()
    torch.testing.assert_close(unit_length(x, size), F.normalize(x, dim=-1) * size)
    assert torch.autograd.gradcheck(unit_length, (x, size))
    assert torch.autograd.gradcheck(unit_length, (x, torch.ones((), dtype=torch.float64)))


def test_unit_length_of_a_zero_vector_is_zero_and_its_gradient_finite() -> None:
    x = torch.zeros(1, 4, requires_grad=True)
    y = unit_length(x, torch.ones(()))
    y.sum().backward()
    assert torch.all(y == 0)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_modulated_norm_and_its_gradients() -> None:
    x, scale, shift = (torch.randn(2, n, 6, dtype=torch.float64, requires_grad=True) for n in (5, 1, 1))
    expected = F.layer_norm(x, (6,), eps=1e-3) * (1 + scale) + shift
    torch.testing.assert_close(modulated_norm(x, scale, shift, 1e-3), expected)
    assert torch.autograd.gradcheck(lambda x, scale, shift: modulated_norm(x, scale, shift, 1e-3), (x, scale, shift))


def test_modulated_norm_keeps_its_input_and_no_second_map_of_its_size() -> None:
    x, scale, shift = (torch.randn(2, n, 64, requires_grad=True) for n in (50, 1, 1))
    kept = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() >= x.numel():
            kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        modulated_norm(x, scale, shift, 1e-6)
    assert kept == {x.data_ptr()}


@pytest.mark.parametrize("ends", SCALES)
def test_attention_over_prefixes_and_its_gradients(ends: tuple[int, ...]) -> None:
    q, k, v = torch.randn(3, 2, ends[-1], 4, dtype=torch.float64, requires_grad=True).unbind()
    level = torch.cat([torch.full((b - a,), i) for i, (a, b) in enumerate(pairwise((0, *ends)))])
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=level[:, None] >= level, scale=1.0)
    torch.testing.assert_close(prefix_attention(q, k, v, ends), dense)
    if ends[-1] < 60:
        assert torch.autograd.gradcheck(lambda q, k, v: prefix_attention(q, k, v, ends), (q, k, v))


@pytest.mark.parametrize("beyond", [0, 3])  # tokens that no prefix has
@pytest.mark.parametrize("ends", [*SCALES, (2, 2, 7)])
def test_prefixes_have_the_gradient_that_slices_have_to_the_bit(ends: tuple[int, ...], beyond: int) -> None:
    x = torch.randn(2, 3, ends[-1] + beyond, 4, requires_grad=True)
    weights = [torch.randn(2, 3, end, 4) for end in ends]
    found = []
    for cut in (lambda x: prefixes(x, ends), lambda x: [x[:, :, :end] for end in ends]):
        parts = cut(x)
        assert [part.data_ptr() for part in parts] == [x.data_ptr()] * len(ends)  # views, not copies
        (gradient,) = torch.autograd.grad([(part * w).sum() for part, w in zip(parts, weights, strict=True)], x)
        found.append(gradient)
    assert torch.equal(*found)


def test_a_prefix_that_nobody_used_has_no_part_in_the_gradient() -> None:
    x = torch.randn(1, 6, 2, requires_grad=True)
    short, _, whole = prefixes(x, (2, 4, 6))
    (gradient,) = torch.autograd.grad(short.sum() + 2 * whole.sum(), x)
    assert torch.equal(gradient, torch.tensor([3.0, 3, 2, 2, 2, 2])[None, :, None].expand(1, 6, 2))


@pytest.mark.parametrize("ends", SCALES)
def test_runs_cover_every_query_once_and_show_it_its_own_scale_and_coarser_ones(ends: tuple[int, ...]) -> None:
    level = torch.cat([torch.full((b - a,), i) for i, (a, b) in enumerate(pairwise((0, *ends)))])
    visible = torch.zeros(ends[-1], ends[-1], dtype=torch.int64)
    for start, end, hidden in runs(ends, torch.device("cpu")):
        visible[start:end, :end] += (
            torch.ones(end - start, end, dtype=torch.int64) if hidden is None else (~hidden).long()
        )
    assert torch.equal(visible, (level[:, None] >= level).long())
