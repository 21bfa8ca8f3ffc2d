"""Sampling and metrics stay on the device they are given: no tensor of theirs is made on the CPU by default.

They run here on meta tensors (`tests.meta`), as they would on a GPU nobody has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fvar import sampling
from fvar.focus.spectrum import aliasing_energy
from fvar.metrics.features import load_extractor
from fvar.metrics.spectra import load_spectra
from fvar.metrics.ssim import ssim
from fvar.sampling import Known, image_seeds, prepare, sample
from fvar.tokenizer.losses import psnr
from fvar.tokenizer.perceptual import PerceptualDistance
from tests import tiny
from tests.meta import META, OneDevice, never_waiting

LABELS = torch.zeros(3, dtype=torch.int64, device=META)


@pytest.mark.parametrize("cfg", [tiny.CFG, tiny.MVAR], ids=["VAR", "M-VAR"])
@pytest.mark.parametrize("changes", [{}, {"guidance": 0.0}, {"smooth": True}], ids=["guided", "free", "smooth"])
def test_sampling_stays_on_its_device(cfg: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And asks it for nothing, once the arguments are checked."""
    monkeypatch.setattr(sampling, "_check", lambda *_: None)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    var, vqvae = tiny.var(cfg), tiny.vqvae()
    prepare(var, vqvae, "bf16", META)
    sides = [p * p for p in tiny.PATCH_NUMS]
    known = Known([LABELS.new_zeros(3, n) for n in sides], [LABELS.new_zeros(3, n, dtype=torch.bool) for n in sides])
    settings = {"guidance": 1.5, "top_k": 30, "top_p": 0.95, **changes}
    with never_waiting():
        made = sample(var, vqvae, LABELS, seeds=image_seeds(0, range(3)), known=known, **settings)
    assert {tensor.device for tensor in (made.images, *made.tokens, *made.f_hats)} == {META}
    assert made.images.shape == (3, 3, 6, 6)


def psf() -> Tensor:
    return torch.full((3, 3), 1 / 9, device=META)


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "Inception": lambda x: load_extractor("inception-torchscript", device=META).network((255 * x).byte()),
    "radial spectra": lambda x: load_spectra(64, 64, META).network((255 * x).byte()),
    "SSIM": lambda x: ssim(x, x.flip(-1)),
    "PSNR": lambda x: psnr(x, x.flip(-1)),
    "LPIPS": lambda x: PerceptualDistance().to(META)(x, x.flip(-1)),
    "aliasing energy": lambda x: aliasing_energy(x, 4.0, psf()),
}


@pytest.mark.parametrize("name", MEASURES)
def test_what_is_measured_on_a_device_stays_there(name: str) -> None:
    measure = MEASURES[name]
    with OneDevice(), torch.no_grad():
        assert measure(torch.zeros(2, 3, 64, 64, device=META)).device == META


def test_a_tensor_made_on_the_cpu_would_be_seen() -> None:
    with OneDevice(), pytest.raises(RuntimeError, match="mixes devices"):
        torch.zeros(3, device=META) + torch.arange(3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.tensor([1, 2], device=META),
        lambda: torch.tensor(1.5, device=META),
        lambda: torch.as_tensor(1.5, device=META),
        lambda: torch.arange(3).to(META),
        lambda: torch.zeros(3, device=META).copy_(torch.arange(3)),
    ],
)
def test_numbers_that_a_gpu_would_be_waited_for_would_be_seen(make: Callable[[], Tensor]) -> None:
    with never_waiting(), pytest.raises(RuntimeError, match="waited for"):
        make()
    with never_waiting():
        torch.arange(3).to(META, non_blocking=True)
        torch.full((), 1.5, device=META)
