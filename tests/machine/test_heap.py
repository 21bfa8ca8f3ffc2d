"""Freed memory goes back to the system in the backward pass of large networks, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fvar.machine import heap


@pytest.fixture
def trims(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the calls, of a stride that small networks can make."""
    calls: list[int] = []

    def trim(pad: int) -> int:
        calls.append(pad)
        return 1

    monkeypatch.setattr(heap, "_trimmer", lambda: trim)
    monkeypatch.setattr(heap, "STRIDE", 4 * 4 * 4)  # one layer's weights
    return calls


def backward(layers: int) -> nn.Module:
    network = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(layers)))
    heap.trim_in_backward(network.parameters())
    network(torch.ones(1, 4)).sum().backward()
    return network


def test_once_per_stride_of_new_gradients(trims: list[int]) -> None:
    backward(3)
    assert len(trims) == 3


def test_never_for_a_network_below_one_stride(trims: list[int]) -> None:
    backward(1)
    assert trims == []


def test_a_library_without_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_trimmer", lambda: None)
    monkeypatch.setattr(heap, "STRIDE", 0)
    assert all(parameter.grad is not None for parameter in backward(2).parameters())
