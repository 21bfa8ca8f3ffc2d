"""The samples and scores stages on a random model, from directory to files."""

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from fvar import editing
from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    Mask,
    PublishedConfig,
    PyramidConfig,
    QuantiserConfig,
    RuntimeConfig,
    SamplesConfig,
    ScoresConfig,
    Stage,
    TokenizerConfig,
    TokensConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.data import open_dataset
from fvar.errors import DataChanged
from fvar.metrics import features
from fvar.metrics.frechet import Statistics, fid
from fvar.models.var import VAR
from fvar.run import execute
from fvar.rundir import RunDir
from fvar.sampling import Samples, sample
from fvar.stages import samples, scores
from fvar.tokenizer.bundle import COMPANION_FILE, MODEL_FILE
from fvar.tokenizer.dual import SignalScaler
from fvar.tokenizer.vqvae import VQVAE
from studies.presets import PRESETS
from tests.tiny import awake
from tests.training.processes import run_ranks

DATA = DataConfig(dataset="emoji", image_size=6)
COUNT, CLASSES = 30, 9


def scores_stage(seed: int = 0, mask: Mask = "none") -> Stage:
    tokenizer = TokenizerConfig(
        data=DATA,
        pyramid=PyramidConfig(patch_nums=(1, 2, 3), downsample_factor=2),
        autoencoder=AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, norm_groups=4),
        quantiser=QuantiserConfig(vocab_size=40, reading="latent_area"),
    )
    tokens = Stage(TokensConfig(data=DATA), {"tokenizer": Stage(tokenizer)})
    var = Stage(VarConfig(transformer=TransformerConfig(depth=2, width=32, heads=2)), {"tokens": tokens})
    made = Stage(SamplesConfig(count=COUNT, batch_size=2, precision="fp32", seed=seed, mask=mask), {"var": var})
    return Stage(ScoresConfig(reference=DATA, reference_count=40), {"samples": made})


@pytest.mark.parametrize("mask", ["center", "border"])
def test_a_mask_is_filled_by_the_network_and_all_else_is_the_held_out_image(tmp_path: Path, mask: Mask) -> None:
    whole = create(tmp_path / "results" / "runs", scores_stage(mask=mask))
    samples.run(whole.input("samples"))
    images, labels = load(whole.input("samples"))
    given = editing.originals(DATA, COUNT)
    hole = editing.masks(6)[mask].numpy()
    assert hole.sum() == (16 if mask == "center" else 20)  # of 36: of 6 px, a quarter on each side is 1
    assert np.array_equal(labels, given.labels[[i % len(given) for i in range(COUNT)]])
    originals = given.batch([i % len(given) for i in range(COUNT)]).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images[:, ~hole], originals[:, ~hole])
    assert (images[:, hole] != originals[:, hole]).mean() > 0.2
    assert not set(given.names) & set(open_dataset(DATA, "train").names)


def test_completed_images_have_scores_under_the_mask_and_others_have_not(
    tmp_path: Path, toy_network: list[int]
) -> None:
    for mask in ("none", "center"):
        whole = create(tmp_path / mask / "runs", scores_stage(mask=mask))
        samples.run(whole.input("samples"))
        scores.run(whole)
        body = json.loads((whole.path / "scores.json").read_text())
        assert ("masked_psnr" in body) == (mask == "center")
    assert body["masked_psnr"]["value"] > 0
    assert body["masked_lpips"]["value"] is None
    assert "at least 32 px" in body["masked_lpips"]["reason"]
    assert body["seam"]["count"] == COUNT


def create(root: Path, stage: Stage) -> RunDir:
    """Run directories of the chain, the networks above the samples random but finished."""
    run = RunDir.create(root, stage, RuntimeConfig(device="cpu"))
    var_run = run.input("samples").input("var")
    tokenizer_run = var_run.input("tokens").input("tokenizer")
    config = tokenizer_run.config
    assert isinstance(config, TokenizerConfig)
    assert isinstance(var_run.config, VarConfig)
    torch.manual_seed(0)
    vqvae = VQVAE(config.autoencoder, config.quantiser, config.pyramid.patch_nums)
    torch.nn.init.normal_(vqvae.quantize.embedding.weight)
    var = VAR(var_run.config.transformer, CLASSES, 40, 4, (1, 2, 3))
    awake(var)
    save_file({key: value.contiguous() for key, value in vqvae.state_dict().items()}, tokenizer_run.path / MODEL_FILE)
    scaler = {f"scaler.{key}": value for key, value in SignalScaler(3).state_dict().items()}
    save_file(scaler, tokenizer_run.path / COMPANION_FILE)
    save_file({key: value.contiguous() for key, value in var.state_dict().items()}, var_run.path / MODEL_FILE)
    var_run.update(state="done")
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create(tmp_path / "results" / "runs", scores_stage())


def load(run: RunDir) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with np.load(run.path / "samples.npz", allow_pickle=False) as archive:
        return archive["arr_0"], archive["labels"]


def test_samples_are_class_balanced_uint8_images_with_a_labelled_grid(run: RunDir) -> None:
    made = run.input("samples")
    samples.run(made)
    images, labels = load(made)
    assert images.shape == (COUNT, 6, 6, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert set(np.bincount(labels, minlength=CLASSES)) == {3, 4}
    assert len({image.tobytes() for image in images}) > COUNT // 2
    with Image.open(made.path / "grid.png") as grid:
        assert grid.size == (130 + 4 * 8, CLASSES * 8)
    assert not (made.path / "shards").exists()
    assert (made.status.step, made.status.steps) == (COUNT, COUNT)


def test_films_end_in_the_very_samples_and_have_a_frame_per_scale(run: RunDir) -> None:
    made = run.input("samples")
    samples.run(made)
    images, _ = load(made)
    with np.load(made.path / "films.npz", allow_pickle=False) as archive:
        films, labels = archive["arr_0"], archive["labels"]
    assert labels.tolist() == list(range(CLASSES))
    assert films.shape == (CLASSES, 3, 6, 6, 3)  # three scales
    np.testing.assert_array_equal(films[:, -1], images[:CLASSES])
    assert not np.array_equal(films[:, 0], films[:, -1])


def test_the_archive_is_read_as_the_adm_evaluator_reads_it(run: RunDir) -> None:
    """Streaming arr_0 off the zip file: its header in NumPy's version 1.0, then plain rows."""
    made = run.input("samples")
    samples.run(made)
    with zipfile.ZipFile(made.path / "samples.npz") as archive, archive.open("arr_0.npy") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        assert (shape, fortran, dtype) == ((COUNT, 6, 6, 3), False, np.dtype(np.uint8))
        assert file.read() == load(made)[0].tobytes()


def test_images_are_what_png_files_of_them_hold(run: RunDir, tmp_path: Path) -> None:
    made = run.input("samples")
    samples.run(made)
    for image in load(made)[0][:5]:
        Image.fromarray(image).save(tmp_path / "image.png")
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "image.png")), image)


def test_the_paper_preset_draws_50_images_of_every_class_as_var_does() -> None:
    config = PRESETS["paper"].samples(seed=0)
    assert (config.count, config.guidance, config.top_k, config.top_p) == (50_000, 1.5, 900, 0.96)
    assert set(np.bincount(np.arange(config.count) % 1000)) == {50}


def shards(run: RunDir) -> list[str]:
    return sorted(path.name for path in (run.path / "shards").glob("*.npz"))


def files(run: RunDir) -> list[bytes]:
    return [(run.path / name).read_bytes() for name in ("samples.npz", "grid.png", "films.npz")]


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The files that one process makes."""
    run = create(tmp_path_factory.mktemp("one") / "runs", scores_stage()).input("samples")
    samples.run(run)
    return files(run)


def test_a_killed_sampling_continues_and_ends_with_the_same_files(
    run: RunDir, one_rank: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run.input("samples")
    calls = []

    def dies_later(*args: Any, **kwargs: Any) -> Samples:
        calls.append(kwargs["seeds"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sample(*args, **kwargs)

    monkeypatch.setattr(samples, "sample", dies_later)
    with pytest.raises(KeyboardInterrupt):
        samples.run(made)
    assert not (made.path / "samples.npz").exists()
    assert shards(made) == ["000000.npz", "000002.npz", "000004.npz"]
    samples.run(made)
    films = -(-CLASSES // 2)
    assert len(calls) - 4 == COUNT // 2 - 3 + films  # finished shards were not made again
    assert files(made) == one_rank


def test_damaged_shards_are_made_again(run: RunDir, one_rank: list[bytes]) -> None:
    made = run.input("samples")
    (made.path / "shards").mkdir()
    (made.path / "shards" / "000002.npz").write_bytes(b"")
    (made.path / "shards" / "000004.npz").write_bytes(one_rank[0][:500])
    wrong = np.zeros((2, 6, 6, 3), np.uint8)
    np.savez(made.path / "shards" / "000006.npz", arr_0=wrong, labels=np.array([0, 1]))  # readable, of other classes
    samples.run(made)
    assert files(made) == one_rank


def sample_rank(path: Path, dies_before: int = 0) -> None:
    """One rank of `torchrun -m fvar.run`; of several, the last one dies before its n-th shard."""
    torch.set_num_threads(1)
    if dies_before and os.environ["RANK"] == "1":
        calls = []

        def dying(*args: Any, **kwargs: Any) -> Samples:
            calls.append(args)
            return sample(*args, **kwargs) if len(calls) < dies_before else os._exit(9)

        pytest.MonkeyPatch().setattr(samples, "sample", dying)
    execute(path)


def test_two_ranks_make_the_files_of_one_byte_for_byte(run: RunDir, one_rank: list[bytes]) -> None:
    made = run.input("samples")
    assert run_ranks(2, sample_rank, made.path) == [0, 0]
    assert files(made) == one_rank
    assert made.done
    assert (made.status.step, made.status.steps) == (COUNT, COUNT)
    assert not (made.path / "shards").exists()


def test_a_sampling_that_lost_a_rank_continues_with_any_number_of_ranks(run: RunDir, one_rank: list[bytes]) -> None:
    made = run.input("samples")
    codes = run_ranks(2, sample_rank, made.path, 3)
    assert codes[0] != 0
    assert codes[1] == 9
    assert not made.done
    assert {"000002.npz", "000006.npz"} <= set(shards(made))  # the dead rank's two
    assert "000010.npz" not in shards(made)
    assert run_ranks(3, sample_rank, made.path) == [0, 0, 0]
    assert files(made) == one_rank


def test_another_seed_gives_other_images(run: RunDir, tmp_path: Path) -> None:
    first, second = run.input("samples"), create(tmp_path / "other", scores_stage(seed=1)).input("samples")
    for made in (first, second):
        samples.run(made)
    assert not np.array_equal(load(first)[0], load(second)[0])


@pytest.fixture
def toy_network(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Colours of the four quarters, in place of Inception."""
    calls = []

    class Quarters(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(len(images))
            return torch.nn.functional.adaptive_avg_pool2d(images.float() * self.weight, 2).flatten(1)

    def toy(weights: Path | None) -> features.Extractor:
        return features.Extractor("inception-torchscript", Quarters(), 12, None, "no classifier")

    monkeypatch.setitem(features.EXTRACTORS, "inception-torchscript", toy)
    return calls


def test_scores_name_counts_and_extractor_and_leave_reasons_for_blanks(run: RunDir, toy_network: list[int]) -> None:
    samples.run(run.input("samples"))
    scores.run(run)
    body = json.loads((run.path / "scores.json").read_text())
    pixels = {"spectral_distance", "top_octave"}
    assert set(body) == {"fid", "fid_infinity", "kid", "precision", "recall", "is"} | pixels
    for key, entry in body.items():
        extractor = None if key in pixels else "inception-torchscript"
        assert (entry["count"], entry["reference_count"], entry["extractor"]) == (COUNT, 40, extractor)
    assert body["top_octave"]["value"] > 0
    assert body["fid"]["label"] == f"FID@{COUNT}"
    assert body["fid"]["value"] > 0
    assert 0 <= body["precision"]["value"] <= 1
    assert body["kid"]["subset_size"] == COUNT // 2
    assert body["is"]["value"] is None
    assert body["is"]["reason"] == "no classifier"


def test_features_of_the_real_images_are_computed_once(run: RunDir, toy_network: list[int]) -> None:
    samples.run(run.input("samples"))
    scores.run(run)
    first = (run.path / "scores.json").read_text()
    assert sum(toy_network) == COUNT + 40
    scores.run(run)
    assert sum(toy_network) == 2 * COUNT + 40
    assert (run.path / "scores.json").read_text() == first
    kept = list((run.path.parent.parent / "cache" / "features").glob("inception-*.npy"))
    assert len(kept) == 1
    kept[0].write_bytes(kept[0].read_bytes()[:300])  # damaged: computed again
    scores.run(run)
    assert sum(toy_network) == 3 * COUNT + 80
    assert (run.path / "scores.json").read_text() == first
    shutil.rmtree(kept[0].parent)


def test_the_reference_is_a_class_balanced_subset_of_its_split(run: RunDir) -> None:
    assert isinstance(run.config, ScoresConfig)
    real = scores.reference(run.config)
    assert len(real) == 40
    assert torch.bincount(real.labels).max() - torch.bincount(real.labels).min() <= 1
    assert len(scores.reference(ScoresConfig(reference=DATA))) == 1669


def test_a_reference_as_adm_publishes_it_gives_fid_to_its_statistics_and_precision_to_its_images(
    run: RunDir, toy_network: list[int], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    held: dict[str, Any] = {
        "mu": rng.normal(size=12),
        "sigma": np.eye(12),
        "arr_0": rng.integers(0, 256, (25, 6, 6, 3), np.uint8),
    }
    np.savez(tmp_path / "VIRTUAL_imagenet.npz", **held)
    stage = scores_stage()
    against = PublishedConfig.of(str(tmp_path / "VIRTUAL_imagenet.npz"))
    assert isinstance(stage.config, ScoresConfig)
    mine = RunDir.create(
        run.path.parent, Stage(replace(stage.config, published=against), stage.inputs), RuntimeConfig(device="cpu")
    )
    samples.run(mine.input("samples"))
    scores.run(mine)
    body = json.loads((mine.path / "scores.json").read_text())
    images = torch.from_numpy(load(mine.input("samples"))[0]).permute(0, 3, 1, 2)
    found = features.load_extractor("inception-torchscript").network(images)
    assert body["fid"]["value"] == pytest.approx(fid(found, Statistics(held["mu"], held["sigma"])), rel=1e-6)
    assert (body["precision"]["reference_count"], body["kid"]["reference_count"]) == (25, 25)
    assert body["fid"]["reference_count"] is None
    assert "no mu_s" in body["sfid"]["reason"] or "Inception" in body["sfid"]["reason"]
    held["mu"] = held["mu"] + 1
    np.savez(tmp_path / "VIRTUAL_imagenet.npz", **held)
    with pytest.raises(DataChanged, match="changed since this was planned"):
        scores.run(mine)


def test_a_published_reference_is_identified_by_its_bytes_wherever_it_lies(tmp_path: Path) -> None:
    names = set()
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        np.savez(tmp_path / place / f"{place}.npz", mu=np.zeros(2), sigma=np.eye(2))
        config = ScoresConfig(published=PublishedConfig.of(str(tmp_path / place / f"{place}.npz")))
        names.add(Stage(config).signature)
    assert len(names) == 1
    assert Stage(ScoresConfig()).signature not in names
