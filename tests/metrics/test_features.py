"""Features of real images: kept by content, and some that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fvar.data import open_dataset
from fvar.metrics import features
from fvar.metrics.features import Extractor, Images, extract, extract_cached, fingerprint, load_extractor
from fvar.stages.scores import reference
from studies.presets import preset


class Untouched(nn.Module):
    """A network nobody may call."""

    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("features were computed")


def scored_against() -> Images:
    """The real images of the smallest preset."""
    return reference(preset("smoke").scores(), 1)


def few(count: int) -> Images:
    return open_dataset(preset("smoke").data, "train", 1).balanced(count, 0)


def test_the_demos_real_images_are_never_described_anew(tmp_path: Path) -> None:
    idle = Extractor("inception-torchscript", Untouched(), 2048)
    assert extract_cached(idle, scored_against(), tmp_path).shape == (512, 2048)


def test_shipped_features_serve_no_other_extractor_and_no_other_images(tmp_path: Path) -> None:
    for name, images in (("vgg16", scored_against()), ("inception-torchscript", few(510))):
        with pytest.raises(AssertionError, match="computed"):
            extract_cached(Extractor(name, _with_state(Untouched()), 2048), images, tmp_path)


def test_a_damaged_file_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHIPPED", tmp_path / "none")
    images = few(9)
    extractor = Extractor("mean", _with_state(Mean()), 3)
    first = extract_cached(extractor, images, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(extract_cached(extractor, images, tmp_path), first)


@pytest.mark.slow
def test_shipped_features_are_those_of_a_fresh_computation() -> None:
    images = scored_against()
    shipped = extract_cached(Extractor("inception-torchscript", Untouched(), 2048), images, Path("/nonexistent"))
    torch.testing.assert_close(shipped, extract(load_extractor("inception-torchscript"), images), rtol=1e-3, atol=1e-4)


def test_every_shipped_file_belongs_to_a_preset() -> None:
    name = f"inception-torchscript-{fingerprint(scored_against())}.npy"
    assert [path.name for path in features.SHIPPED.glob("*.npy")] == [name]


class Mean(nn.Module):
    """Mean colour of each image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3))


def _with_state(module: nn.Module) -> nn.Module:
    module.register_buffer("somewhere", torch.zeros(()))  # tells the device
    return module
