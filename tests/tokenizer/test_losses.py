"""The tokenizer's losses against their definitions."""

import pytest
import torch
from torch import nn

from fvar.config import TokenizerLossConfig
from fvar.tokenizer import losses
from fvar.tokenizer.discriminator import MIN_SIDE, PatchDiscriminator
from fvar.tokenizer.perceptual import PerceptualDistance


def test_pixel_loss_is_weighted_l1_plus_l2() -> None:
    made, target = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)
    assert losses.pixel_loss(made, target, TokenizerLossConfig(l1=2.0, l2=4.0)) == 2.0 * 0.5 + 4.0 * 0.25


def test_psnr_takes_the_range_from_minus_one_to_one() -> None:
    x = torch.zeros(1, 3, 4, 4)
    torch.testing.assert_close(losses.psnr(x + 0.2, x), torch.tensor([20.0]))  # 10 log10(2 ** 2 / 0.2 ** 2)


def test_hinge_is_satisfied_beyond_the_margin() -> None:
    assert losses.hinge_discriminator(torch.tensor([1.5, 9.0]), torch.tensor([-2.0, -1.0])) == 0
    assert losses.hinge_discriminator(torch.tensor([0.0]), torch.tensor([0.0])) == 1
    assert losses.hinge_generator(torch.tensor([2.0, 4.0])) == -3


def test_adaptive_weight_makes_both_losses_pull_equally_at_the_last_layer() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 5), torch.randn(7, 5)
    made = layer(x)
    first, second = 100 * made.square().mean(), made.sin().mean()
    weight = losses.adaptive_weight(first, second, layer.weight)
    assert not weight.requires_grad
    a, b = (torch.autograd.grad(loss, layer.weight, retain_graph=True)[0] for loss in (first, weight * second))
    torch.testing.assert_close(a.norm(), b.norm(), rtol=0.01, atol=0)


def test_discriminator_judges_patches_down_to_21_px() -> None:
    net = PatchDiscriminator(8)
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 1, 8, 8)
    assert net(torch.zeros(2, 3, MIN_SIDE, MIN_SIDE)).shape == (2, 1, 2, 2)


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance()


@torch.no_grad()
def test_perceptual_distance_gives_the_numbers_of_the_package_its_weights_come_from(
    distance: PerceptualDistance,
) -> None:
    """Expected values: stlpips-pytorch 0.0.2, LPIPS(net="vgg", variant="shift_tolerant")."""
    t = torch.linspace(-1, 1, 40)
    y, x = torch.meshgrid(t, t, indexing="ij")
    image = torch.stack([(9 * (x * x + y * y)).cos(), (7 * x).sin(), (5 * y).cos()])[None]
    torch.testing.assert_close(distance(image, image.roll(3, -1)), torch.tensor([0.2694248]), rtol=1e-3, atol=0)
    torch.testing.assert_close(distance(image, -image), torch.tensor([0.6099176]), rtol=1e-3, atol=0)
    assert distance(image, image) == 0


def test_perceptual_distance_refuses_views_below_32_px(distance: PerceptualDistance) -> None:
    with pytest.raises(ValueError, match="32"):
        distance(torch.zeros(1, 3, 31, 31), torch.zeros(1, 3, 31, 31))
