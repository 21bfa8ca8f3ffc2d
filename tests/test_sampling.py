"""Sampling: the right distribution, the same image wherever it is made, held tokens kept."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fvar.models.var import VAR
from fvar.sampling import Known, Samples, draw, filter_logits, image_seeds, prepare, sample
from fvar.tokenizer.vqvae import VQVAE
from tests import tiny

LABELS = torch.arange(9) % tiny.CLASSES

pytestmark = pytest.mark.usefixtures("half_precision")


def networks(precision: str = "fp32", mixer: str = "var") -> tuple[VAR, VQVAE]:
    var, vqvae = tiny.var(tiny.CFG if mixer == "var" else tiny.MVAR), tiny.vqvae()
    prepare(var, vqvae, precision, torch.device("cpu"))  # type: ignore[arg-type]
    return var, vqvae


def make(
    var: VAR,
    vqvae: VQVAE,
    labels: torch.Tensor = LABELS,
    *,
    indices: range | None = None,
    guidance: float = 1.5,
    top_k: int = 30,
    top_p: float = 0.95,
    known: Known | None = None,
    smooth: bool = False,
) -> Samples:
    seeds = image_seeds(0, indices or range(len(labels)))
    return sample(
        var, vqvae, labels, guidance=guidance, top_k=top_k, top_p=top_p, seeds=seeds, known=known, smooth=smooth
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("mixer", ["var", "mvar"])
def test_an_image_is_the_same_in_any_batch(precision: str, guidance: float, size: int, mixer: str) -> None:
    var, vqvae = networks(precision, mixer)
    whole = make(var, vqvae, guidance=guidance)
    parts = [
        make(var, vqvae, LABELS[i : i + size], indices=range(i, min(i + size, 9)), guidance=guidance)
        for i in range(0, 9, size)
    ]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([torch.cat(part.tokens, 1) for part in parts]), torch.cat(whole.tokens, 1))


def test_an_image_is_the_same_on_any_rank() -> None:
    var, vqvae = networks()
    whole = make(var, vqvae)
    for rank in range(2):  # rank r of 2 makes images r, r + 2, ...
        mine = list(range(rank, 9, 2))
        seeds = image_seeds(0, mine)
        part = sample(var, vqvae, LABELS[mine], guidance=1.5, top_k=30, top_p=0.95, seeds=seeds)
        assert torch.equal(part.images, whole.images[mine])


def test_seeds_differ_between_images_and_between_sets() -> None:
    assert len({*image_seeds(0, range(1000)), *image_seeds(1, range(1000))}) == 2000
    var, vqvae = networks()
    same_class = make(var, vqvae, torch.zeros(6, dtype=torch.int64))
    assert len({tuple(torch.cat(same_class.tokens, 1)[i].tolist()) for i in range(6)}) == 6


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    count = 20_000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens = draw(logits.expand(1, count, 4), uniform[None], 0, 1.0)
    frequency = torch.bincount(tokens[0], minlength=4) / count
    torch.testing.assert_close(frequency, logits.softmax(0), atol=1e-4, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    top_k=st.integers(0, 30),
    top_p=st.floats(0.01, 1.0),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_only_the_nucleus_of_the_top_k_is_drawn(seed: int, top_k: int, top_p: float, uniform: float) -> None:
    logits = torch.randn(1, 1, 12, generator=torch.Generator().manual_seed(seed)) * 3
    ranked = sorted(range(12), key=lambda token: -logits[0, 0, token].item())[: top_k or 12]
    weights = [math.exp(logits[0, 0, token].item()) for token in ranked]
    nucleus, mass = [], 0.0
    for token, weight in zip(ranked, weights, strict=True):
        if mass >= top_p * sum(weights) - 1e-6:
            break
        nucleus.append(token)
        mass += weight
    kept = filter_logits(logits, top_k, top_p).isfinite()[0, 0].nonzero()[:, 0].tolist()
    assert set(nucleus) <= set(kept) <= set(ranked)
    assert len(kept) - len(nucleus) <= 1  # top_p may fall on the edge of a token
    for u in (uniform, 0.0, 1 - 2.0**-53):
        assert draw(logits, torch.tensor([[u]], dtype=torch.float64), top_k, top_p).item() in kept


def test_top_k_above_the_vocabulary_keeps_all() -> None:
    var, vqvae = networks()
    assert torch.equal(make(var, vqvae, top_k=10**6).images, make(var, vqvae, top_k=0).images)


@pytest.mark.parametrize("mixer", ["var", "mvar"])
def test_guidance_extrapolates_from_unconditional_to_conditional(mixer: str) -> None:
    """Greedy tokens at the last scale equal argmax of (1 + t) conditional - t unconditional, by teacher forcing."""
    var, vqvae = networks(mixer=mixer)
    made = make(var, vqvae, LABELS[:3], guidance=2.0, top_k=1)
    var_input = vqvae.var_input(made.tokens)
    conditional = var(LABELS[:3], var_input).logits
    free = var(torch.full((3,), tiny.CLASSES), var_input).logits
    t = torch.cat([torch.full((p * p,), 2.0 * k / 2) for k, p in enumerate(tiny.PATCH_NUMS)])[:, None]
    expected = ((1 + t) * conditional - t * free).argmax(-1)
    assert torch.equal(torch.cat(made.tokens, 1), expected)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_held_tokens_are_kept_and_the_others_drawn(seed: int, share: float) -> None:
    var, vqvae = networks(mixer=("var", "mvar")[seed % 2])
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, p * p) for p in tiny.PATCH_NUMS]
    known = Known(
        [torch.randint(tiny.VOCAB, shape, generator=generator) for shape in shapes],
        [torch.rand(shape, generator=generator) < share for shape in shapes],
    )
    made = make(var, vqvae, LABELS[:2], known=known)
    for drawn, given_tokens, held in zip(made.tokens, known.tokens, known.held, strict=True):
        assert torch.equal(drawn[held], given_tokens[held])
    f_hat = vqvae.indices_to_f_hat(made.tokens)[-1]
    torch.testing.assert_close(made.f_hats[-1], f_hat)


def test_smoothing_changes_the_picture_and_ends_near_the_codes() -> None:
    var, vqvae = networks()
    sharp, smooth = make(var, vqvae), make(var, vqvae, smooth=True)
    assert not torch.equal(sharp.images, smooth.images)
    assert smooth.f_hats[-1].isfinite().all()


def test_half_precision_leaves_the_rates_of_mamba_as_they_are() -> None:
    mixer = networks("bf16", "mvar")[0].layers[0].get_submodule("mamba")
    exact = networks("fp32", "mvar")[0].layers[0].get_submodule("mamba")
    for name, parameter in mixer.named_parameters():
        rates = name in ("dt_bias", "A_log")
        assert parameter.dtype == (torch.float32 if rates else torch.bfloat16)
        assert not rates or torch.equal(parameter, exact.get_parameter(name))


def test_bfloat16_agrees_with_float32_within_its_rounding() -> None:
    """With the tokens held equal, the decoded pictures differ by rounding only: under 2 of 255 levels on average."""
    exact = make(*networks())
    known = Known(exact.tokens, [torch.ones_like(tokens, dtype=torch.bool) for tokens in exact.tokens])
    low = make(*networks("bf16"), known=known)
    assert (low.images.float() - exact.images.float()).abs().mean() < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], found 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], found 1.5"),
        ({"top_k": -1}, "top_k must be at least 0, found -1"),
        ({"labels": torch.tensor([7])}, "classes must be 0 to 4, found 7 to 7"),
        ({"seeds": [1, 2]}, "one seed for each of at least one label, found 1 and 2"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments = {"labels": torch.tensor([0]), "guidance": 1.0, "top_k": 0, "top_p": 1.0, "seeds": [0], **change}
    with pytest.raises(ValueError, match=message):
        sample(*networks(), **arguments)  # type: ignore[arg-type]


def test_a_tokenizer_of_other_scales_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 3\), 40, 4, found \(1, 2, 4\), 40, 4"):
        sample(tiny.var(), tiny.vqvae((1, 2, 4)), torch.tensor([0]), guidance=0.0, top_k=0, top_p=1.0, seeds=[0])
