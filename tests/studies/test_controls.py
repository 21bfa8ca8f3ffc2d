"""What each control of `ablation_controls` changes, and what it leaves as it was."""

from __future__ import annotations

import pytest

from fvar.config import Stage, TeacherConfig, VarConfig
from fvar.errors import UserError
from fvar.estimate import estimate
from fvar.plain import differences, to_dict
from studies.ablation_controls import AGAIN, LOW_PASSES, equal_cost_steps, training_flops
from studies.presets import PRESETS, Preset
from studies.study import Cell, Context, study


@pytest.fixture(params=PRESETS)
def row(request: pytest.FixtureRequest) -> Preset:
    return PRESETS[request.param]


def cells(row: Preset, seeds: int = 1, name: str = "ablation_controls") -> dict[str, Cell]:
    return {cell.name: cell for cell in study(name).cells(Context(study(name), row, seeds, dry=True))}


def var(cell: Cell) -> Stage:
    return cell.stage.inputs["samples"].inputs["var"]


def config(cell: Cell) -> VarConfig:
    found = var(cell).config
    assert isinstance(found, VarConfig)
    return found


def teacher(cell: Cell) -> TeacherConfig:
    found = config(cell).teacher
    assert found is not None
    return found


def test_the_two_references_are_those_of_table_2(row: Preset) -> None:
    made, table2 = cells(row), cells(row, name="ablation_table2")
    for variant in study("ablation_controls").references:
        assert made[f"{variant}/seed0"].stage.name == table2[f"{variant}/seed0"].stage.name


def test_the_placebo_has_the_full_methods_tokens_and_parameters(row: Preset) -> None:
    full, placebo = (cells(row)[f"{name}/seed0"] for name in ("full", "placebo"))
    assert var(full).inputs == var(placebo).inputs
    assert estimate(var(full)).parameters == estimate(var(placebo)).parameters
    assert estimate(var(full)).flops == estimate(var(placebo)).flops
    assert differences(to_dict(config(full)), to_dict(config(placebo))) == ['teacher.alias: "own" -> "other"']


def test_self_distillation_needs_no_alias_tokens_and_has_a_second_network_of_the_students_size(row: Preset) -> None:
    alone, full = (cells(row)[f"{name}/seed0"] for name in ("self_distillation", "full"))
    assert not teacher(alone).reads_alias
    assert var(alone).inputs.keys() == {"tokens"}
    assert var(alone).inputs["tokens"].name == var(full).inputs["tokens"].name
    parts = {part.name: part for part in estimate(var(alone)).parts}
    assert "AG-XAttn" not in parts
    assert parts["teacher"].parameters == parts["student"].parameters


def test_the_hidden_own_scale_is_that_of_sweep_aligate(row: Preset) -> None:
    assert teacher(cells(row)["own_scale_hidden/seed0"]).visibility == "before"
    sweep = cells(row, name="sweep_aligate")["before/seed0"]
    assert sweep.stage.name == cells(row)["own_scale_hidden/seed0"].stage.name


def test_other_low_passes_are_the_full_method_of_the_study_kernel(row: Preset) -> None:
    kernels = cells(row, name="kernel")
    for kernel in LOW_PASSES:
        assert cells(row)[f"{kernel}/seed0"].stage.name == kernels[f"{kernel}/seed0"].stage.name


def test_equal_cost_is_equal_to_half_a_step(row: Preset) -> None:
    full, longer = (cells(row)[f"{name}/seed0"] for name in ("full", "equal_cost"))
    assert config(longer).train.steps == equal_cost_steps(row) > config(full).train.steps
    off = training_flops(longer.stage) - training_flops(full.stage)
    assert abs(off) <= estimate(var(longer)).flops_per_step / 2
    assert config(longer).teacher is None


def test_the_baseline_again_shares_no_seed_with_itself_and_is_paired_by_its_number(row: Preset) -> None:
    made = cells(row, seeds=3)
    first, again = ([made[f"{name}/seed{seed}"] for seed in range(3)] for name in ("baseline", "again"))
    seeds = [{config(cell).train.seed for cell in side} for side in (first, again)]
    assert seeds == [{0, 1, 2}, {AGAIN, AGAIN + 1, AGAIN + 2}]
    assert [cell.seed for cell in again] == [0, 1, 2]
    assert not {cell.stage.name for cell in first} & {cell.stage.name for cell in again}


def test_more_seeds_than_leave_the_two_halves_apart_are_refused(row: Preset) -> None:
    with pytest.raises(UserError, match="at most 1000 seeds"):
        cells(row, seeds=AGAIN + 1)
