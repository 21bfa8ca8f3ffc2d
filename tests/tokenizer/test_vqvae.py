"""The tokenizer network is the original's: same keys, same shapes, same numbers."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from fvar.config import AutoencoderConfig, QuantiserConfig, Reading
from fvar.tokenizer.autoencoder import Decoder, Encoder, Upsample
from fvar.tokenizer.vqvae import VQVAE
from tests import tiny
from tests.benchmarks import reference

GOLDEN = Path(__file__).parents[1] / "golden"
VAR_SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with safe_open(GOLDEN / "var_tiny.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


@pytest.fixture(scope="module")
def vae(golden: dict[str, Tensor]) -> VQVAE:
    with safe_open(GOLDEN / "var_tiny.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    model = VQVAE(
        AutoencoderConfig(ch=config["ch"], z_channels=config["z_channels"]),
        QuantiserConfig(vocab_size=config["vocab_size"], reading="latent_area"),
        tuple(config["patch_nums"]),
    )
    weights = {key.removeprefix("vae."): value for key, value in golden.items() if key.startswith("vae.")}
    model.load_state_dict(weights, strict=True)
    return model.eval()


@torch.no_grad()
def test_encoder_tokens_and_decoder_reproduce_the_original(vae: VQVAE, golden: dict[str, Tensor]) -> None:
    image = golden["in.image"]
    torch.testing.assert_close(vae.encode(image), golden["out.encoder_feature"], atol=1e-5, rtol=0)
    indices = vae.indices([image])
    for k, index in enumerate(indices):
        assert torch.equal(index, golden[f"out.idx.{k}"])
    f_hat = vae.indices_to_f_hat(indices)[-1]
    torch.testing.assert_close(f_hat, golden["out.f_hat"], atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(f_hat), golden["out.reconstruction"], atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.var_input(indices), golden["out.var_input"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (3, 5)])
def test_doubling_pixels_and_convolving_is_one_transposed_convolution(size: tuple[int, int]) -> None:
    """At the borders too, and for the gradients."""
    layer, x = Upsample(3).double(), torch.randn(2, 3, *size, dtype=torch.float64)
    plain = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(layer(x), plain)
    weight = torch.randn_like(plain)
    for mine, theirs in zip(
        torch.autograd.grad((layer(x) * weight).sum(), list(layer.parameters())),
        torch.autograd.grad((plain * weight).sum(), list(layer.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@torch.no_grad()
def test_the_benchmarks_plain_reference_decodes_the_same_and_nothing_is_changed_in_place() -> None:
    vqvae, f_hat = tiny.vqvae(), torch.randn(2, tiny.CHANNELS, 3, 3)
    before = f_hat.clone()
    torch.testing.assert_close(vqvae.decode(f_hat), reference.decode(vqvae, f_hat))
    assert torch.equal(f_hat, before)


def test_state_dict_has_the_originals_keys_and_shapes() -> None:
    shapes = json.loads((GOLDEN / "state_dict_shapes.json").read_text())["vae_ch160v4096z32"]
    with torch.device("meta"):
        model = VQVAE(AutoencoderConfig(), QuantiserConfig(vocab_size=4096), VAR_SCALES)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes


@torch.no_grad()
@pytest.mark.parametrize("reading", ["focus", "independent", "latent_area"])
def test_sampling_step_by_step_sees_what_teacher_forcing_showed(reading: Reading) -> None:
    torch.manual_seed(0)
    tiny = AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4)
    model = VQVAE(tiny, QuantiserConfig(vocab_size=32, reading=reading), (1, 2, 3, 5)).eval()
    torch.nn.init.normal_(model.quantize.embedding.weight)
    indices = [torch.randint(32, (2, side * side)) for side in model.patch_nums]
    forced = torch.split(model.var_input(indices), [4, 9, 25], dim=1)
    f_hat = model.quantize.blank(torch.empty(2))
    for k, index in enumerate(indices):
        f_hat, following = model.next_input(k, f_hat, model.quantize.code_map(k, index))
        torch.testing.assert_close(f_hat, model.indices_to_f_hat(indices)[k])
        if following is None:
            assert k == 3
        else:
            torch.testing.assert_close(following.flatten(2).mT, forced[k])


@torch.no_grad()
@pytest.mark.parametrize(("ch_mult", "patch"), [((1, 2, 2), 1), ((1, 2), 2), ((1,), 4)])
def test_one_encoder_maps_every_view_to_its_own_token_grid(ch_mult: tuple[int, ...], patch: int) -> None:
    tiny = AutoencoderConfig(ch=8, ch_mult=ch_mult, num_res_blocks=1, z_channels=4, norm_groups=4, patch=patch)
    model = VQVAE(tiny, QuantiserConfig(vocab_size=16), (1, 2, 4))
    latents = model.latents([torch.rand(3, 3, 4 * side, 4 * side) for side in model.patch_nums])
    assert [tuple(z.shape) for z in latents] == [(3, 4, 1, 1), (3, 4, 2, 2), (3, 4, 4, 4)]


@torch.no_grad()
def test_a_square_of_pixels_taken_as_one_comes_back_where_it_was() -> None:
    cfg = AutoencoderConfig(ch=12, ch_mult=(1,), num_res_blocks=1, z_channels=12, attention=False, patch=2)
    encoder, decoder = Encoder(cfg), Decoder(cfg)
    seen: list[Tensor] = []
    encoder.conv_in.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = torch.arange(3 * 4 * 6.0).reshape(1, 3, 4, 6)
    encoder(image)
    squares = seen[0]  # (1, 3 * 2 * 2, 2, 3)
    for channel, down, right in itertools.product(range(3), range(2), range(2)):
        assert torch.equal(squares[0, 4 * channel + 2 * down + right], image[0, channel, down::2, right::2])
    decoder.conv_out.register_forward_hook(lambda *_: squares)
    assert torch.equal(decoder(torch.zeros(1, 12, 2, 3)), image)
