"""The residual recursion, checked against the original's wording of it and against the equations."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fvar.config import QuantiserConfig, Reading
from fvar.errors import UserError
from fvar.tokenizer.quantiser import MultiScaleQuantiser, SharedPhi

SCALES = (1, 2, 3, 6)


def quantiser(reading: Reading, vocab: int = 64, codebook: Literal["ema", "gradient"] = "ema") -> MultiScaleQuantiser:
    torch.manual_seed(0)
    made = MultiScaleQuantiser(QuantiserConfig(vocab_size=vocab, reading=reading, codebook=codebook), 4, SCALES)
    torch.nn.init.normal_(made.embedding.weight)
    return made


def pyramid(batch: int = 3, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 4, side, side, generator=generator) for side in SCALES]


def test_latent_area_subtracts_from_the_full_residual_as_the_original_words_it() -> None:
    q, f = quantiser("latent_area"), pyramid()[-1]
    rest, f_hat, expected = f.clone(), torch.zeros_like(f), []
    for k, side in enumerate(SCALES):
        small = F.adaptive_avg_pool2d(rest, side)
        distances = torch.cdist(small.movedim(1, -1).flatten(1, 2), q.embedding.weight.expand(3, -1, -1))
        expected.append(distances.argmin(-1))
        h = q.embedding(expected[-1]).mT.reshape(3, 4, side, side)
        h = q.quant_resi(k, F.interpolate(h, size=(6, 6), mode="bicubic")) if side < 6 else q.quant_resi(k, h)
        rest, f_hat = rest - h, f_hat + h
    coded = q.quantise([F.adaptive_avg_pool2d(f, side) for side in SCALES])
    assert all(torch.equal(a, b) for a, b in zip(coded.indices, expected, strict=True))
    torch.testing.assert_close(coded.f_hats[-1], f_hat)


@pytest.mark.parametrize("reading", ["focus", "independent"])
def test_a_silent_scale_takes_part_in_nothing(reading: Reading) -> None:
    q, z = quantiser(reading), pyramid()
    shorter = MultiScaleQuantiser(QuantiserConfig(vocab_size=64, reading=reading), 4, SCALES, silent={1, 3})
    shorter.load_state_dict(q.state_dict())
    coded = shorter.quantise(z)
    assert not coded.indices[1].any()
    assert [len(drawn) for drawn in coded.drawn] == [3, 0, 27, 0]
    assert torch.equal(coded.f_hats[1], coded.f_hats[0])
    assert torch.equal(coded.f_hats[3], coded.f_hats[2])
    for rebuilt, made in zip(shorter.f_hats(coded.indices), coded.f_hats, strict=True):
        torch.testing.assert_close(rebuilt, made)
    other = shorter.quantise([z[0], z[1] + 9, z[2], z[3] - 9])
    assert torch.equal(other.commitment, coded.commitment)
    assert torch.equal(other.codebook, coded.codebook)
    shorter.record_hits(coded.drawn)
    assert shorter.ema_vocab_hit_SV.any(1).tolist() == [True, False, True, False]


@pytest.mark.parametrize("reading", ["focus", "independent", "latent_area"])
def test_tokens_alone_rebuild_every_prefix(reading: Reading) -> None:
    q = quantiser(reading)
    coded = q.quantise(pyramid())
    for rebuilt, made in zip(q.f_hats(coded.indices), coded.f_hats, strict=True):
        torch.testing.assert_close(rebuilt, made)


def test_focus_codes_what_the_coarser_scales_left_of_each_view() -> None:
    q, z = quantiser("focus"), pyramid()
    coded = q.quantise(z)
    for k in range(1, len(SCALES)):
        left = z[k] - F.adaptive_avg_pool2d(coded.f_hats[k - 1], SCALES[k])
        torch.testing.assert_close(coded.residuals[k], left.movedim(1, -1).flatten(0, 2))


def test_independent_scales_do_not_see_each_other() -> None:
    q, z = quantiser("independent"), pyramid()
    before = q.quantise(z).indices
    after = q.quantise([z[0] + 9, z[1] - 9, z[2] * 3, z[3]]).indices
    assert torch.equal(before[3], after[3])
    assert not torch.equal(before[1], after[1])
    own_map = F.interpolate(q.code_map(1, before[1]), size=(6, 6), mode="bicubic")
    torch.testing.assert_close(q.f_hats(before)[1], q.quant_resi(1, own_map))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), vocab=st.integers(1, 300), spread=st.floats(0.01, 100))
def test_every_vector_gets_its_nearest_code(seed: int, vocab: int, spread: float) -> None:
    q = quantiser("focus", vocab)
    vectors = spread * torch.randn(50, 4, generator=torch.Generator().manual_seed(seed))
    distances = torch.cdist(vectors.double(), q.embedding.weight.detach().double())
    chosen = distances.gather(1, q.nearest(vectors)[:, None]).squeeze(1)
    torch.testing.assert_close(chosen, distances.min(1).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reading", ["focus", "independent"])
def test_gradients_pass_straight_through_to_the_view_of_the_prefix(reading: Reading) -> None:
    q = quantiser(reading)
    z = [level.requires_grad_() for level in pyramid()]
    q.quantise(z).f_hats[2].sum().backward()
    touched = [level.grad is not None and bool(level.grad.abs().sum() > 0) for level in z]
    assert touched == [False, False, True, False]


def test_commitment_moves_the_encoder_and_codebook_loss_moves_phi_only() -> None:
    q = quantiser("focus")
    z = [level.requires_grad_() for level in pyramid()]
    coded = q.quantise(z)
    phis = [phi.get_parameter("weight") for phi in q.quant_resi.qresi_ls]
    coded.codebook.backward()
    assert all(level.grad is None for level in z)
    assert all(phi.grad is not None for phi in phis)
    assert q.embedding.weight.grad is None  # the codes follow running means instead
    q.zero_grad()
    coded.commitment.backward()
    assert all(level.grad is not None for level in z)
    assert all(phi.grad is None or not phi.grad.any() for phi in phis)


def test_gradient_codebook_learns_from_its_loss() -> None:
    q = quantiser("focus", codebook="gradient")
    q.quantise(pyramid()).codebook.backward()
    assert q.embedding.weight.grad is not None
    assert q.embedding.weight.grad.any()


def test_distances_stay_in_float32_under_bf16_autocast() -> None:
    q, z = quantiser("focus"), pyramid(16)
    with torch.autocast("cpu", torch.bfloat16):
        coded = q.quantise(z)
    plain = q.quantise(z)
    assert all(torch.equal(a, b) for a, b in zip(coded.indices, plain.indices, strict=True))
    assert coded.f_hats[-1].dtype == torch.float32


def test_ten_scales_share_four_phi_as_in_the_original() -> None:
    assert SharedPhi(4, 4, 0.5, 10).choice == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


def test_hits_are_counted_per_scale() -> None:
    q = quantiser("focus", vocab=8)
    q.record_hits([torch.full((2, side * side), k) for k, side in enumerate(SCALES)], decay=0.0)
    assert q.ema_vocab_hit_SV.sum(1).tolist() == [2.0, 8.0, 18.0, 72.0]
    assert q.ema_vocab_hit_SV.argmax(1).tolist() == [0, 1, 2, 3]


def test_a_vocabulary_beyond_16_bits_is_refused() -> None:
    with pytest.raises(UserError, match="65536"):
        QuantiserConfig(vocab_size=65_537)
