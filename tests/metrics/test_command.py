"""python -m fvar.metrics: what it reads, what it prints, what it refuses."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fvar.errors import UserError
from fvar.metrics import features
from fvar.metrics.__main__ import main
from fvar.metrics.features import Extractor, Images, extract
from fvar.metrics.frechet import Statistics, fid, statistics_of
from fvar.metrics.inception import SPATIAL_WIDTH
from fvar.metrics.sources import Published, open_source

Sides = tuple[str, str]  # where generated and where real images are
Body = dict[str, dict[str, Any]]  # what --json prints


class Quarters(torch.nn.Module):
    """Colours of the four quarters, in place of Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1), requires_grad=False)
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images.float() * self.weight, 2).flatten(1)


@pytest.fixture(autouse=True)
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quarters:
    network = Quarters()
    toy = Extractor("toy", network, 12, None, "no classifier")
    monkeypatch.setitem(features.EXTRACTORS, "toy", lambda weights: toy)
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    return network


def pixels(count: int = 30, side: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def archive(path: Path, **arrays: NDArray[Any]) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def folder(path: Path, images: Iterable[NDArray[np.uint8]]) -> str:
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:04}.png")
    return str(path)


@pytest.fixture
def both(tmp_path: Path) -> Sides:
    return archive(tmp_path / "a.npz", arr_0=pixels()), archive(tmp_path / "b.npz", arr_0=pixels(40, seed=1) // 2)


def images_of(source: str, size: int | None = None) -> Images:
    found = open_source(source, size)
    assert not isinstance(found, Published)
    return found


def scores(capsys: pytest.CaptureFixture[str], *argv: str) -> Body:
    main([*argv, "--extractor", "toy", "--device", "cpu", "--json"])
    body: Body = json.loads(capsys.readouterr().out)
    return body


def values(body: Body) -> dict[str, float | None]:
    return {key: entry["value"] for key, entry in body.items()}


def test_archive_folder_and_statistics_give_the_same_fid(
    tmp_path: Path, both: Sides, capsys: pytest.CaptureFixture[str]
) -> None:
    generated, real = both
    expected = scores(capsys, generated, real)
    assert values(scores(capsys, folder(tmp_path / "f", pixels()), real)) == values(expected)
    found = extract(features.load_extractor("toy"), images_of(real))
    adm = statistics_of(found)
    path = archive(tmp_path / "adm.npz", mu=adm.mu, sigma=adm.sigma)
    body = scores(capsys, generated, path)
    assert body["fid"]["value"] == pytest.approx(expected["fid"]["value"], rel=1e-6)
    assert body["kid"]["value"] is None
    assert body["fid"]["reference_count"] is None


def test_order_and_batch_size_do_not_matter(tmp_path: Path, both: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    generated, real = both
    expected = scores(capsys, generated, real, "--metrics", "fid,prc")
    shuffled = archive(tmp_path / "s.npz", arr_0=np.random.default_rng(5).permutation(pixels()))
    again = scores(capsys, shuffled, real, "--metrics", "fid,prc", "--batch-size", "7")
    by_chance = expected.pop("kid"), again.pop("kid")  # whose subsets are drawn by position
    assert values(again) == pytest.approx(values(expected), rel=1e-6)
    assert by_chance[0]["value"] == pytest.approx(by_chance[1]["value"], abs=by_chance[0]["spread"])
    itself = scores(capsys, generated, shuffled, "--metrics", "fid,prc")
    assert itself["fid"]["value"] == pytest.approx(0, abs=1e-6)
    assert (itself["precision"]["value"], itself["recall"]["value"]) == (1, 1)


def test_aliasing_alone_needs_no_network(both: Sides, network: Quarters, capsys: pytest.CaptureFixture[str]) -> None:
    body = scores(capsys, *both, "--metrics", "aliasing")
    assert set(body) == {"spectral_distance", "top_octave"}
    assert network.seen == 0
    assert body["top_octave"]["value"] == pytest.approx(4, rel=0.1)  # noise against noise of half the amplitude
    assert body["top_octave"]["extractor"] is None
    main([*both, "--metrics", "aliasing", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "Top octave@30" in out
    assert out.endswith("30 generated images against 40 real images\n")
    small = scores(capsys, both[0], "emoji:heldout", "--metrics", "aliasing", "--size", "32")
    assert "different size (16 x 16 and 32 x 32 px)" in small["top_octave"]["reason"]


@pytest.fixture
def tf32() -> Iterator[Callable[[], list[str]]]:
    """Both switches on; returns what reads them."""
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = "tf32"
    yield lambda: [part.fp32_precision for part in parts]
    for part, precision in zip(parts, before, strict=True):
        part.fp32_precision = precision


def test_features_are_taken_in_full_precision_and_leave_the_switches_as_they_were(
    both: Sides, network: Quarters, tf32: Callable[[], list[str]]
) -> None:
    inside: list[list[str]] = []
    network.register_forward_pre_hook(lambda *_: inside.append(tf32()))
    extract(features.load_extractor("toy"), images_of(both[0]))
    assert inside == [["ieee", "ieee"]]
    assert tf32() == ["tf32", "tf32"]
    network.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract(features.load_extractor("toy"), images_of(both[0]))
    assert tf32() == ["tf32", "tf32"]


def test_swapped_arguments_swap_precision_and_recall(both: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    there, back = scores(capsys, *both), scores(capsys, *reversed(both))
    assert there["precision"]["value"] == back["recall"]["value"]
    assert there["recall"]["value"] == back["precision"]["value"]
    assert there["fid"]["value"] == pytest.approx(back["fid"]["value"])


def test_features_are_computed_once_per_content(
    tmp_path: Path, both: Sides, network: Quarters, capsys: pytest.CaptureFixture[str]
) -> None:
    scores(capsys, *both)
    assert network.seen == 70
    scores(capsys, *both)
    scores(capsys, folder(tmp_path / "f", pixels()), both[1])
    assert network.seen == 70
    changed = pixels()
    changed[3, 4, 5, 1] ^= 1
    scores(capsys, archive(tmp_path / "c.npz", arr_0=changed), both[1])
    assert network.seen == 100


def test_a_data_set_is_opened_at_the_size_of_the_other_side(both: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    body = scores(capsys, both[0], "emoji:heldout", "--metrics", "fid")
    assert body["fid"]["reference_count"] == 185
    assert images_of("emoji:heldout", 16).batch(range(2)).shape == (2, 3, 16, 16)


def test_plain_output_names_counts_reasons_and_extractor(both: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    main([*both, "--extractor", "toy", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "FID@30" in out
    assert "no classifier" in out
    assert "30 generated images against 40 real images, features by toy" in out


def statistics(path: str) -> Statistics:
    return statistics_of(extract(features.load_extractor("toy"), images_of(path)))


def test_statistics_beside_images_are_those_of_the_whole_set(
    tmp_path: Path, both: Sides, capsys: pytest.CaptureFixture[str]
) -> None:
    """FID from mu and sigma, all else from arr_0: as ADM's reference batches are meant to be read."""
    generated, some = both
    whole = statistics(archive(tmp_path / "whole.npz", arr_0=pixels(400, seed=9)))
    adm = archive(tmp_path / "adm.npz", arr_0=pixels(40, seed=1) // 2, mu=whole.mu, sigma=whole.sigma)
    alone = archive(tmp_path / "alone.npz", mu=whole.mu, sigma=whole.sigma)
    found, of_images, of_statistics = (scores(capsys, generated, real) for real in (adm, some, alone))
    assert found["fid"] == of_statistics["fid"]
    assert found["fid"]["value"] != of_images["fid"]["value"]
    assert found["fid"]["reference_count"] is None
    assert found["fid_infinity"] == of_statistics["fid_infinity"]
    for metric in ("kid", "precision", "recall", "spectral_distance"):
        assert found[metric] == of_images[metric]
        assert of_statistics[metric]["value"] is None
        assert "statistics only" in of_statistics[metric]["reason"]
    main([generated, adm, "--extractor", "toy", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "40 real images (FID, FIDinf: against the reference's own statistics)" in out


def test_sfid_is_measured_by_a_map_of_places_or_says_why_not(
    tmp_path: Path, both: Sides, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generated, real = both
    whole = statistics(real)
    bare = {"mu": whole.mu, "sigma": whole.sigma}
    places = {"mu_s": np.zeros(SPATIAL_WIDTH), "sigma_s": np.eye(SPATIAL_WIDTH)}
    adm = archive(tmp_path / "adm.npz", **bare, **places)
    assert "not by toy" in scores(capsys, generated, adm)["sfid"]["reason"]
    assert "sfid" not in scores(capsys, generated, real)

    class Places(Quarters):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images).repeat(1, 200)[:, :SPATIAL_WIDTH] / 255

    spatial = Extractor("toy", Quarters(), 12, None, "no classifier", Places())
    monkeypatch.setitem(features.EXTRACTORS, "toy", lambda weights: spatial)
    of_places = spatial.of_places()
    assert of_places is not None
    expected = fid(extract(of_places, images_of(generated)), Statistics(places["mu_s"], places["sigma_s"]))
    found = scores(capsys, generated, adm)["sfid"]
    assert found["value"] == pytest.approx(expected, rel=1e-6)
    assert found["label"] == "sFID@30"
    assert "no mu_s" in scores(capsys, generated, archive(tmp_path / "bare.npz", **bare))["sfid"]["reason"]
    assert scores(capsys, generated, real, "--metrics", "sfid")["sfid"]["reference_count"] == 40


def truncated(tmp_path: Path) -> str:
    path = folder(tmp_path / "t", pixels())
    (tmp_path / "t" / "0003.png").write_bytes((tmp_path / "t" / "0003.png").read_bytes()[:300])
    return path


def mixed(tmp_path: Path) -> str:
    path = folder(tmp_path / "m", pixels())
    Image.fromarray(pixels(1, 20)[0]).save(tmp_path / "m" / "0007.png")
    return path


def torn(tmp_path: Path) -> str:
    (tmp_path / "w.npz").write_bytes(b"PK\3\4torn")
    return str(tmp_path / "w.npz")


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def cut(path: str) -> str:
    return written(Path(path), Path(path).read_bytes()[:-2000])


def damaged(tmp_path: Path) -> str:
    np.savez_compressed(tmp_path / "w.npz", arr_0=pixels())
    data = bytearray((tmp_path / "w.npz").read_bytes())
    data[200:300] = bytes(100)
    return written(tmp_path / "w.npz", bytes(data))


def single(tmp_path: Path) -> str:
    with open(tmp_path / "w.npz", "wb") as file:
        np.save(file, pixels())
    return str(tmp_path / "w.npz")


def stats(tmp_path: Path, **arrays: NDArray[Any]) -> str:
    return archive(tmp_path / "w.npz", **{"mu": np.zeros(12), "sigma": np.eye(12)} | arrays)


BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "mixed sizes": (mixed, r"mixes sizes: 0000\.png is 16 x 16 px and 0007\.png 20 x 20"),
    "truncated PNG": (truncated, r"0003\.png is truncated"),
    "empty folder": (lambda p: folder(p / "e", []), "holds no images"),
    "wrong dtype": (lambda p: archive(p / "w.npz", arr_0=pixels() / 255), "arr_0 is float64; expected uint8"),
    "wrong shape": (lambda p: archive(p / "w.npz", arr_0=pixels()[..., 0]), r"expected \(N, H, W, 3\)"),
    "no images": (lambda p: archive(p / "w.npz", arr_0=pixels()[:0]), r"expected \(N, H, W, 3\)"),
    "pickles": (lambda p: archive(p / "w.npz", arr_0=np.array([{}, 1], dtype=object)), "Python objects"),
    "other arrays": (lambda p: archive(p / "w.npz", images=pixels()), "holds images; expected arr_0"),
    "torn archive": (torn, "cannot be read"),
    "archive of 0 bytes": (lambda p: written(p / "w.npz", b""), "cannot be read: No data left in file"),
    "archive cut short": (lambda p: cut(archive(p / "w.npz", arr_0=pixels())), "cannot be read"),
    "compressed and damaged": (damaged, "cannot be read"),
    "a single array": (single, "without a name"),
    "mu with NaN": (lambda p: stats(p, mu=np.full(12, np.nan)), "not finite"),
    "sigma with infinity": (lambda p: stats(p, sigma=np.full((12, 12), np.inf)), "not finite"),
    "sigma not symmetric": (lambda p: stats(p, sigma=np.eye(12) + np.eye(12, k=1)), "not symmetric"),
    "sigma not positive": (lambda p: stats(p, sigma=np.diag([1.0] * 11 + [-0.1])), "negative eigenvalues"),
    "sigma of another width": (lambda p: stats(p, sigma=np.eye(11)), "do not fit"),
    "mu of another network": (lambda p: stats(p, mu=np.zeros(5), sigma=np.eye(5)), "5 features, but toy has 12"),
    "no sigma": (lambda p: archive(p / "w.npz", mu=np.zeros(12)), "mu without its other half"),
    "complex sigma": (lambda p: stats(p, sigma=np.eye(12) * 1j), "expected real numbers"),
    "mu_s of another width": (lambda p: stats(p, mu_s=np.zeros(12), sigma_s=np.eye(12)), "expected 2023"),
    "mu_s with NaN": (
        lambda p: stats(p, mu_s=np.full(SPATIAL_WIDTH, np.nan), sigma_s=np.eye(SPATIAL_WIDTH)),
        "mu_s .* not finite",
    ),
    "no such thing": (lambda p: str(p / "nowhere"), "neither a folder"),
    "unknown split": (lambda p: "emoji:test", "unknown split 'test'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path: Path, both: Sides, case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(UserError, match=message) as caught:
        main([both[0], make(tmp_path), "--extractor", "toy", "--device", "cpu"])
    assert "\n" not in str(caught.value)


def test_unknown_metrics_and_extractors_are_refused_before_any_work(both: Sides, network: Quarters) -> None:
    with pytest.raises(UserError, match="unknown metric 'fd'"):
        main([*both, "--metrics", "fd", "--extractor", "toy"])
    with pytest.raises(UserError, match="unknown extractor"):
        main([*both, "--extractor", "resnet"])
    assert network.seen == 0


def test_statistics_cannot_be_the_generated_side_or_of_another_network(tmp_path: Path, both: Sides) -> None:
    path = archive(tmp_path / "adm.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(UserError, match="GENERATED must be images"):
        main([path, both[1], "--extractor", "toy"])
    with pytest.raises(UserError, match="5 features, but toy has 12"):
        main([both[0], path, "--extractor", "toy"])


def test_fid_of_few_images_does_not_stand_without_kid(both: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(scores(capsys, *both, "--metrics", "fid")) == {"fid", "fid_infinity", "kid"}
    assert set(scores(capsys, *both, "--metrics", "prc")) == {"precision", "recall"}


def test_few_images_say_that_the_covariance_is_singular(
    tmp_path: Path, both: Sides, capsys: pytest.CaptureFixture[str]
) -> None:
    body = scores(capsys, archive(tmp_path / "few.npz", arr_0=pixels(6)), both[1])
    assert "singular" in body["fid"]["note"]
    assert body["kid"]["value"] is not None


def test_the_command_answers_help_without_torch_and_errors_with_status_2(tmp_path: Path) -> None:
    code = "import sys\nfrom fvar.metrics import __main__ as command\n"
    code += "try: command.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("False\n")
    command = [sys.executable, "-m", "fvar.metrics", str(tmp_path / "nowhere"), "emoji"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(io.StringIO(done.stderr).readlines()) == 1
