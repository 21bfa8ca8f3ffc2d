"""SSIM as Wang et al. define it, and quality by scale: each number on images whose quality is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fvar.config import RuntimeConfig, Stage, TokensConfig
from fvar.data import open_dataset, to_float
from fvar.errors import UserError
from fvar.metrics import reconstruction
from fvar.metrics.features import Extractor
from fvar.metrics.scale_quality import ScaleQuality, reconstruct
from fvar.metrics.ssim import ssim
from fvar.rundir import RunDir
from fvar.stages import tokenizer as stage
from fvar.tokenizer.bundle import load_tokenizer
from tests.tasks.test_tokenizer import config

NO_FEATURES = "not wanted here"


# ----------------------------------------------------------------------------------------------------------------- SSIM


def literal_ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of two planes (H, W): Wang et al. 2004, Eq. 13 to 16, window by window."""
    at = np.arange(11) - 5
    weights = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            covariance = (weights * (x - mx) * (y - my)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append((2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def pictures(count: int, height: int = 20, width: int = 17, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(seed)).byte()


def test_ssim_is_the_mean_over_windows_and_channels_of_wangs_definition() -> None:
    a = pictures(2)
    b = (a.float() + 40 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255).byte()
    expected = [
        np.mean([literal_ssim(a[i, c].double().numpy(), b[i, c].double().numpy()) for c in range(3)]) for i in range(2)
    ]
    assert ssim(a, b).tolist() == pytest.approx(expected, rel=1e-9)


def test_ssim_is_symmetric_one_for_equal_images_and_falls_with_noise() -> None:
    a, noise = pictures(1), torch.randn(1, 3, 20, 17, generator=torch.Generator().manual_seed(1))
    ladder = [float(ssim(a, (a + strength * noise).clamp(0, 255).byte())) for strength in (0, 10, 30, 90)]
    assert ladder[0] == pytest.approx(1, abs=1e-12)
    assert ladder == sorted(ladder, reverse=True)
    other = pictures(1, seed=2)
    assert torch.allclose(ssim(a, other), ssim(other, a))


def test_ssim_of_a_flat_image_that_was_shifted_is_its_luminance_term() -> None:
    dark, light = torch.full((1, 1, 11, 11), 100), torch.full((1, 1, 11, 11), 150)
    c1 = (0.01 * 255) ** 2
    assert float(ssim(dark, light)) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(pictures(1, 10, 20), pictures(1, 10, 20))


# ------------------------------------------------------------------------------------------------------------- by scale


class Corners(nn.Module):
    """Stands for Inception: the means of the 2 x 2 quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


TOY = Extractor("toy", Corners(), 12)


class KnownTokenizer:
    """Its first scale shows the image with `error` grey values added where there is room, its second the image."""

    patch_nums = (1, 2)
    device = torch.device("cpu")

    def __init__(self, side: int, error: int) -> None:
        self.config = SimpleNamespace(
            signal="structure",
            quantiser=SimpleNamespace(reading="focus"),
            data=SimpleNamespace(image_size=side),
        )
        self.error = error
        self.vqvae = SimpleNamespace(indices=lambda views: views)

    def views(self, x: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(x, 2), x]

    def decode_prefixes(self, views: list[Tensor]) -> list[Tensor]:
        return [views[-1] + self.error / 127.5, views[-1]]


class KnownImages:
    """Images whose values leave room for an error above them."""

    image_size = 32

    def __init__(self, count: int) -> None:
        self.pixels = torch.randint(20, 200, (count, 3, 32, 32), generator=torch.Generator().manual_seed(3)).byte()

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: range) -> Tensor:
        return self.pixels[indices.start : indices.stop]


def known(error: int = 10, count: int = 40, **options: Any) -> list[ScaleQuality]:
    return reconstruct(KnownTokenizer(32, error), KnownImages(count), TOY, **options)  # type: ignore[arg-type]


def test_a_perfect_reconstruction_has_no_error_in_any_number() -> None:
    last = known()[-1]
    assert last.psnr is not None
    assert last.psnr > 100
    assert last.psnr_view == last.psnr
    assert last.ssim == pytest.approx(1)
    assert last.l1 == 0
    assert last.rfid.value == pytest.approx(0, abs=1e-6)
    assert last.rfid.label == "rFID@40"


def test_a_known_error_has_the_psnr_and_l1_of_its_size() -> None:
    first = known(error=10)[0]
    assert first.psnr == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)
    assert first.l1 == pytest.approx(10 / 255, abs=1e-6)
    assert first.rfid.value == pytest.approx(12 * 10**2, rel=1e-3)  # means moved by 10 in each of 12 features
    assert first.psnr_view is not None
    assert first.psnr is not None
    assert first.psnr_view < first.psnr  # the half-size view lacks the noise that the image has


def test_scales_count_their_tokens_and_no_number_depends_on_the_batches() -> None:
    whole, split = known(batch_size=40), known(batch_size=7)
    assert [(scale.scale, scale.tokens) for scale in whole] == [(1, 1), (2, 5)]
    for a, b in zip(whole, split, strict=True):
        assert a.psnr == pytest.approx(b.psnr)
        assert a.ssim == pytest.approx(b.ssim)
        assert a.rfid.value == pytest.approx(b.rfid.value, abs=1e-6)


# --------------------------------------------------------------------------------------------------------- on real runs


def made(root: Path, **changes: object) -> RunDir:
    """A tokenizer run whose two steps taught it nothing."""
    settings = config(train__steps=2, train__eval_every=2, train__eval_images=16, **changes)
    run = RunDir.create(root, Stage(settings), RuntimeConfig(device="cpu"))
    stage.run(run)
    run.update(state="done")
    return run


def test_psnr_of_all_scales_is_what_training_reports(tmp_path: Path) -> None:
    run = made(tmp_path)
    tokenizer, images = load_tokenizer(run), open_dataset(run.config.data, "heldout")  # type: ignore[attr-defined]
    found = reconstruct(tokenizer, images.select(range(16)), NO_FEATURES)
    assert found[-1].psnr == pytest.approx(run.metrics("heldout")[-1]["psnr"], abs=0.01)  # 8 bits against float
    assert all(scale.psnr_view is not None for scale in found)
    assert (found[0].rfid.value, found[0].rfid.reason) == (None, NO_FEATURES)


def test_vars_own_tokenizer_has_a_target_at_the_last_scale_only(tmp_path: Path) -> None:
    run = made(tmp_path, quantiser__reading="latent_area", pyramid__kernel="none", pyramid__rho_max=0.0)
    body = reconstruction.measure(run, count=8, extractor="none")
    assert [row["psnr_view"] is None for row in body["scales"]] == [True, True, False]
    assert body["scales"][-1]["psnr_view"] == pytest.approx(body["scales"][-1]["psnr"])
    assert "VAR's own tokenizer has no views" in reconstruction.table(body)


def test_an_alias_tokenizer_has_the_psnr_of_its_residuals_only(tmp_path: Path) -> None:
    run = made(tmp_path, signal="alias")
    body = reconstruction.measure(run, count=8)
    for row in body["scales"]:
        assert row["psnr"] is row["ssim"] is row["l1"] is row["rfid"]["value"] is None
        assert row["psnr_view"] > 0
    tokenizer = load_tokenizer(run)
    x = to_float(open_dataset(run.config.data, "heldout").batch([0]))  # type: ignore[attr-defined]
    residual = tokenizer.pyramid(x).residual[0]
    error = (tokenizer.decode_prefixes(tokenizer.encode_images(x))[0] - residual).square().mean()
    alone = reconstruct(tokenizer, open_dataset(run.config.data, "heldout").select([0]), "")  # type: ignore[attr-defined]
    assert alone[0].psnr_view == pytest.approx(float(10 * torch.log10(4 / error)), abs=1e-3)
    assert "a residual is not a picture" in reconstruction.table(body)


def test_the_command_prints_a_row_a_scale_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path)
    capsys.readouterr()
    reconstruction.main([str(run.path), "--extractor", "none", "--count", "9"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["1..1", "1"], ["1..2", "5"], ["1..3", "21"]]
    assert "9 images of emoji:heldout at 16 px" in lines[4]
    reconstruction.main([str(run.path), "--extractor", "none", "--count", "9", "--json"])
    body = json.loads(capsys.readouterr().out)
    assert (body["count"], len(body["scales"])) == (9, 3)
    assert f"{body['scales'][2]['psnr']:.2f}" in lines[3]


def test_mistakes_of_the_command_say_what_is_valid(tmp_path: Path) -> None:
    run = made(tmp_path)
    with pytest.raises(UserError, match="heldout, train"):
        reconstruction.main([str(run.path), "--split", "test"])
    with pytest.raises(UserError, match="--batch-size"):
        reconstruction.main([str(run.path), "--batch-size", "0"])
    tokens = RunDir.create(tmp_path, Stage(TokensConfig(), {"tokenizer": Stage(config())}), RuntimeConfig())
    with pytest.raises(UserError, match="holds a tokens run"):
        reconstruction.main([str(tokens.path)])
    with pytest.raises(UserError, match=r"python -m fvar\.run"):
        reconstruction.main([str(tokens.input("tokenizer").path), "--extractor", "none"])
