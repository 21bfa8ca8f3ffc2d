"""The gate beside the Wiener gain: what has a frequency is measured there, and a gate that filters is told as one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis import plot_gate
from analysis.style import NothingToDraw
from fvar.config import TeacherConfig, VarConfig
from fvar.errors import UserError
from fvar.run import execute
from fvar.rundir import RunDir
from studies import wiener
from tests import fakes
from tests.canary.stages import canaries, prepared


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A teacher of a few steps."""
    run = prepared(tmp_path_factory.mktemp("results"), next(c for c in canaries() if c.name == "var"))
    execute(run.path)
    return run


@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_grating_has_its_power_in_the_ring_of_its_frequency(period: int) -> None:
    side, cells = 32, 4
    x = torch.cos(2 * math.pi * torch.arange(side) / period + 0.3).expand(1, 1, side, side)
    rings = wiener._by_ring(x, cells)[0].mean(0)
    assert rings.shape == (8,)
    window = 2 * side // cells
    assert int(rings.argmax()) + 1 == window // period


def test_power_stays_with_the_token_in_whose_cell_it_lies() -> None:
    x = torch.zeros(1, 1, 32, 32)
    x[..., 16:24, 16:24] = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    by_token = wiener._by_ring(x, 4)[0].sum(-1)
    assert int(by_token.argmax()) == 2 * 4 + 2


def test_a_trained_teacher_is_measured_at_every_scale_that_blurs(trained: RunDir) -> None:
    rows = wiener.measure(trained, images=8)
    assert sorted({row["scale"] for row in rows}) == [1, 2]  # of three: nothing is blurred at the last
    assert [row["frequency"] for row in rows if row["scale"] == 1] == [(ring + 1) / 16 for ring in range(8)]
    assert all(0 < row["gate"] < 1 and 0 <= row["wiener"] <= 1 for row in rows)
    assert -1 <= plot_gate.agreement(rows) <= 1


@pytest.mark.parametrize(("filters", "sign"), [(lambda share: share, 1), (lambda share: 1 - share, -1)])
def test_a_gate_that_opens_for_detail_agrees_and_one_that_opens_for_alias_disagrees(
    trained: RunDir, monkeypatch: pytest.MonkeyPatch, filters: Callable[[Tensor], Tensor], sign: int
) -> None:
    """The gate is replaced by each token's own share of detail, or of alias, in what the measurement itself sees."""
    seen: list[Tensor] = []
    by_ring = wiener._by_ring

    def watched(residual: Tensor, cells: int) -> Tensor:
        seen.append(by_ring(residual, cells))
        return seen[-1]

    class Gates(list[Any]):
        def __getitem__(self, k: Any) -> Any:
            detail, alias = (power.sum(-1) for power in seen[-3:-1])
            return filters(detail / (detail + alias + 1e-12))

    monkeypatch.setattr(wiener, "_by_ring", watched)
    monkeypatch.setattr(wiener._Openings, "by_scale", lambda *_: Gates())
    rows = wiener.measure(trained, images=64)
    assert sign * plot_gate.agreement(rows) > 0.3


def test_a_gate_that_never_moves_follows_nothing() -> None:
    rows = [{"scale": 1, "gate": 0.02, "wiener": gain} for gain in (0.1, 0.5, 0.9)]
    assert plot_gate.agreement(rows) == 0.0
    rows = [{"scale": 1, "gate": 0.02 + gain / 100, "wiener": gain} for gain in (0.1, 0.5, 0.9)]
    assert plot_gate.agreement(rows) == pytest.approx(1.0)


def test_without_a_gate_there_is_nothing_to_measure(trained: RunDir) -> None:
    config = trained.config_as(VarConfig)
    for teacher in (None, TeacherConfig(gate="none")):
        run = RunDir(trained.path, replace(config, teacher=teacher), trained.input_names, trained.runtime)
        with pytest.raises(UserError, match=r"^[^\n]*no teacher with a gate[^\n]*$"):
            wiener.measure(run)


def test_table_and_figure_say_what_was_measured_and_measure_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = []
    for seed in range(3):
        stage = fakes.chain("full", seed).inputs["samples"].inputs["var"]
        fakes.finish(tmp_path, stage, 0.5, seed)
        cells.append(fakes.cell("full", seed, stage))
    results = fakes.write_cells(tmp_path, "wiener", cells, title="Gate")
    with pytest.raises(NothingToDraw, match="no gate was measured yet"):
        plot_gate.draw(results)
    calls: list[str] = []

    def measured(run: RunDir) -> list[dict[str, Any]]:
        calls.append(run.name)
        return [{"scale": 1, "frequency": f, "gate": f + 0.1 * len(calls), "wiener": 0.5 - f} for f in (0.1, 0.3, 0.5)]

    monkeypatch.setattr(wiener, "measure", measured)
    for _ in range(2):
        drawings = wiener.report(results)
        table, _ = drawings["table.md"]()  # type: ignore[misc]
    assert len(calls) == 3
    assert "seed 0: -1.00, seed 1: -1.00, seed 2: -1.00" in table.read_text()
    assert "Over seeds -1.00 [-1.00, -1.00]" in table.read_text()
    assert plot_gate.draw(results)[0].stat().st_size > 10_000
