"""The speed that is logged is what was done in the time it took."""

from __future__ import annotations

import time

import pytest
import torch

from fvar.estimate import estimate
from fvar.training import throughput
from fvar.training.throughput import Throughput, peak_flops
from tests.gpu import measure

GPU = torch.device("cuda", 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows; tests turn it on."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_utilisation_is_the_share_of_all_ranks_peak(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """MFU = images/s x FLOPs per image / (ranks x peak), Chowdhery et al. 2022."""
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 300e12)
    speed = Throughput(torch.device("cpu"), tokens_per_item=680, flops_per_item=1.2e12, ranks=8)
    for _ in range(3):
        speed.count(256, waited=0.1)
    clock[0] += 2.0
    values = speed.read()
    rate = 3 * 256 / 2.0
    assert values["images_per_second"] == rate
    assert values["tokens_per_second"] == 680 * rate
    assert values["data_wait"] == pytest.approx(0.15)
    assert values["model_flops_utilisation"] == pytest.approx(rate * 1.2e12 / (8 * 300e12))


def test_the_utilisation_of_d16_is_that_of_a_calculation_by_hand(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """d16 at 256 px: C = 1024, 680 tokens in maps of 1, 4, ..., 256, V = 4096; a multiply-add is 2 FLOPs."""
    blocks, width, tokens = 16, 1024, 680
    products = 2 * tokens * blocks * 12 * width**2  # per block C x 3C, C x C, C x 4C, 4C x C
    pairs = 1 * 1 + 4 * 5 + 9 * 14 + 16 * 30 + 25 * 55 + 36 * 91 + 64 * 155 + 100 * 255 + 169 * 424 + 256 * 680
    attention = blocks * 2 * (2 * pairs * width)  # q k^T and the weighted sum of v
    modulations = 2 * (blocks * 6 + 2) * width**2  # once per image
    ends = 2 * tokens * width * 4096 + 2 * 679 * 32 * width  # classifier and input
    by_hand = 3 * (products + attention + modulations + ends)  # backward: twice the forward pass
    assert by_hand == pytest.approx(3 * 298.53e9, rel=1e-4)

    stage = measure.Sizes().stage(16, None)
    assert estimate(stage).model_flops_per_image == pytest.approx(by_hand, rel=2e-3)  # with the input from tokens
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 312e12)
    speed = Throughput(torch.device("cpu"), tokens, estimate(stage).model_flops_per_image, ranks=1)
    speed.count(140, waited=0.0)
    clock[0] += 1.0
    assert speed.read()["model_flops_utilisation"] == pytest.approx(0.402, abs=2e-3)  # 140 images/s on an A100


def test_evaluations_are_no_part_of_it_and_every_reading_starts_anew(clock: list[float]) -> None:
    speed = Throughput(torch.device("cpu"), 0, 0.0, 1)
    speed.count(10, 0.0)
    clock[0] += 7.0
    speed.pause(5.0)
    assert speed.read()["images_per_second"] == 5
    speed.count(3, 0.0)
    clock[0] += 1.0
    values = speed.read()
    assert values["images_per_second"] == 3
    assert "model_flops_utilisation" not in values


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 PCIe", None),  # another clock, another peak
        ("Some other GPU", None),
    ],
)
def test_peak_is_that_of_the_device_or_unknown(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(GPU) == peak


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
