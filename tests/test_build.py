"""What a run would refuse is refused before anything is trained, and every preset of every study can be built."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from analysis import plot_aliasing, style
from fvar.build import problems
from fvar.config import Kernel, Stage
from fvar.errors import UserError
from fvar.focus import aliasing
from fvar.focus.kernels import BLURRING, KERNELS, State
from studies import spectral
from studies.engine import preflight
from studies.engine.settings import Settings
from studies.presets import PRESETS
from studies.study import Cell
from studies.variants import VARIANTS, chain


def changed(*settings: str) -> Stage:
    (cell,) = Settings.parse(settings).apply([Cell("full", "FVAR", 0, {}, chain(PRESETS["smoke"], "full", 0))])
    return cell.stage


def test_every_variant_of_every_preset_can_be_built() -> None:
    stages = {s.name: s for preset in PRESETS.values() for name in VARIANTS for s in chain(preset, name, 0).chain()}
    assert problems(stages.values()) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tokenizer.autoencoder.ch=0", "tokenizer-"),
        ("tokenizer.pyramid.beta=[-1, 0]", "beta must be two finite numbers"),
        ("tokenizer.quantiser.reading=latent_area", "cannot read latent_area"),
        ("tokens.data.image_size=32", "data.image_size is 32"),
        ("var.teacher.blocks=9", "teacher.blocks must be at most the depth"),
        ("var.teacher.last_scales=9", "teacher.last_scales"),
        ("var.distill.feature_blocks=7", "distill.feature_blocks is 7"),
        ("var.distill.scale_weights=[1.0]", "distill.scale_weights must hold 4"),
        ("var.teacher.learns=frozen", "needs an input 'teacher'"),
        ("scores.extractor=foo", "unknown extractor 'foo'"),
    ],
)
def test_a_setting_that_a_stage_would_refuse_is_named(setting: str, said: str) -> None:
    found = problems(changed(setting).chain())
    assert found
    assert said in found[0]
    assert "\n" not in found[0]


def test_the_preflight_says_the_first_in_one_line(tmp_path: Path) -> None:
    preflight.require_buildable([changed("var.train.steps=5")])
    with pytest.raises(UserError, match="unknown extractor 'foo'"):
        preflight.require_buildable([changed("scores.extractor=foo")])


def test_kernels_are_the_same_everywhere() -> None:
    assert set(KERNELS) == set(get_args(Kernel))
    assert set(BLURRING) < aliasing.RECIPES.keys() == plot_aliasing.LABELS.keys() == plot_aliasing.COLOURS.keys()
    assert aliasing.RECIPES.keys() == {*KERNELS, "decimate"} - {"none"}
    assert {*spectral.WITHOUT_RADIUS, *spectral.Settings().kernels} == aliasing.RECIPES.keys()


def test_a_kernel_that_one_list_lacks_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KERNELS, "gaussian")
    stage = chain(PRESETS["smoke"], "gaussian", 0)
    found = problems(part for part in stage.chain() if part.kind == "tokenizer")
    assert found
    assert "kernel must be 'disk', 'area', 'bicubic', 'ideal', 'disk_pixel' or 'none', got 'gaussian'" in found[0]


def test_a_kernel_with_a_radius_grows_with_it_and_one_of_the_view_with_that() -> None:
    for name, kernel in KERNELS.items():
        sizes = {at: kernel.psf(State(*at, 32)).shape[0] for at in ((0.0, 1.0), (3.3, 1.0), (0.0, 4.0))}
        assert sizes[0.0, 1.0] == 1, name
        assert (sizes[3.3, 1.0] > 1) == kernel.radius, name
        assert (sizes[0.0, 4.0] > 1) == kernel.view, name


def test_colours_of_recipes_stay_apart() -> None:
    assert len({*style.recipe_colours(9)}) == 9
