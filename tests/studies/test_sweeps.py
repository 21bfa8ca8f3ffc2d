"""The one-file studies: what each varies, what its cells share, and where it passes through Table 2."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fvar.build import problems
from fvar.config import Stage, VarConfig
from fvar.plain import differences, to_dict
from studies.presets import PRESETS, Preset
from studies.study import STUDIES, Cell, Context, study
from studies.sweep_focus_states import STATES, TEN_SCALES, sides

# Study -> a cell of it that is a cell of Table 2, and which one.
CROSSINGS = {
    "sweep_focus_states": ("K4", "full"),
    "sweep_schedule": ("cosine", "full"),
    "sweep_aligate": ("paper", "full"),
    "sweep_noise": ("noise1", "full"),
    "sweep_alias_codebook": ("codes0", "no_teacher"),
    "quantiser_reading": ("latent_area", "baseline"),
    "trunk": ("separate", "full"),
    "kernel": ("disk", "full"),
}


@pytest.fixture(params=PRESETS)
def row(request: pytest.FixtureRequest) -> Preset:
    return PRESETS[request.param]


def cells(name: str, row: Preset) -> dict[str, Cell]:
    found = {cell.variant: cell for cell in study(name).cells(Context(study(name), row, dry=True))}
    assert found
    return found


def settings(stage: Stage) -> dict[str, Any]:
    """Every stage of a chain by its place in it."""
    own = {stage.kind: to_dict(stage.config)}
    for role, upstream in stage.inputs.items():
        own |= {f"{role}.{key}": value for key, value in settings(upstream).items()}
    return own


@pytest.mark.parametrize(("name", "here", "there"), [(name, *pair) for name, pair in CROSSINGS.items()])
def test_a_sweep_passes_through_table_2(row: Preset, name: str, here: str, there: str) -> None:
    assert cells(name, row)[here].stage.name == cells("ablation_table2", row)[there].stage.name


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("sweep_focus_states", "pyramid.patch_nums"),
        ("sweep_schedule", "pyramid.schedule"),
        ("sweep_noise", "pyramid.beta"),
        ("trunk", "teacher"),
        ("sweep_aligate", "teacher"),
        ("kernel", "pyramid.kernel"),
    ],
)
def test_a_sweep_changes_one_thing(row: Preset, name: str, allowed: str) -> None:
    found = list(cells(name, row).values())
    with_teacher = [cell for cell in found if "alias" in cell.stage.inputs["samples"].inputs["var"].inputs]
    for cell in with_teacher[1:]:
        changed = differences(settings(with_teacher[0].stage), settings(cell.stage))
        assert changed
        assert all(any(part in line for part in allowed.split("|")) for line in changed), changed


@pytest.mark.parametrize("last", [8, 16, 32])
def test_focus_states_rise_to_the_same_sharpest_view(last: int) -> None:
    for count in STATES:
        found = sides(count, (2, 4, 8, last) if last > 8 else (1, 2, 4, 8))
        if found is None:
            assert count > last
            continue
        assert len(found) == count
        assert found[-1] == last
        assert list(found) == sorted(set(found))
        assert found[0] >= 1


def test_ten_states_at_256_px_are_vars_own_scales() -> None:
    assert sides(10, (2, 4, 8, 16)) == TEN_SCALES


def test_alias_codebooks_share_the_structure_tokenizer(row: Preset) -> None:
    tokens = {
        c.stage.inputs["samples"].inputs["var"].inputs["tokens"].name
        for c in cells("sweep_alias_codebook", row).values()
    }
    assert len(tokens) == 1


def test_a_frozen_teacher_is_the_one_that_the_first_row_trained(row: Preset) -> None:
    found = cells("trunk", row)
    frozen, online = (found[name].stage.inputs["samples"].inputs["var"] for name in ("frozen", "separate"))
    assert frozen.inputs["teacher"].name == online.name
    assert {role: frozen.inputs[role].name for role in ("tokens", "alias")} == {
        role: stage.name for role, stage in online.inputs.items()
    }
    assert isinstance(frozen.config, VarConfig)
    assert frozen.config.teacher is not None
    assert frozen.config.teacher.learns == "frozen"
    assert problems(frozen.chain()) == []


def test_resolutions_keep_pixels_per_token(row: Preset) -> None:
    for cell in cells("resolution", row).values():
        tokenizer = cell.stage.inputs["samples"].inputs["var"].inputs["tokens"].inputs["tokenizer"].config
        assert tokenizer.data.image_size == cell.params["pixels"]  # type: ignore[attr-defined]
        assert tokenizer.pyramid.downsample_factor == row.pyramid.downsample_factor  # type: ignore[attr-defined]


def test_every_cell_of_every_study_fits_its_network(row: Preset) -> None:
    """What `_require_fit` would refuse after the tokenizers were trained is not proposed in the first place."""
    for name in STUDIES:
        if study(name).adaptive or study(name).outputs or name == "grid":  # whose cells the command line names
            continue
        for cell in cells(name, row).values():
            for stage in cell.stage.chain():
                if isinstance(stage.config, VarConfig) and stage.config.teacher:
                    config, teacher = stage.config, stage.config.teacher
                    own = teacher.blocks if teacher.trunk == "shared" else config.transformer.depth
                    assert teacher.blocks <= config.transformer.depth
                    assert config.distill.feature_blocks <= own or not config.distill.lambda_feat
                    assert dataclasses.is_dataclass(stage.config)


@pytest.mark.parametrize("name", CROSSINGS)
def test_a_sweep_names_what_its_cells_are_compared_with(row: Preset, name: str) -> None:
    (reference,) = study(name).references
    assert reference in cells(name, row)
