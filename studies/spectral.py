"""Where defocus aliases less than VAR's own downsampling, and where it does not. Measured; nothing is trained.

    python -m studies.run spectral
    python analysis/plot_aliasing.py          # draws the figures again

Images: embedded emoji (grey) at 128 px, and charts with known content at 256 px. `rho_max` is in px at 256 px, as in
the paper. What was measured is kept while the settings below stay as they are; delete results/spectral to repeat it.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvar.focus.kernels import BLURRING, KERNELS
from fvar.machine import atomic
from studies.study import Cell, Context, Study

if TYPE_CHECKING:
    from torch import Tensor

    from analysis.style import Drawings

Row = dict[str, Any]
FLAG = "1f1fa-1f1f8.webp"  # United States: stripes and stars
WITHOUT_RADIUS = ("decimate", *(name for name, kernel in KERNELS.items() if kernel.view and not kernel.radius))


@dataclass(frozen=True)
class Settings:
    """What is measured; the results hold until one of these changes."""

    emoji_per_class: int = 12
    emoji_side: int = 128
    chart_side: int = 256
    rho_max: tuple[float, ...] = (0, 3, 6, 9, 12, 18, 24)  # px at 256 px
    scales: tuple[tuple[int, ...], ...] = ((2, 4, 8, 16), (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))  # K = 4, and VAR's K = 10
    sweep_s: tuple[int, ...] = (2, 4, 8)
    sweep_rho_over_s: tuple[float, ...] = tuple(round(0.3 + 0.05 * i, 2) for i in range(25))  # 0.3 ... 1.5
    reference_side: int = 256
    kernels: tuple[str, ...] = BLURRING
    residual_rho_max: float = 12.0  # px at 256 px, at which A_k is taken apart


def cells(ctx: Context) -> Iterator[Cell]:
    """None: there is nothing to train."""
    return iter(())


def outputs(results: Path) -> Drawings:
    return run(results)


STUDY = Study("spectral", "Aliasing of each way to build the pyramid", cells, outputs=outputs)


def run(results: Path, settings: Settings | None = None, say: Callable[[str], None] = print) -> Drawings:
    """Measure into results/spectral, unless that is done; what shows it, the finding first."""
    from analysis import plot_aliasing

    settings = settings or Settings()
    folder = results / "spectral"
    stamp, done = json.loads(json.dumps(asdict(settings))), folder / "settings.json"
    if not done.exists() or json.loads(done.read_text()) != stamp:
        _measure(folder, settings, say)
        for name in ("README.md", *plot_aliasing.FIGURES):  # of earlier measurements
            (folder / name).unlink(missing_ok=True)
        atomic.write_json(done, stamp)
    tables: Drawings = {path.name: partial(Path, path) for path in sorted(folder.glob("*.csv"))}
    figures = {name: partial(_figure, folder / name) for name in plot_aliasing.FIGURES}
    return {"README.md": partial(_finding, folder / "README.md"), **figures, **tables}


def _finding(path: Path) -> Path:
    """The finding in words, written where it is missing."""
    from analysis.spectral_finding import finding

    if not path.exists():
        atomic.write_text(path, finding(path.parent))
    return path


def _figure(path: Path) -> list[Path]:
    """A figure, drawn where it is missing."""
    from analysis import plot_aliasing

    return [path] if path.exists() else plot_aliasing.draw_one(path.parent, path.name)


# --------------------------------------------------------------------------------------------------------- measurements


def _measure(folder: Path, settings: Settings, say: Callable[[str], None]) -> None:
    import torch

    images = _images(settings)
    with torch.no_grad():
        sweep = [row for name, x in images.items() for row in _progress(name, _sweep(name, x, settings), say)]
        table = [row for name, x in images.items() for row in _progress(name, _table(name, x, settings), say)]
        _write(folder / "crossover.csv", sweep)
        _write(folder / "aliasing.csv", table)
        _write(folder / "residual.csv", [row for name, x in images.items() for row in _residual(name, x, settings)])
        _write(folder / "otf.csv", list(_otf()))
        _write(folder / "spectra.csv", [row for name, x in images.items() for row in _spectra(name, x, settings)])
        _write_views(folder / "views.npz", settings)


def _progress(name: str, rows: Iterable[Row], say: Callable[[str], None]) -> list[Row]:
    kept = []
    for row in rows:
        kept.append(row)
        if len(kept) % 100 == 0:
            say(f"spectral: {name}, {len(kept)} measurements")
    return kept


def _images(settings: Settings) -> dict[str, Tensor]:
    """The image sets by name, each (N, C, S, S) in [-1, 1]."""
    import torch

    from fvar.config import DataConfig
    from fvar.data import charts, open_dataset, to_float

    emoji = open_dataset(DataConfig(dataset="emoji", image_size=settings.emoji_side), "all")
    chosen = emoji.balanced(settings.emoji_per_class * emoji.num_classes, seed=0)
    side = settings.chart_side
    noise = torch.rand(4, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    bundles = [
        torch.stack([charts.grating(side, 0.03 * i, degrees) for i in range(1, 16)]).mean(0)
        for degrees in (0, 22.5, 45, 67.5)
    ]
    return {
        "emoji": to_float(chosen.batch(range(len(chosen)))).mean(1, keepdim=True),
        "text": charts.rendered_text(side)[None],
        "gratings": torch.stack(bundles),
        "siemens_star": charts.siemens_star(side)[None],
        "zone_plate": charts.zone_plate(side)[None],
        "white_noise": noise,
    }


def _table(name: str, x: Tensor, settings: Settings) -> Iterator[Row]:
    """Every scale of every pyramid: each recipe without a radius once, each with one at every radius."""
    from fvar.focus.optics import radius_schedule

    measure = _Measurer(name, x)
    for patch_nums in settings.scales:
        for k, p in enumerate(patch_nums[:-1]):  # the last scale is the image
            side = x.shape[-1] * p // patch_nums[-1]
            place = {"K": len(patch_nums), "k": k + 1}
            for recipe in WITHOUT_RADIUS:
                yield place | {"rho_max": ""} | measure(side, 0.0, recipe)
            for rho_max in settings.rho_max:
                scaled = rho_max * x.shape[-1] / settings.reference_side
                rho = radius_schedule(len(patch_nums), scaled)[k]
                for recipe in settings.kernels:
                    yield place | {"rho_max": rho_max} | measure(side, rho, recipe)


def _residual(name: str, x: Tensor, settings: Settings) -> Iterator[Row]:
    """What A_k holds at every scale that blurs: which share of its energy is alias, and so which is detail."""
    from fvar.focus.aliasing import RECIPES, folded_share, tapered
    from fvar.focus.optics import radius_schedule

    for patch_nums in settings.scales:
        scaled = settings.residual_rho_max * x.shape[-1] / settings.reference_side
        for k, rho in enumerate(radius_schedule(len(patch_nums), scaled)[:-1]):
            side = x.shape[-1] * patch_nums[k] // patch_nums[-1]
            for recipe in settings.kernels:
                share = folded_share(tapered(x), side, rho, RECIPES[recipe]).nanmean().item()
                yield {
                    "images": name,
                    "K": len(patch_nums),
                    "k": k + 1,
                    "view_side": side,
                    "rho": round(rho, 4),
                    "recipe": recipe,
                    "folded": "" if math.isnan(share) else share,  # a radius of half a pixel blurs nothing
                }


def _sweep(name: str, x: Tensor, settings: Settings) -> Iterator[Row]:
    """Blur per decimation, rho / s, on a fine grid; VAR's area filter as the mark to beat, the ideal one beside it."""
    measure = _Measurer(name, x)
    for s in settings.sweep_s:
        for recipe in ("area", "ideal"):
            yield measure(x.shape[-1] // s, 0.0, recipe)
        for ratio in settings.sweep_rho_over_s:
            for recipe in settings.kernels:
                yield measure(x.shape[-1] // s, ratio * s, recipe)


class _Measurer:
    """One image set's view qualities, as rows; the same view is measured once."""

    def __init__(self, name: str, x: Tensor) -> None:
        from fvar.focus.aliasing import tapered

        self.name, self.x = name, tapered(x)
        self.known: dict[tuple[int, float, str], Row] = {}

    def __call__(self, side: int, rho: float, recipe: str) -> Row:
        from fvar.focus.aliasing import RECIPES, view_quality

        key = (side, rho, recipe)
        if key not in self.known:
            s = self.x.shape[-1] / side
            aliasing, kept = view_quality(self.x, side, rho, RECIPES[recipe])
            self.known[key] = {
                "images": self.name,
                "count": len(aliasing),
                "image_side": self.x.shape[-1],
                "view_side": side,
                "s": round(s, 4),
                "recipe": recipe,
                "rho": round(rho, 4),
                "rho_over_s": round(rho / s, 4),
                "aliasing": aliasing.mean().item(),
                "aliasing_sd": aliasing.std().item() if len(aliasing) > 1 else "",
                "kept": kept.mean().item(),
            }
        return self.known[key]


def _otf() -> Iterator[Row]:
    """Transfer functions along one axis for decimation by s, at frequencies f s: the view's Nyquist is 0.5."""
    import torch

    from fvar.focus.lowpass import keys_cubic
    from fvar.focus.optics import disk_otf

    f = torch.linspace(0, 2, 401, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    t = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    keys = keys_cubic(t.abs())
    curves = {
        "area": torch.sinc(f),
        "bicubic": torch.trapezoid(keys * torch.cos(2 * torch.pi * f[:, None] * t), t),
        "ideal": (f < 0.5).double(),
        "disk_pixel, rho = 0.75 s": disk_otf(0.75, f, zero) * torch.sinc(f),
    }
    for ratio in (0.57, 0.75, 1.5):
        curves[f"disk, rho = {ratio} s"] = disk_otf(ratio, f, zero)
        curves[f"gaussian, sigma = {ratio / 2:g} s"] = torch.exp(-2 * (torch.pi * ratio / 2 * f) ** 2)
    for name, values in curves.items():
        for frequency, value in zip(f.tolist(), values.tolist(), strict=True):
            yield {"filter": name, "frequency_times_s": round(frequency, 4), "otf": value}


def _spectra(name: str, x: Tensor, settings: Settings) -> Iterator[Row]:
    """Radial power of the images in each focus state of the paper's pyramid (K = 4, rho_max = 12)."""
    import torch

    from fvar.focus.aliasing import tapered
    from fvar.focus.optics import disk_psf, radius_schedule
    from fvar.focus.spectrum import radial_power, transfer_function

    side = x.shape[-1]
    spectrum = torch.fft.fft2(tapered(x))
    for rho in radius_schedule(4, 12.0 * side / settings.reference_side):
        blurred = torch.fft.ifft2(spectrum * transfer_function(disk_psf(rho), (side, side)).real.float()).real
        rings = radial_power(blurred)
        mean = rings.power.mean(0)
        for frequency, power in zip(rings.frequency.tolist(), mean.tolist(), strict=True):
            if frequency <= 0.5:
                yield {"images": name, "image_side": side, "rho": rho, "frequency": frequency, "power": power}


# ---------------------------------------------------------------------------------------------------------------- files


def _write_views(path: Path, settings: Settings) -> None:
    """Pictures of one flag, one text, one zone plate: the image and its three views at the paper's second scale."""
    import numpy as np
    import torch

    from fvar.config import DataConfig
    from fvar.data import charts, open_dataset, to_float
    from fvar.focus.pyramid import FocusPyramid

    emoji = open_dataset(DataConfig(dataset="emoji", image_size=settings.emoji_side), "all")
    side = settings.chart_side
    pictures = {
        "flag": to_float(emoji.batch([emoji.names.index(FLAG)])),
        "text": charts.rendered_text(side)[None],
        "zone plate": charts.zone_plate(side)[None],
    }
    arrays: dict[str, Any] = {}
    for name, x in pictures.items():
        patch_nums = settings.scales[0]
        rho_max = 12.0 * x.shape[-1] / settings.reference_side
        views = FocusPyramid(patch_nums, x.shape[-1] // patch_nums[-1], rho_max).eval()(x)
        parts = {"image": x} | {part: scales[1] for part, scales in views._asdict().items()}
        arrays |= {f"{name}/{part}": torch.squeeze(value, 0).numpy() for part, value in parts.items()}
    with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def _write(path: Path, rows: Sequence[Row]) -> None:
    with atomic.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
