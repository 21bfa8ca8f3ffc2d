"""The feed-forward layer's activation as sampling computes it."""

import pytest
import torch
from torch.nn import functional as F

from fvar.models.blocks import BLOCK, FeedForward, gelu_


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_gelu_in_place_is_the_tanh_approximation(dtype: torch.dtype, within: float) -> None:
    """Over several blocks of the cache, a last one that is not full, and values beyond which the sigmoid saturates."""
    x = torch.linspace(-40, 40, 2 * BLOCK + 37, dtype=dtype).view(1, -1)
    expected = F.gelu(x.double(), approximate="tanh")
    out = gelu_(x)
    assert out.data_ptr() == x.data_ptr()
    torch.testing.assert_close(out.double(), expected, rtol=within, atol=within)


def test_gelu_in_bfloat16_is_rounded_once() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = every[every.isfinite() & (every.abs() < 1e10)]
    exact = F.gelu(x.double(), approximate="tanh")
    off = (gelu_(x.clone()).double() - exact).abs()
    half_ulp = exact.abs() * 2**-8 + 1e-9  # float64's 1 + tanh cancels where x is far below zero
    assert (off <= 1.01 * half_ulp).all()


def test_feed_forward_computes_the_same_with_and_without_gradients() -> None:
    torch.manual_seed(0)
    layer = FeedForward(32, 128)
    x = torch.randn(2, 5, 32)
    kept = x.clone()
    with torch.no_grad():
        without = layer(x)
    torch.testing.assert_close(without, layer(x), rtol=0, atol=1e-6)
    assert torch.equal(x, kept)
