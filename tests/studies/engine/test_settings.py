"""`--set` and SLURM profiles: what they change, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fvar.config import PublishedConfig, ScoresConfig, Stage
from fvar.errors import UserError
from studies.engine.profile import FOLDER, Profile
from studies.engine.settings import Settings
from studies.presets import preset
from studies.study import Cell
from studies.variants import VARIANTS, chain


def cells() -> list[Cell]:
    return [Cell(name, name, 0, {}, chain(preset("smoke"), name, 0)) for name in VARIANTS]


def configs(cells: list[Cell], kind: str) -> list[Any]:
    found: dict[str, Stage] = {stage.name: stage for cell in cells for stage in cell.stage.chain()}
    return [stage.config for stage in found.values() if stage.kind == kind]


def test_setting_of_one_kind_changes_it_everywhere_and_nothing_else() -> None:
    changed = Settings.parse(["var.train.steps=7"]).apply(cells())
    assert {config.train.steps for config in configs(changed, "var")} == {7}
    assert configs(changed, "tokenizer") == configs(cells(), "tokenizer")


def test_changed_stages_are_still_shared() -> None:
    changed = Settings.parse(["tokenizer.train.steps=7"]).apply(cells())
    assert len(configs(changed, "tokenizer")) == 5
    assert len(configs(changed, "tokens")) == len(configs(cells(), "tokens"))
    names = {stage.name for cell in changed for stage in cell.stage.chain()}
    assert not names & {stage.name for cell in cells() for stage in cell.stage.chain()}


def test_shorthands_reach_both_networks_and_all_readers_of_images() -> None:
    changed = Settings.parse(["train.steps=7", "data.holdout=0.2"]).apply(cells())
    assert {config.train.steps for kind in ("tokenizer", "var") for config in configs(changed, kind)} == {7}
    assert {config.data.holdout for kind in ("tokenizer", "tokens") for config in configs(changed, kind)} == {0.2}
    assert {config.reference.holdout for config in configs(changed, "scores")} == {0.2}


def test_settings_that_are_only_valid_together_may_come_in_any_order() -> None:
    texts = ["data.image_size=32", "tokenizer.pyramid.patch_nums=[1,2,4]"]
    for order in (texts, texts[::-1]):
        changed = configs(Settings.parse(order).apply(cells()), "tokenizer")
        assert {config.pyramid.image_size for config in changed} == {32}


def test_teacher_settings_skip_variants_without_teacher() -> None:
    changed = configs(Settings.parse(["var.teacher.blocks=1"]).apply(cells()), "var")
    assert sorted(str(config.teacher and config.teacher.blocks) for config in changed) == ["1"] * 4 + ["None"] * 2


def test_setting_that_no_stage_has_is_refused() -> None:
    alone = [cell for cell in cells() if cell.name.startswith("baseline")]
    with pytest.raises(UserError, match="no stage of this study has this setting"):
        Settings.parse(["var.teacher.blocks=1"]).apply(alone)


@pytest.mark.parametrize("text", ["steps=3", "var.train.steps", "var.=3", "=", "var.train.steps=many"])
def test_malformed_settings_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        Settings.parse([text]).apply(cells())


def test_cluster_and_runtime_settings_leave_the_results_folder_alone() -> None:
    settings = Settings.parse(["slurm.time=1:00:00", "runtime.compile=true"])
    assert settings.label("smoke") == "smoke"
    assert settings.runtime().compile
    assert settings.slurm() == [("time", "1:00:00")]


@given(st.lists(st.sampled_from(["var.train.steps=7", "var.train.lr=1", "train.seed=2"]), unique=True))
def test_folder_depends_on_what_is_set_not_on_its_order(texts: list[str]) -> None:
    assert Settings.parse(texts).label("smoke") == Settings.parse(texts[::-1]).label("smoke")


def test_setting_to_the_value_it_has_leaves_the_stage_what_it_is() -> None:
    unchanged = Settings.parse([f"var.train.steps={preset('smoke').var_train.steps}"]).apply(cells())
    assert [cell.stage.name for cell in unchanged] == [cell.stage.name for cell in cells()]


# ------------------------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_profiles_that_ship_are_valid(path: Path) -> None:
    profile = Profile.read(path)
    assert profile.of("scores").minutes >= 15
    assert profile.common.poll > 0


def test_stage_kind_replaces_what_it_names_only(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('partition = "gpu"\ngres = "gpu:8"\n[scores]\ngres = "gpu:1"\n')
    profile = Profile.read(path, [("time", "2-12:00:00"), ("samples.gres", "gpu:2")])
    assert (profile.of("var").gres, profile.of("scores").gres, profile.of("samples").gres) == (
        "gpu:8",
        "gpu:1",
        "gpu:2",
    )
    assert profile.of("scores").partition == "gpu"
    assert profile.of("scores").minutes == 3600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin = 'gpu'", r"did you mean 'partition'"),
        ("[score]\ngres = 'gpu:1'", r"did you mean"),
        ("[scores]\ngrse = 'gpu:1'", r"did you mean 'gres'"),
        ("nodes = 'two'", r"must be int"),
        ("nodes = 0", r"at least 1"),
        ("time = '00:02:00'", r"must stop 90 s before it \(slurm.warning\)"),
        ("time = 'soon'", r"is not a time"),
        ("partition = ", r"not valid TOML"),
    ],
)
def test_wrong_profile_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        Profile.read(tmp_path / "wrong.toml")


@pytest.mark.parametrize(
    ("text", "minutes"), [("1-00:00:00", 1440), ("24:00:00", 1440), ("00:20:30", 21), ("90", 90), ("30:00", 30)]
)
def test_slurms_ways_to_write_a_time(text: str, minutes: int, tmp_path: Path) -> None:
    (tmp_path / "time.toml").write_text(f'time = "{text}"')
    assert Profile.read(tmp_path / "time.toml").common.minutes == minutes


def test_published_statistics_take_the_place_of_the_reference(tmp_path: Path) -> None:
    (tmp_path / "imagenet.npz").write_bytes(b"statistics")
    (cell,) = Settings.parse([f"scores.reference=adm:{tmp_path}/imagenet.npz"]).apply(cells()[:1])
    assert isinstance(cell.stage.config, ScoresConfig)
    assert cell.stage.config.published == PublishedConfig.of(str(tmp_path / "imagenet.npz"))
    with pytest.raises(UserError, match=r"nowhere\.npz cannot be read"):
        Settings.parse(["scores.reference=adm:/nowhere.npz"]).apply(cells()[:1])
    with pytest.raises(UserError, match=r"write scores\.reference=adm:/path\.npz"):
        Settings.parse(["scores.reference=emoji"]).apply(cells()[:1])
