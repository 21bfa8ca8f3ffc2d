"""Claims of fvar.focus.pyramid, against a direct convolution in float64 and against signals whose views are known."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fvar.config import Digital, Kernel, PyramidConfig, Schedule
from fvar.focus import optics, pyramid, spectrum
from fvar.focus.pyramid import FocusPyramid

VAR_SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # 10 scales, most of which do not divide 16


def image(
    side: int, batch: int = 2, channels: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, channels, side, side, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)


def mirrored(position: int, side: int) -> int:
    """Index of the pixel that stands at `position` when the image continues as its mirror image: dcba|abcd|dcba."""
    while not 0 <= position < side:
        position = -1 - position if position < 0 else 2 * side - 1 - position
    return position


def directly_blurred(x: torch.Tensor, psf: torch.Tensor) -> torch.Tensor:
    """Plain convolution in float64 of the mirrored image."""
    side, reach = x.shape[-1], len(psf) // 2
    index = [mirrored(i, side) for i in range(-reach, side + reach)]
    extended = x.double()[..., index, :][..., :, index].reshape(-1, 1, len(index), len(index))
    return F.conv2d(extended, psf[None, None]).view(x.shape)


def directly_sampled(x: torch.Tensor, m: int, digital: str) -> torch.Tensor:
    """The sampler of scale m on x (..., S, S), one output at a time per axis."""
    side = x.shape[-1]
    if digital == "bicubic":
        return x if m == side else F.interpolate(x, (m, m), mode="bicubic", antialias=True)
    weights = torch.zeros(m, side, dtype=torch.float64)
    for i in range(m):
        if digital == "area":
            first, last = i * side // m, -(-(i + 1) * side // m)
            weights[i, first:last] = 1 / (last - first)
        elif side % m == 0:
            weights[i, i * (side // m) + side // m // 2] = 1
        else:
            centre = (i + 0.5) * side / m - 0.5
            for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
                t = abs(centre - j)
                keys = 1.5 * t**3 - 2.5 * t**2 + 1 if t <= 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
                weights[i, mirrored(j, side)] += keys
    return weights @ x @ weights.T


# ------------------------------------------------------------------------------------------------------ right views


@pytest.mark.parametrize("digital", ["decimate", "area", "bicubic"])
@pytest.mark.parametrize("kernel", ["disk", "gaussian"])
@pytest.mark.parametrize("patch_nums", [(2, 4, 8, 16), VAR_SCALES])
def test_views_equal_a_direct_convolution_sampled_at_the_same_points(
    patch_nums: tuple[int, ...], kernel: Kernel, digital: Digital
) -> None:
    x = image(64)
    views = FocusPyramid(patch_nums, 4, 5.0, kernel=kernel, digital=digital).eval()(x)
    for k, (p, rho) in enumerate(zip(patch_nums, optics.radius_schedule(len(patch_nums), 5.0), strict=True)):
        psf = optics.disk_psf(rho) if kernel == "disk" else optics.gaussian_psf(rho / 2)
        focused = directly_sampled(directly_blurred(x, psf), 4 * p, digital)
        assert views.focused[k].shape == (2, 3, 4 * p, 4 * p)
        assert (views.focused[k] - focused).abs().max() < 1e-5
        assert (views.digital[k] - directly_sampled(x.double(), 4 * p, digital)).abs().max() < 1e-5


@given(
    patch_nums=st.sets(st.integers(1, 7), min_size=1, max_size=4).map(sorted),
    factor=st.integers(1, 5),
    rho_max=st.floats(0, 20),
    schedule=st.sampled_from(["cosine", "linear", "geometric"]),
    channels=st.sampled_from([1, 3]),
)
@settings(max_examples=60, deadline=None)
def test_any_sizes_and_radii_equal_a_direct_convolution(
    patch_nums: list[int], factor: int, rho_max: float, schedule: Schedule, channels: int
) -> None:
    """Odd sides, 1 x 1 views, grey images, radii larger than the image."""
    side = factor * patch_nums[-1]
    x = image(side, channels=channels)
    views = FocusPyramid(patch_nums, factor, rho_max, schedule).eval()(x)
    for k, (p, rho) in enumerate(
        zip(patch_nums, optics.radius_schedule(len(patch_nums), rho_max, schedule), strict=True)
    ):
        focused = directly_sampled(directly_blurred(x, optics.disk_psf(rho)), factor * p, "decimate")
        assert views.focused[k].shape == (2, channels, factor * p, factor * p)
        assert (views.focused[k] - focused).abs().max() < 1e-5


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("digital", ["decimate", "area", "bicubic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_residual_is_digital_minus_focused_to_the_bit(dtype: torch.dtype, digital: Digital, training: bool) -> None:
    x = image(32, dtype=dtype)
    views = FocusPyramid(VAR_SCALES, 2, 4.0, digital=digital).train(training)(x)
    for L, D, A in zip(*views, strict=True):
        assert torch.equal(A, D - L)
        # Added back, one rounding of A is all that may be left.
        assert ((L + A - D).abs() <= 2 * torch.finfo(dtype).eps * (D - L).abs() + torch.finfo(dtype).eps).all()


def test_the_sharpest_state_is_the_image_itself() -> None:
    x = image(32)
    views = FocusPyramid((1, 2, 4), 8, 6.0).eval()(x)
    assert torch.equal(views.focused[-1], x)
    assert torch.equal(views.digital[-1], x)
    assert not views.residual[-1].any()


def test_a_single_scale_is_the_image() -> None:
    x = image(24)
    views = FocusPyramid((3,), 8, 12.0).eval()(x)
    assert [len(part) for part in views] == [1, 1, 1]
    assert torch.equal(views.focused[0], x)


def test_without_a_kernel_both_views_are_the_digital_one() -> None:
    views = FocusPyramid((1, 3, 4), 8, 12.0, kernel="none", digital="area").eval()(image(32))
    assert all(torch.equal(L, D) for L, D in zip(views.focused, views.digital, strict=True))


# --------------------------------------------------------------------------------------------------- alignment and mean


@pytest.mark.parametrize("kernel", ["disk", "gaussian"])
@pytest.mark.parametrize("digital", ["decimate", "area", "bicubic"])
def test_a_ramp_leaves_no_residual_so_both_views_share_one_grid(digital: Digital, kernel: Kernel) -> None:
    """A shift of 0.01 px between L_k and D_k would leave 0.01 px of slope everywhere."""
    side, rho = 256, 12.0
    slope = 1.8 / side
    ramp = (torch.arange(side) - side / 2) * slope
    x = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), (ramp + ramp[:, None]) / 2])[None]
    views = FocusPyramid(VAR_SCALES, 16, rho, kernel=kernel, digital=digital).eval()(x)
    for A in views.residual:
        edge = math.ceil(2.6 * rho * A.shape[-1] / side) + 2  # the mirrored border bends the ramp
        interior = A[..., edge:-edge, edge:-edge] if 2 * edge < A.shape[-1] else A[..., :0, :0]
        assert interior.numel() or A.shape[-1] < 3 * edge
        assert (interior.abs() < 0.01 * slope + 2e-6).all()


@pytest.mark.parametrize("digital", ["decimate", "area", "bicubic"])
def test_views_sample_a_ramp_at_the_stated_points(digital: Digital) -> None:
    side = 64
    x = (torch.arange(side) / side).expand(1, 1, side, side).contiguous()
    views = FocusPyramid(VAR_SCALES, 4, 0.0, digital=digital).eval()(x)
    for D in views.digital:
        m = D.shape[-1]
        s = side / m
        centre = torch.arange(m) * s + s // 2 if digital == "decimate" and s.is_integer() else None
        centre = (torch.arange(m) + 0.5) * s - 0.5 if centre is None else centre
        tolerance = 0.51 if digital == "area" and not s.is_integer() else 0.01  # adaptive pooling's uneven intervals
        assert ((D[0, 0, m // 2] * side - centre)[2:-2].abs() < tolerance).all()


def test_blur_keeps_the_mean_of_the_image() -> None:
    x = image(64)
    for L in FocusPyramid((2, 4, 8, 16), 4, 9.0, digital="area").eval()(x).focused:
        assert torch.allclose(L.mean((-2, -1)), x.mean((-2, -1)), atol=1e-6)


def test_more_blur_leaves_less_detail() -> None:
    x = image(64)
    spread = [FocusPyramid((8, 16), 4, rho).eval()(x).focused[0].std().item() for rho in (0.0, 1.0, 3.0, 9.0)]
    assert spread == sorted(spread, reverse=True)


def test_the_disk_removes_most_of_what_decimation_aliases() -> None:
    x = image(64)  # white noise: beyond Nyquist nearly everywhere
    views = FocusPyramid((4, 16), 4, 6.0).eval()(x)
    assert views.focused[0].square().mean() < 0.02 * views.digital[0].square().mean()
    assert spectrum.aliasing_energy(x, 4).min() > 0.5


# ------------------------------------------------------------------------------------------------------------- noise


def test_noise_of_beta_k_is_added_to_the_focused_views_in_training_only() -> None:
    build = FocusPyramid((4, 8, 12, 16), 4, 3.0, beta=(1e-3, 1e-2))
    x = image(64, batch=8)
    quiet, noisy = build.eval()(x), build.train()(x, torch.Generator().manual_seed(0))
    for k, beta in enumerate((0.001, 0.004, 0.007, 0.010)):
        noise = noisy.focused[k] - quiet.focused[k]
        assert noise.std().item() == pytest.approx(beta, rel=0.05)
        assert noise.mean().abs() < beta / 10
        assert torch.equal(noisy.digital[k], quiet.digital[k])


def test_the_generator_decides_the_noise() -> None:
    build, x = FocusPyramid((2, 4), 4, 3.0).train(), image(16)
    one, same, other = (build(x, torch.Generator().manual_seed(seed)).focused[0] for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.manual_seed(5)
    assert torch.equal(build(x).focused[0], one)


# ------------------------------------------------------------------------------------------------------- how it is used


def test_views_of_an_image_do_not_depend_on_the_batch_it_is_in() -> None:
    x = image(64, batch=60)  # several chunks
    build = FocusPyramid((2, 4, 8, 16), 4, 12.0).eval()
    assert build._chunks(x)[0].shape[0] < 60
    together, alone = build(x), build(x[41:42])
    for k in range(4):
        assert torch.allclose(together.focused[k][41], alone.focused[k][0], atol=1e-6)


def test_half_precision_views_are_the_float32_views_rounded() -> None:
    x = image(32, dtype=torch.bfloat16)
    build = FocusPyramid((3, 4, 8), 4, 3.0).eval()
    for half, full in zip(build(x).focused, build(x.float()).focused, strict=True):
        assert half.dtype == torch.bfloat16
        assert torch.equal(half, full.bfloat16())


def test_autocast_does_not_lower_the_precision() -> None:
    x, build = image(32), FocusPyramid((3, 4, 8), 4, 3.0).eval()
    with torch.autocast("cpu", torch.bfloat16):
        views = build(x)
    assert all(torch.equal(a, b) for a, b in zip(views.focused, build(x).focused, strict=True))


@pytest.mark.parametrize("digital", ["decimate", "area", "bicubic"])
def test_views_are_differentiable(digital: Digital) -> None:
    build = FocusPyramid((2, 3, 4), 2, 1.5, digital=digital).double().eval()
    x = (image(8, batch=1, channels=1).double() * 0.9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sum((L.square().sum() + A.sum()) for L, _, A in zip(*build(x))), x)  # noqa: B905


@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_graph_breaks(training: bool) -> None:
    build = FocusPyramid((2, 3, 4), 4, 3.0, beta=(0.0, 0.0)).train(training)
    x = image(16)
    compiled = torch.compile(build, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(x).focused, build(x).focused, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_nothing_is_saved_with_a_model() -> None:
    assert not FocusPyramid(VAR_SCALES, 4, 5.0).state_dict()


def test_the_configured_radius_follows_the_image() -> None:
    assert pyramid.from_config(PyramidConfig()).radii == pytest.approx((12, 9, 3, 0))
    assert pyramid.from_config(PyramidConfig(downsample_factor=8)).radii == pytest.approx((6, 4.5, 1.5, 0))
    assert pyramid.from_config(PyramidConfig(downsample_factor=8, rho_reference=0)).radii[0] == 12


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_nums": ()}, r"patch_nums must hold at least one scale .* got \(\)"),
        ({"patch_nums": (4, 2)}, r"patch_nums must .* rise .* got \(4, 2\)"),
        ({"patch_nums": (0, 2)}, r"patch_nums must .* got \(0, 2\)"),
        ({"downsample_factor": 0}, "downsample_factor must be at least 1, got 0"),
        ({"rho_max": -1.0}, r"rho_max must be a finite number >= 0 px, got -1"),
        ({"schedule": "step"}, "kind must be 'cosine', 'linear' or 'geometric', got 'step'"),
        ({"kernel": "box"}, "kernel must be 'disk', .*'disk_pixel' or 'none', got 'box'"),
        ({"digital": "nearest"}, "digital must be 'decimate', 'area' or 'bicubic', got 'nearest'"),
        ({"beta": (0.1, -0.1)}, "beta must be two finite numbers >= 0"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"patch_nums": (2, 4), "downsample_factor": 4, "rho_max": 3.0} | change
    with pytest.raises(ValueError, match=message):
        FocusPyramid(**arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), r"x must be real floating point in \[-1, 1\], got torch.uint8"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.complex64), "x must be real floating point .* got torch.complex64"),
        (torch.zeros(1, 3, 16, 20), r"x must be \(B, C, 16, 16\).*got \(1, 3, 16, 20\)"),
        (torch.zeros(3, 16, 16), r"x must be \(B, C, 16, 16\).*got \(3, 16, 16\)"),
        (torch.full((1, 3, 16, 16), 255.0), r"x must lie in \[-1, 1\], got values from 255 to 255"),
        (torch.full((1, 3, 16, 16), math.nan), "x must lie in .* nan"),
    ],
)
def test_bad_images_are_named(x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FocusPyramid((2, 4), 4, 3.0)(x)
