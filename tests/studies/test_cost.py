"""The cost claim of the paper, counted: which readings of it can be true."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from studies import cost
from studies.run import main


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, int], cost.Row]:
    return {(row.reading, row.depth): row for row in cost.rows()}


@pytest.mark.parametrize(("depth", "flops"), [(12, 0.206), (16, 0.1496), (20, 0.1167), (24, 0.0954)])
def test_a_shared_trunk_adds_a_share_that_falls_with_the_depth(
    rows: dict[tuple[str, int], cost.Row], depth: int, flops: float
) -> None:
    assert rows["shared trunk, last 2 blocks", depth].flops == pytest.approx(flops, abs=5e-4)


def test_a_trunk_of_its_own_doubles_the_training_whatever_the_depth(rows: dict[tuple[str, int], cost.Row]) -> None:
    own = [row for (reading, _), row in rows.items() if reading.startswith("separate")]
    assert all(1.0 < row.flops < 1.01 and 1.0 < row.trained < 1.01 for row in own)
    assert not any(row.flops_as_claimed or row.parameters_as_claimed for row in own)


def test_only_the_added_attention_is_under_three_per_cent(rows: dict[tuple[str, int], cost.Row]) -> None:
    assert all(row.cross_attention < cost.CLAIMED_PARAMETERS for row in rows.values())
    assert not any(row.parameters_as_claimed for row in rows.values())


def test_fewer_scales_with_alias_tokens_save_next_to_nothing(rows: dict[tuple[str, int], cost.Row]) -> None:
    """The teacher's own blocks are the cost, not the cross-attention in them."""
    for depth in cost.DEPTHS:
        whole, last = (rows[f"shared trunk, last 2 blocks{tail}", depth].flops for tail in ("", ", last scale"))
        assert 0 < whole - last < 0.01


def test_the_command_writes_and_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| shared trunk, last 2 blocks | +20.6%, +16.2% | **+15.0%**, +12.3% |" in printed
    with open(tmp_path / "cost" / "table.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(cost.READINGS) * len(cost.DEPTHS)
