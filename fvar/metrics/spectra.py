"""Aliasing seen in spectra: how the power of generated images differs from that of real ones, octave by octave.

Detail that is sampled without a low-pass folds into lower frequencies, and a coarse grid that is filled without one
leaves its images in the upper ones; both are power that real photographs of that size do not have. A blurred image
lacks power there. The power spectrum of each image (without its mean, tapered to the borders) is averaged over rings
and over images; what is compared are these two curves.

Per image the rings are a feature vector like any other, so they are extracted, kept and resampled as Inception's are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fvar.data.images import to_float
from fvar.focus import spectrum
from fvar.focus.aliasing import tapered
from fvar.metrics.compare import Score
from fvar.metrics.features import Extractor, Images
from fvar.metrics.frechet import RESAMPLES

LOWEST = 2  # periods per longer side: what is coarser than this, the taper's own spectrum covers
QUANTISATION = (2 / 255) ** 2 / 12  # power of rounding to 8 bits, in units of [-1, 1]: files do not hold less
LABELS = {"spectral_distance": "Spectrum dB", "top_octave": "Top octave"}


class RadialSpectrum(nn.Module):
    """uint8 images (B, 3, H, W) -> mean power on each ring (B, R) float32, as `spectrum.radial_power` counts them."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        rings = spectrum.radial_power(torch.zeros(1, 1, height, width))
        self.register_buffer("frequency", rings.frequency)  # (R,) cycles per px
        self.register_buffer("bins", rings.bins)  # (R,) how many frequencies a ring holds
        self.floor = QUANTISATION * float(spectrum.hann(height, width).square().mean())

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return spectrum.radial_power(tapered(to_float(images))).power + self.floor


def load_spectra(height: int, width: int, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of radial spectra of images of one size."""
    network = RadialSpectrum(height, width).to(device)
    return Extractor(f"radial-spectrum-{height}x{width}", network, len(network.get_buffer("frequency")))


def octaves(frequency: Tensor) -> list[tuple[float, Tensor]]:
    """Bands from the top down: (lower bound in cycles per px, mask (R,)), the upper bound being twice the lower.

    The first one is the top octave, from half the Nyquist frequency upwards; it takes in the corners of the frequency
    plane, beyond 0.5 cycles per px, where checkerboards are. Bands reach down to `LOWEST` periods per image.
    """
    step = float(frequency[1])  # one period per longer side
    bands = [(0.25, frequency > 0.25)]
    while bands[-1][0] / 2 >= LOWEST * step:
        low = bands[-1][0] / 2
        bands.append((low, (frequency > low) & (frequency <= 2 * low)))
    return bands


def log_spectral_distances(generated: Tensor, real: Tensor, network: RadialSpectrum) -> list[float]:
    """Per octave of `octaves`, the root mean square of 10 log10(P_generated / P_real) over its frequencies, in dB.

    `generated` and `real` (R,) are mean spectra. The log-spectral distance of speech processing (Gray and Markel 1976,
    "Distance measures for speech processing"), on the azimuthally averaged spectra by which Durall et al. (2020, "Watch
    your up-convolution") tell generated from real images; taking it by octaves is ours.
    """
    decibels = 10 * (generated.double() / real.double()).log10()
    bins = network.get_buffer("bins").cpu().double()
    bands = octaves(network.get_buffer("frequency").cpu())
    return [float(((decibels.square() * bins)[band].sum() / bins[band].sum()).sqrt()) for _, band in bands]


def top_octave_ratio(generated: Tensor, real: Tensor, network: RadialSpectrum) -> float:
    """Energy of generated over that of real images in the top octave: 1 is as real, 2 is 3 dB too much. Ours.

    Aliasing, upsampling artefacts and noise raise it; blur lowers it. `generated` and `real` (R,) are mean spectra.
    """
    bins = network.get_buffer("bins").cpu().double()
    _, top = octaves(network.get_buffer("frequency").cpu())[0]
    return float((generated.double() * bins)[top].sum() / (real.double() * bins)[top].sum())


def aliasing_scores(
    generated: Images,
    real: Images | None,
    extract: Callable[[Extractor, Images], Tensor],
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, Score]:
    """Both numbers as scores, "spectral_distance" (the root mean square over the octaves, dB) and "top_octave".

    `extract` runs an extractor over images, or finds what it gave before. `spread` is the standard deviation over
    bootstrap resamples of the generated images, drawn from `seed`, as FID's is. A blank with its reason where the
    reference holds no images, or images of another size.
    """
    count = len(generated)
    if real is None:
        return _blank(count, None, "the reference holds statistics only, no images")
    height, width = generated.batch(range(1)).shape[-2:]
    if (height, width) != (other := tuple(real.batch(range(1)).shape[-2:])):
        sizes = f"{width} x {height} and {other[1]} x {other[0]} px"
        return _blank(count, len(real), f"spectra of images of different size ({sizes}) do not compare")

    extractor = load_spectra(height, width, device)
    network = extractor.network
    assert isinstance(network, RadialSpectrum)
    spectra, reference = extract(extractor, generated), extract(extractor, real).double().mean(0)

    def measure(rows: Tensor) -> tuple[float, float, list[float]]:
        """Both numbers, and the distance by octave."""
        mean = rows.double().mean(0)
        bands = log_spectral_distances(mean, reference, network)
        return float(np.sqrt(np.mean(np.square(bands)))), top_octave_ratio(mean, reference, network), bands

    distance, top, bands = measure(spectra)
    lows = [f"above {low:g} cycles/px" for low, _ in octaves(network.get_buffer("frequency"))]
    by_octave = {name: round(value, 4) for name, value in zip(lows, bands, strict=True)}
    rng = np.random.default_rng(seed)
    draws = [measure(spectra[torch.from_numpy(rng.integers(count, size=count))])[:2] for _ in range(RESAMPLES)]
    spreads = [{"spread": float(np.std(drawn, ddof=1))} if count > 1 else {} for drawn in zip(*draws, strict=True)]
    details: list[dict[str, Any]] = [spreads[0] | {"octaves": by_octave}, spreads[1]]
    return {
        key: Score(f"{label}@{count}", value, "", count, len(real), None, more)
        for (key, label), value, more in zip(LABELS.items(), (distance, top), details, strict=True)
    }


def _blank(count: int, reference_count: int | None, reason: str) -> dict[str, Score]:
    return {key: Score(f"{label}@{count}", None, reason, count, reference_count) for key, label in LABELS.items()}
