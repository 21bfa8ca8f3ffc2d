"""Exchange with the original: golden files, checkpoints in and out, and the commands on what they make."""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fvar import compat, sample
from fvar.config import AutoencoderConfig, MambaConfig, Mixer, QuantiserConfig, TransformerConfig
from fvar.editing import known_tokens
from fvar.errors import UserError, run_main
from fvar.golden import read_golden, verify
from fvar.metrics.sources import FolderImages
from fvar.models.var import VAR
from fvar.rundir import RunDir
from fvar.tokenizer.bundle import load_tokenizer
from fvar.tokenizer.loading import read_configs
from fvar.tokenizer.vqvae import VQVAE
from tests import plain_var, tiny

GOLDEN = Path(__file__).parent / "golden" / "var_tiny.safetensors"
MVAR_GOLDEN = GOLDEN.with_name("mvar_tiny.safetensors")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """vae.pth and var.pth as the original publishes them."""
    folder = tmp_path_factory.mktemp("original")
    tensors = load_file(GOLDEN)
    for name in ("vae", "var"):
        prefix = f"{name}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        torch.save(state, folder / f"{name}.pth")
    return folder / "vae.pth", folder / "var.pth"


@pytest.fixture(scope="module")
def imported(original: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "original"
    compat.main(["import", "--vae", str(original[0]), "--var", str(original[1]), str(run)])
    return run


def altered(path: Path, name: str, change: float, config: dict[str, object] | None = None) -> Path:
    """A copy of the golden file with something added to one tensor."""
    settings, tensors = read_golden(GOLDEN)
    tensors[name] = tensors[name] + change
    save_file(tensors, path, {"config": json.dumps({**settings, **(config or {})})})
    return path


def test_every_output_of_the_original_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(GOLDEN) == 0
    assert "12 of 12 outputs agree" in capsys.readouterr().out


def test_the_plain_second_implementation_gives_the_originals_numbers() -> None:
    """So it can stand for the original where there is no file of it."""
    config, tensors = read_golden(GOLDEN)
    vae, var = (
        {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        for name in ("vae", "var")
    )
    cfg = plain_var.Settings(tuple(config["patch_nums"]), config["heads"], config["attn_l2_norm"], config["norm_eps"])
    made = plain_var.golden(vae, var, tensors["in.image"], tensors["in.label"], config["cfg"], cfg)
    assert made.keys() == {key for key in tensors if key.startswith("out.")}
    torch.testing.assert_close(made, {key: tensors[key] for key in made}, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    (
        "patch_nums",
        "vocab",
        "depth",
        "width",
        "heads",
        "l2_norm",
        "aln",
        "num_phi",
        "ch_mult",
        "guidance",
        "eps",
        "mixer",
    ),
    [
        ((1, 2, 3, 5), 96, 3, 96, 3, True, False, 4, (1, 2), 4.0, 1e-6, "var"),
        ((2, 4, 8), 30, 1, 48, 4, True, False, 0, (1, 1, 2), 0.5, 1e-5, "var"),
        ((1, 2, 4), 24, 2, 32, 2, True, True, 1, (1, 2), 2.0, 1e-6, "var"),
        ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 40, 2, 48, 3, False, True, 3, (1,), 1.5, 1e-6, "var"),
        ((1, 3, 5), 32, 2, 64, 2, False, False, 4, (1, 2), 2.0, 1e-6, "mvar"),
        ((2, 4, 8), 30, 1, 96, 3, True, False, 1, (1,), 1.5, 1e-5, "mvar"),
    ],
)
def test_files_of_other_shapes_are_verified(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    patch_nums: tuple[int, ...],
    vocab: int,
    depth: int,
    width: int,
    heads: int,
    l2_norm: bool,
    aln: bool,
    num_phi: int,
    ch_mult: tuple[int, ...],
    guidance: float,
    eps: float,
    mixer: Mixer,
) -> None:
    """Sizes, scale lists, vocabularies and guidance other than the tiny file's; every output is the second
    implementation's (tests/plain_var.py), only the names and shapes of the weights are fvar's."""
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(ch=32, ch_mult=ch_mult, num_res_blocks=1, z_channels=6)
    vae = VQVAE(autoencoder, QuantiserConfig(vocab_size=vocab, num_phi=num_phi, reading="latent_area"), patch_nums)
    network = TransformerConfig(depth, width, heads, attn_l2_norm=l2_norm, shared_aln=aln, mixer=mixer)
    var = VAR(network, 7, vocab, 6, patch_nums)
    tiny.awake(vae)
    tiny.awake(var, seed=1)
    states = [{k: v.contiguous() for k, v in module.state_dict().items()} for module in (vae, var)]
    side = patch_nums[-1] * autoencoder.downsample_factor
    image, labels = torch.rand(3, 3, side, side) * 2 - 1, torch.tensor([0, 6, 3])
    cfg = plain_var.Settings(patch_nums, heads, l2_norm, eps)
    tensors = plain_var.golden(states[0], states[1], image, labels, guidance, cfg)
    for name, state in zip(("vae", "var"), states, strict=True):
        tensors |= {f"{name}.{key}": value for key, value in state.items()}
    config = {"patch_nums": patch_nums, "heads": heads, "norm_eps": eps, "cfg": guidance, "top_k": 1, "mixer": mixer}
    path = tmp_path / "other.safetensors"
    save_file(tensors | {"in.image": image, "in.label": labels}, path, {"config": json.dumps(config)})
    assert verify(path) == 0, capsys.readouterr().out
    assert f"{9 + len(patch_nums)} of {9 + len(patch_nums)} outputs agree" in capsys.readouterr().out


def test_the_public_codes_logits_of_m_var_are_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(MVAR_GOLDEN) == 0
    assert "1 of 1 outputs agree" in capsys.readouterr().out


@pytest.mark.parametrize("l2_norm", [True, False])
def test_m_var_files_of_other_shapes_are_verified_without_a_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], l2_norm: bool
) -> None:
    mamba = MambaConfig(d_state=16, d_conv=3, expand=1, head_dim=8)
    cfg = TransformerConfig(3, 48, 3, attn_l2_norm=l2_norm, mixer="mvar", mamba=mamba)
    var = tiny.var(cfg, (1, 2, 9))
    labels, var_input = torch.tensor([0, tiny.CLASSES]), torch.randn(2, 85, tiny.CHANNELS)
    exact = {key: value.double() if value.is_floating_point() else value for key, value in var.state_dict().items()}
    logits = plain_var.logits(exact, labels, var_input.double(), plain_var.Settings((1, 2, 9), 3, l2_norm, 1e-4))
    tensors = {f"var.{key}": value for key, value in var.state_dict().items()}
    tensors |= {"in.label": labels, "out.var_input": var_input, "out.logits": logits.float()}
    config = {"patch_nums": [1, 2, 9], "heads": 3, "norm_eps": 1e-4, "mixer": "mvar"}
    for name, settings, changes, status in (
        ("right", config, {}, 0),
        ("wrong", config, {"out.logits": logits.float() + 1e-3}, 1),
    ):
        save_file({**tensors, **changes}, tmp_path / name, {"config": json.dumps(settings)})
        assert verify(tmp_path / name) == status
        assert f"{1 - status} of 1 outputs agree" in capsys.readouterr().out
    for name, settings, message in (
        ("scales", {**config, "patch_nums": [1, 2, 3]}, r"expected patch_nums \[1, 2, 3\], found \(1, 2, 9\)"),
        ("kind", {**config, "mixer": "var"}, "holds an M-VAR .* where a VAR .* is expected"),
        ("unknown", {**config, "mixer": "rnn"}, "unknown mixer in .* 'rnn'; valid: mvar, var"),
    ):
        save_file(tensors, tmp_path / name, {"config": json.dumps(settings)})
        with pytest.raises(UserError, match=message):
            verify(tmp_path / name)


def test_an_m_var_checkpoint_goes_in_and_out_and_samples(original: tuple[Path, Path], tmp_path: Path) -> None:
    """With VAR's tokenizer. A released checkpoint without l2-normalised attention has as many heads as blocks."""
    cfg = TransformerConfig(2, 64, 2, attn_l2_norm=False, mixer="mvar")
    vocab, channels = torch.load(original[0], weights_only=True)["quantize.embedding.weight"].shape
    var = VAR(cfg, 10, vocab, channels, (1, 2, 4))
    tiny.awake(var)
    torch.save(var.state_dict(), tmp_path / "mvar.pth")
    run, out = tmp_path / "runs" / "mvar", (tmp_path / "vae.pth", tmp_path / "out.pth")
    compat.main(["import", "--vae", str(original[0]), "--var", str(tmp_path / "mvar.pth"), str(run)])
    compat.main(["export", str(run), "--vae", str(out[0]), "--var", str(out[1])])
    returned = torch.load(out[1], weights_only=True)
    assert returned.keys() == var.state_dict().keys()
    assert all(torch.equal(returned[key], value) for key, value in var.state_dict().items())
    few = run_sample(run, tmp_path / "few", "--class", "3", "--count", "2")
    many = run_sample(run, tmp_path / "many", "--class", "3", "--count", "3")
    assert np.array_equal(few["001.png"], many["001.png"])


def test_every_variant_of_the_original_has_the_originals_names() -> None:
    """As FoundationVision/VAR names them: models/quant.py (share_quant_resi), models/var.py (shared_aln)."""
    autoencoder = AutoencoderConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=6)
    for num_phi, names in ((0, ["0", "1", "2"]), (1, ["qresi"]), (4, [f"qresi_ls.{i}" for i in range(4)])):
        vae = VQVAE(autoencoder, QuantiserConfig(vocab_size=9, num_phi=num_phi, reading="latent_area"), (1, 2, 3))
        found = [key for key in vae.state_dict() if key.startswith("quantize.quant_resi.")]
        assert found == [f"quantize.quant_resi.{name}.{part}" for name in names for part in ("weight", "bias")]
    keys = VAR(TransformerConfig(2, 32, 2, shared_aln=True), 7, 9, 6, (1, 2)).state_dict()
    modulation = {key: tuple(value.shape) for key, value in keys.items() if "ada" in key and "head_nm" not in key}
    assert modulation == {
        "blocks.0.ada_gss": (1, 1, 6, 32),
        "blocks.1.ada_gss": (1, 1, 6, 32),
        "shared_ada_lin.1.weight": (192, 32),
        "shared_ada_lin.1.bias": (192,),
    }


@pytest.mark.parametrize(("ch_mult", "patch"), [((1, 2, 2), 1), ((1, 2), 2), ((1,), 8)])
def test_the_shapes_of_a_tokenizers_weights_tell_its_configuration(ch_mult: tuple[int, ...], patch: int) -> None:
    autoencoder = AutoencoderConfig(ch=32, ch_mult=ch_mult, num_res_blocks=1, z_channels=6, patch=patch)
    quantiser = QuantiserConfig(vocab_size=9, reading="latent_area", codebook="gradient")
    vae = VQVAE(autoencoder, quantiser, (1, 2, 3))
    assert read_configs(vae.state_dict(), "here") == (autoencoder, quantiser)


@pytest.mark.parametrize(("name", "change"), [("out.logits", 3e-4), ("out.idx.1", 1), ("var.head.bias", 3e-4)])
def test_a_difference_above_tolerance_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: float
) -> None:
    assert verify(altered(tmp_path / "x.safetensors", name, change)) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_file_that_is_not_golden_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"nothing")
    save_file({"x": torch.zeros(1)}, tmp_path / "b")
    with pytest.raises(UserError, match="is not a safetensors file"):
        verify(tmp_path / "a")
    with pytest.raises(UserError, match="no metadata entry `config`"):
        verify(tmp_path / "b")
    with pytest.raises(UserError, match=r"expected patch_nums \(1, 2, 3\), found \(1, 2, 4\)|scales"):
        verify(altered(tmp_path / "c", "in.image", 0, {"patch_nums": [1, 2, 3]}))


def test_import_then_export_returns_the_same_tensors(
    original: tuple[Path, Path], imported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vae.pth", tmp_path / "var.pth"
    compat.main(["export", str(imported), "--vae", str(out[0]), "--var", str(out[1])])
    for before, after in zip(original, out, strict=True):
        a, b = (torch.load(path, weights_only=True) for path in (before, after))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


def wrapped(original: tuple[Path, Path], folder: Path, form: str) -> tuple[Path, Path]:
    """The original's weights in a form that trainers leave."""
    vae, var = (torch.load(path, weights_only=True) for path in original)
    files = folder / "vae.pth", folder / "var.pth"
    if form == "trainer":  # VAR's own: ar-ckpt-last.pth
        body = {"trainer": {"var_wo_ddp": var, "vae_local": vae, "var_opt": {"state": {0: torch.zeros(3)}}}, "epoch": 7}
        torch.save(body | {"args": argparse.Namespace(depth=16)}, folder / "ckpt.pth")
        return folder / "ckpt.pth", folder / "ckpt.pth"
    if form == "safetensors":
        files = folder / "vae.safetensors", folder / "var.safetensors"
        for state, file in zip((vae, var), files, strict=True):
            save_file(state, file)
        return files
    for state, file in zip((vae, var), files, strict=True):
        if form == "half":
            body = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        elif form == "bfloat16":
            body = {key: value.bfloat16() if value.is_floating_point() else value for key, value in state.items()}
        elif form == "ddp":
            body = {"state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}}
        else:  # ema
            other = {key: value * 0 if value.is_floating_point() else value for key, value in state.items()}
            body = {"model": other, "model_ema": state, "optimizer": {"lr": 1e-4}}
        torch.save(body, file)
    return files


@pytest.mark.parametrize("form", ["trainer", "safetensors", "half", "bfloat16", "ddp", "ema"])
def test_networks_are_found_in_the_checkpoints_that_trainers_write(
    original: tuple[Path, Path], imported: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, var = wrapped(original, tmp_path, form)
    compat.main(["import", "--vae", str(vae), "--var", str(var), str(tmp_path / "runs" / "new")])
    said = capsys.readouterr().out
    assert ("model_ema is taken, not model" in said) == (form == "ema")
    tolerance = {"half": 1e-3, "bfloat16": 1e-2}.get(form, 0.0)
    new, old = RunDir.open(tmp_path / "runs" / "new"), RunDir.open(imported)
    for mine, theirs in ((new, old), (new.input("tokens").input("tokenizer"), old.input("tokens").input("tokenizer"))):
        weights = [load_file(run.path / "model.safetensors") for run in (mine, theirs)]
        torch.testing.assert_close(*weights, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("head.weight", lambda x: x[0], "classifier head.weight must be"),
        ("head.weight", lambda x: x[None], "classifier head.weight must be"),
        ("head.weight", lambda x: x * math.nan, "NaN or infinity"),
        ("lvl_1L", lambda x: x - 1, "lvl_1L must number"),
        ("lvl_1L", lambda x: x + 10**9, "lvl_1L must number"),
        ("lvl_1L", lambda x: x[:, :-1], "lvl_1L must number"),
        ("lvl_1L", lambda x: x[:, :0], "is empty"),
        ("word_embed.weight", lambda x: x[:, 0], "does not have the shapes"),
        ("class_emb.weight", lambda x: x[:1, :3], "class_emb.weight expected"),
        ("blocks.0.ffn.fc1.weight", lambda x: x.sum(), "does not have the shapes"),
    ],
)
def test_tensors_of_another_form_are_refused_in_one_line(
    original: tuple[Path, Path], tmp_path: Path, key: str, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    state = torch.load(original[1], weights_only=True)
    torch.save(state | {key: change(state[key])}, tmp_path / "var.pth")
    with pytest.raises(UserError, match=message) as refused:
        compat.main(["import", "--vae", str(original[0]), "--var", str(tmp_path / "var.pth"), str(tmp_path / "new")])
    assert "\n" not in str(refused.value)
    assert str(tmp_path / "var.pth") in str(refused.value)


def test_a_classifier_written_as_a_convolution_is_the_same_classifier(
    original: tuple[Path, Path], imported: Path, tmp_path: Path
) -> None:
    state = torch.load(original[1], weights_only=True)
    torch.save(state | {"head.weight": state["head.weight"][..., None, None]}, tmp_path / "var.pth")
    compat.main(["import", "--vae", str(original[0]), "--var", str(tmp_path / "var.pth"), str(tmp_path / "new")])
    files = [load_file(RunDir.open(run).path / "model.safetensors") for run in (tmp_path / "new", imported)]
    assert torch.equal(files[0]["head.weight"], files[1]["head.weight"])


def test_what_is_no_checkpoint_is_refused(original: tuple[Path, Path], imported: Path, tmp_path: Path) -> None:
    vae, var = map(str, original)
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"a": torch.nn.Linear}, tmp_path / "pickle.pth")
    new = str(tmp_path / "new")
    for arguments, message in (
        (["--vae", vae, "--var", vae, new], "is no VAR checkpoint"),
        (["--vae", var, "--var", var, new], "is no VQVAE checkpoint"),
        (["--vae", vae, "--var", str(tmp_path / "text.pth"), new], "not a checkpoint of plain tensors"),
        (["--vae", vae, "--var", str(tmp_path / "pickle.pth"), new], "not a checkpoint of plain tensors"),
        (["--vae", vae, "--var", var, str(imported)], "exists already"),
    ):
        with pytest.raises(UserError, match=message):
            compat.main(["import", *arguments])
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_of_another_depth_is_named(imported: Path) -> None:
    path = imported / "model.safetensors"
    whole = path.read_bytes()
    state = {key: value for key, value in load_file(path).items() if not key.startswith("blocks.1.")}
    save_file(state, path)
    try:
        with pytest.raises(UserError, match="expected depth 2, found 1"):
            sample.main([str(imported), "--out", str(imported.parent / "never")])
    finally:
        path.write_bytes(whole)


# ---------------------------------------------------------------------------------------------------- fvar.sample


def run_sample(imported: Path, out: Path, *arguments: str) -> dict[str, np.ndarray]:
    sample.main([str(imported), "--out", str(out), "--precision", "fp32", "--top-k", "20", *arguments])
    return {path.name: np.array(Image.open(path)) for path in sorted(out.glob("*.png"))}


def test_the_count_does_not_change_an_image(imported: Path, tmp_path: Path) -> None:
    few = run_sample(imported, tmp_path / "few", "--class", "3", "--count", "2")
    many = run_sample(imported, tmp_path / "many", "--class", "3", "--count", "5", "--batch-size", "3")
    assert sorted(many) == ["000.png", "001.png", "002.png", "003.png", "004.png"]
    assert (tmp_path / "many-grid.png").exists()
    assert all(np.array_equal(few[name], many[name]) for name in ("000.png", "001.png"))
    assert many["000.png"].shape == (64, 64, 3)


def test_what_was_sampled_is_scored_and_counted_as_it_is(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for count in (3, 1):
        run_sample(imported, tmp_path / f"n{count}", "--count", str(count), "--show-focus")
        assert len(FolderImages(tmp_path / f"n{count}")) == count
    assert "older" not in capsys.readouterr().err
    (tmp_path / "n2-grid.png").mkdir()  # the overview cannot be written: the images are there all the same
    assert len(run_sample(imported, tmp_path / "n2", "--count", "2")) == 2
    assert "no overview" in capsys.readouterr().out
    with pytest.raises(UserError, match="cannot be a folder"):
        run_sample(imported, tmp_path / "n3" / "000.png", "--count", "1")
    run_sample(imported, tmp_path / "n3", "--count", "1")
    assert "also holds 2 older .png files" in capsys.readouterr().err


def test_inpainting_keeps_what_is_known_and_ignores_what_is_under_the_mask(imported: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    made = []
    for number in range(2):  # the second image differs under the mask only
        pixels[mask > 0] = rng.integers(0, 256, (32 * 32, 3))
        Image.fromarray(pixels).save(tmp_path / "image.png")
        Image.fromarray(mask).save(tmp_path / "mask.png")
        files = ["--inpaint", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png")]
        made.append(run_sample(imported, tmp_path / str(number), "--class", "1", "--count", "2", *files))
    assert np.array_equal(made[0]["000.png"], made[1]["000.png"])
    assert np.array_equal(made[0]["000.png"][mask == 0], pixels[mask == 0])
    assert not np.array_equal(made[0]["000.png"], made[0]["001.png"])


def test_outpainting_keeps_the_tokens_and_pixels_of_the_middle(imported: Path, tmp_path: Path) -> None:
    """A frame around a known quarter: every token wholly inside is held at every scale, whatever the class."""
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.full((64, 64), 255, np.uint8)
    mask[16:48, 16:48] = 0
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = ["--inpaint", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png"), "--count", "2"]
    made = [run_sample(imported, tmp_path / label, "--class", label, *files) for label in ("1", "4")]
    pictures = [pictures[name] for pictures in made for name in ("000.png", "001.png")]
    for picture in pictures:
        assert np.array_equal(picture[16:48, 16:48], pixels[16:48, 16:48])
    assert len({picture.tobytes() for picture in pictures}) == 4, "the surroundings vary with draw and class"

    tokenizer = load_tokenizer(RunDir.open(imported).input("tokens").input("tokenizer"))
    known = known_tokens(tokenizer, torch.from_numpy(pixels).movedim(-1, 0), torch.from_numpy(mask) > 0)
    middle = [[False], [False] * 4, [5 <= i <= 10 and i not in (7, 8) for i in range(16)]]  # of patch_nums 1, 2, 4
    assert [held[0].tolist() for held in known.held] == middle


def test_the_film_shows_every_scale_and_ends_with_the_image(imported: Path, tmp_path: Path) -> None:
    made = run_sample(imported, tmp_path / "out", "--count", "2", "--show-focus")
    film = np.array(Image.open(tmp_path / "out-focus.png"))
    assert film.shape == (2 * 64 + 2, 3 * 64 + 2 * 2, 3)
    assert np.array_equal(film[:64, -64:], made["000.png"])


def test_mistakes_are_one_line(imported: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 40)).save(tmp_path / "small.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    small, black = str(tmp_path / "small.png"), str(tmp_path / "black.png")
    for arguments, message in (
        (["--class", "10"], "--class must be 0 to 9, found 10"),
        (["--top-p", "0"], r"--top-p must be in \(0, 1\], found 0.0"),
        (["--inpaint", black], "go together"),
        (["--inpaint", black, "--mask", small], "expected 64x64 px, found 64x40"),
        (["--inpaint", black, "--mask", black], "found only one of them"),
        (["--inpaint", "nowhere.png", "--mask", black], "does not exist"),
    ):
        with pytest.raises(UserError, match=message) as error:
            sample.main([str(imported), "--out", str(tmp_path / "out"), *arguments])
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_command_line_exits_2_with_one_line(
    imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sample", str(imported), "--class", "10", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        run_main(sample.main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --class must be 0 to 9, found 10\n"
