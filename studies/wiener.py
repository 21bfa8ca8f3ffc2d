"""Does the teacher's gate act as a Wiener filter? Its opening by frequency, beside S_xx / (S_xx + S_nn) of Eq. 12.

    python -m studies.run wiener --preset smoke --seeds 3        # the teachers of Table 2's full method
    python analysis/plot_gate.py                                 # draws the figure again

The gate alpha (Eq. 11) is a number per token and channel, not a filter, so both sides have to be given a frequency.

S_xx, S_nn   A_k = x + n, exactly: x is what the blur takes from below the view's Nyquist frequency, detail that a
             network can use; n is what folds in from beyond it. Their power is taken in a window around each token's
             cell (twice its side, Hann taper), in rings of frequency, and summed over tokens and held-out images.
gate         the opening of the gate, a mean over channels and blocks, averaged over tokens with each token's power of
             A_k in the ring as its weight: how far the gate stands open, on average, for energy of this frequency.

A gate that opens where the residual around a token is mostly detail, and closes where it is mostly alias, gives two
curves of one shape. Their scale means nothing (the cross-attention scales its values itself), so shapes are compared:
the correlation over rings and scales, each scale's mean taken off. One number per trained teacher.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvar.errors import UserError
from fvar.machine import atomic
from studies.study import Cell, Context, Study
from studies.variants import VARIANTS, chain

if TYPE_CHECKING:
    from torch import Tensor

    from analysis.results import StudyResults
    from analysis.style import Drawings
    from fvar.rundir import RunDir

IMAGES = 256  # held-out images that are looked at, at most; ours
BATCH = 16
COLUMNS = ("run", "seed", "scale", "frequency", "gate", "wiener")
Row = dict[str, Any]


def cells(ctx: Context) -> Iterator[Cell]:
    """The trained teacher of the full method, one per seed: Table 2's own stage."""
    for seed in range(ctx.seeds):
        trained = chain(ctx.preset, "full", seed).inputs["samples"].inputs["var"]
        yield Cell("full", VARIANTS["full"].label, seed, {}, trained)


def report(results: StudyResults) -> Drawings:
    """The table and the figure, of teachers that are measured where they were not."""
    from analysis import plot_gate

    return {"table.md": partial(_measured, results), "gate.png": partial(plot_gate.draw, results)}


STUDY = Study("wiener", "The gate beside the Wiener filter", cells, report, measured=("gate.csv",))


def _measured(results: StudyResults) -> list[Path]:
    """Measure the teachers that gate.csv does not have yet, and write it and the table."""
    from analysis import plot_gate

    path, done = results.folder / plot_gate.FILE, {cell.seed: cell for cell in results.cells if cell.state[0] == "done"}
    kept = [row for row in plot_gate.read(path) if row["run"] in {cell.chain["var"].name for cell in done.values()}]
    known = {row["run"] for row in kept}
    for seed, cell in done.items():
        if (run := cell.chain["var"]).name not in known:
            kept += [{"run": run.name, "seed": seed} | row for row in measure(run)]
    with atomic.replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    return [plot_gate.write(results), path]


# --------------------------------------------------------------------------------------------------------- measurement


def measure(run: RunDir, images: int = IMAGES) -> list[Row]:
    """Opening of the gate and Wiener gain by scale and frequency (cycles per px of the view) of a trained teacher.

    Raises `UserError` for a run without a teacher, or whose teacher has no gate.
    """
    import torch

    from fvar.config import TokenizerConfig, TokensConfig, VarConfig
    from fvar.data import open_dataset, to_float
    from fvar.focus import pyramid, spectrum

    config = run.config_as(VarConfig)
    if config.teacher is None or config.teacher.gate != "sigmoid":
        raise UserError(f"{run.name} has no teacher with a gate (teacher.gate sigmoid), so there is nothing to compare")
    task, opened = _trained(run), _Openings()
    cfg = run.input("alias").input("tokenizer").config_as(TokenizerConfig).pyramid
    views, tokens = pyramid.from_config(cfg).eval(), run.input("alias").config_as(TokensConfig)
    heldout = open_dataset(tokens.data, "heldout")
    scales = [k for k, rho in enumerate(views.radii) if rho > 0]
    totals = [torch.zeros(4, cfg.downsample_factor) for _ in scales]  # x, n, A, and A weighted by the gate; by ring
    chosen = torch.arange(min(images, len(heldout))) * len(heldout) // min(images, len(heldout))
    with torch.no_grad(), opened.of(task.teacher):
        for rows in torch.split(chosen, BATCH):
            gates = opened.by_scale(task, rows)
            x = to_float(heldout.batch(rows))
            for total, k in zip(totals, scales, strict=True):
                parts = spectrum.split_band(x, views.sides[-1] / views.sides[k])
                detail, alias = (SCALE * views(part / SCALE).residual[k] for part in parts)
                power = torch.stack(
                    [_by_ring(part, cfg.patch_nums[k]) for part in (detail, alias, detail + alias)]
                )  # (3, B, p_k^2, rings)
                total[:3] += power.sum((1, 2))
                total[3] += (power[2] * gates[k][..., None]).sum((0, 1))
    made = []
    for (detail, alias, whole, weighted), k in zip(totals, scales, strict=True):
        wiener = spectrum.wiener_gain(detail, alias)
        for ring in range(cfg.downsample_factor):
            frequency = (ring + 1) / (2 * cfg.downsample_factor)
            gate = (weighted[ring] / whole[ring]).item()
            made.append({"scale": k + 1, "frequency": frequency, "gate": gate, "wiener": wiener[ring].item()})
    return made


SCALE = 4.0  # both parts of an image in [-1, 1] stay within [-4, 4]: the pyramid takes [-1, 1], and is linear


def _trained(run: RunDir) -> Any:
    """The task of a finished run with its trained networks, in eval mode."""
    from safetensors.torch import load_file

    from fvar.machine.weights import load_strictly
    from fvar.models.loading import MODEL_FILE
    from fvar.stages.var import TEACHER_FILE, build_task

    task = build_task(run)
    for network, file in ((task.student, MODEL_FILE), (task.teacher, TEACHER_FILE)):
        if network is not None and (run.path / file).exists():  # a frozen teacher was loaded with the task
            load_strictly(network, load_file(run.path / file), str(run.path / file))
            network.eval()
    return task


class _Openings:
    """Listens to the gates of a teacher: their opening per token, a mean over channels and blocks."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []
        self.begin = 0

    def of(self, teacher: Any) -> Any:
        """While this context is entered, what every gate says is kept."""
        import contextlib

        self.begin = teacher.cross[0].spans[0][0]  # tokens before these get nothing
        stack = contextlib.ExitStack()
        for cross in teacher.cross:
            handle = cross.gate.register_forward_hook(lambda _, __, out: self.heard.append(out.sigmoid().mean(-1)))
            stack.callback(handle.remove)
        return stack

    def by_scale(self, task: Any, rows: Tensor) -> list[Tensor]:
        """(B, p_k^2) per scale, for held-out images; 0 at scales that have no cross-attention."""
        import torch

        self.heard.clear()
        batch = task.heldout.take(rows, rows).to(task.device)
        var_input = task.inputs.var_input(batch.structure)
        student = task.student(batch.labels, var_input, trunk_before=task.teacher.trunk_before)
        task.teacher(batch.labels, var_input, batch.alias, trunk=student.trunk)
        opening = torch.stack(self.heard).mean(0).float().cpu()
        opening = torch.nn.functional.pad(opening, (self.begin, 0))
        return list(torch.split(opening, [tokens.shape[1] for tokens in batch.structure], dim=1))


def _by_ring(residual: Tensor, cells: int) -> Tensor:
    """Power of a residual (B, C, S, S) around each of cells x cells tokens, by ring: (B, cells^2, S / cells).

    Ring r = 1, 2, ... holds the frequencies around r periods per window; the mean of a window is left out.
    """
    import torch
    from torch.nn import functional as F

    from fvar.focus.spectrum import hann

    pitch = residual.shape[-1] // cells
    window = 2 * pitch
    padded = F.pad(residual, [pitch // 2, pitch - pitch // 2] * 2, mode="reflect" if cells > 1 else "replicate")
    cut = padded.unfold(2, window, pitch).unfold(3, window, pitch)  # (B, C, cells, cells, window, window)
    cut = (cut - cut.mean((-2, -1), keepdim=True)) * hann(window, window)
    power = torch.fft.fft2(cut).abs().square().mean(1).flatten(1, 2).flatten(2)  # (B, cells^2, window^2)
    frequency = torch.fft.fftfreq(window) * window
    ring = torch.hypot(frequency[:, None], frequency[None, :]).round().long().flatten()
    inside = (ring >= 1) & (ring <= pitch)
    rings = power.new_zeros(*power.shape[:2], pitch)
    summed: Tensor = rings.index_add(2, ring[inside] - 1, power[..., inside])
    return summed
