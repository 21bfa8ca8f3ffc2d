"""Table 2's six variants: what each shares with which, and in what it differs from the whole method."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fvar.config import SamplesConfig, Stage, TokenizerConfig, TokensConfig, TransformerConfig, VarConfig
from fvar.errors import UserError
from studies.engine.driver import Driver
from studies.engine.settings import Settings
from studies.presets import PRESETS, Preset, preset
from studies.study import Context, study
from studies.table1 import depths
from studies.variants import VARIANTS, chain


def part(stage: Stage, *roles: str) -> Stage:
    for role in ("samples", "var", *roles):
        stage = stage.inputs[role]
    return stage


@pytest.fixture(params=PRESETS)
def row(request: pytest.FixtureRequest) -> Preset:
    return PRESETS[request.param]


def cells(name: str, row: Preset, seeds: int = 1) -> dict[str, Stage]:
    return {cell.name: cell.stage for cell in study(name).cells(Context(study(name), row, seeds, dry=True))}


def test_six_variants_need_five_tokenizers_and_six_token_stores(row: Preset) -> None:
    stages = {stage.name for final in cells("ablation_table2", row).values() for stage in final.chain()}
    kinds = [name.partition("-")[0] for name in stages]
    assert (len(VARIANTS), kinds.count("tokenizer"), kinds.count("tokens"), kinds.count("var")) == (6, 5, 6, 6)


def test_without_teacher_is_the_full_student_alone(row: Preset) -> None:
    full, alone = chain(row, "full", 0), chain(row, "no_teacher", 0)
    assert part(alone, "tokens").name == part(full, "tokens").name
    config = part(full).config
    assert isinstance(config, VarConfig)
    assert part(alone).config == replace(config, teacher=None)
    assert "alias" not in part(alone).inputs


def test_without_refocusing_is_the_baselines_tokens_with_the_full_teacher(row: Preset) -> None:
    baseline, full, mixed = (chain(row, name, 0) for name in ("baseline", "full", "no_refocusing"))
    assert part(mixed, "tokens").name == part(baseline, "tokens").name
    assert part(mixed, "alias").name == part(full, "alias").name
    assert part(mixed).config == part(full).config


def test_without_dual_tokenizers_codes_the_residual_by_the_structure_tokenizer(row: Preset) -> None:
    single = part(chain(row, "no_dual", 0), "alias")
    assert isinstance(single.config, TokensConfig)
    assert single.config.signal == "alias"
    assert single.inputs["tokenizer"].name == part(chain(row, "full", 0), "tokens", "tokenizer").name


def test_gaussian_differs_from_full_in_the_kernel_alone(row: Preset) -> None:
    for role in ("tokens", "alias"):
        disk, gaussian = (part(chain(row, name, 0), role, "tokenizer").config for name in ("full", "gaussian"))
        assert isinstance(disk, TokenizerConfig)
        assert gaussian == replace(disk, pyramid=replace(disk.pyramid, kernel="gaussian"))


def test_baseline_tokenizer_sees_sharp_images_without_noise(row: Preset) -> None:
    config = part(chain(row, "baseline", 0), "tokens", "tokenizer").config
    assert isinstance(config, TokenizerConfig)
    assert (config.quantiser.reading, config.pyramid.kernel, config.pyramid.beta) == ("latent_area", "none", (0, 0))


def test_seeds_differ_in_training_and_sampling_and_where_the_preset_says_so_in_tokenizers(row: Preset) -> None:
    first, second = chain(row, "full", 0), chain(row, "full", 1)
    for role in ("tokens", "alias"):
        assert (part(first, role).name == part(second, role).name) is (row.name != "desk")
        coders = [part(stage, role, "tokenizer").config for stage in (first, second)]
        seeds = [config.train.seed for config in coders if isinstance(config, TokenizerConfig)]
        assert seeds == ([0, 1] if row.name == "desk" else [0, 0])
    configs = [part(first).config, part(second).config]
    assert [config.train.seed for config in configs if isinstance(config, VarConfig)] == [0, 1]
    samples = [first.inputs["samples"].config, second.inputs["samples"].config]
    assert [config.seed for config in samples if isinstance(config, SamplesConfig)] == [0, 1]


def test_paper_preset_has_the_papers_settings() -> None:
    full = chain(preset("paper"), "full", 0)
    var, tokenizer = part(full).config, part(full, "tokens", "tokenizer").config
    alias = part(full, "alias", "tokenizer").config
    assert isinstance(var, VarConfig)
    assert isinstance(tokenizer, TokenizerConfig)
    assert isinstance(alias, TokenizerConfig)
    assert (var.transformer.depth, var.transformer.dim, var.train.steps, var.train.batch_size) == (
        16,
        1024,
        400_000,
        256,
    )
    assert (var.distill.lambda_feat, var.distill.lambda_logit, var.train.lr) == (1.0, 0.5, 1e-4)
    assert (tokenizer.train.steps, tokenizer.data.image_size, tokenizer.pyramid.rho_max) == (100_000, 256, 12)
    assert (tokenizer.quantiser.vocab_size, alias.quantiser.vocab_size) == (8192, 512)
    assert len(tokenizer.pyramid.patch_nums) == 4


def test_lambda_sweep_trains_one_pair_of_tokenizers(row: Preset) -> None:
    stages = {stage.name for final in cells("sweep_lambda", row).values() for stage in final.chain()}
    kinds = [name.partition("-")[0] for name in stages]
    assert (kinds.count("tokenizer"), kinds.count("tokens"), kinds.count("var")) == (2, 2, 16)


def test_radius_sweep_passes_through_table_2(row: Preset) -> None:
    assert cells("sweep_psf_radius", row)["rho12/seed0"].name == cells("ablation_table2", row)["full/seed0"].name


def test_table_1_at_paper_size_passes_through_table_2() -> None:
    row = preset("paper")
    table1, table2 = cells("table1", row), cells("ablation_table2", row)
    assert table1["fvar-d16/seed0"].name == table2["full/seed0"].name
    assert table1["var-d16/seed0"].name == table2["baseline/seed0"].name


def test_m_var_in_table_1_differs_from_var_in_its_blocks_alone(row: Preset) -> None:
    made = cells("table1", row)
    for printed in (12, 16, 20, 24):
        for plain, other in ((f"var-d{printed}", f"m-var-d{printed}"), (f"fvar-d{printed}", f"fmvar-d{printed}")):
            var, mvar = part(made[f"{plain}/seed0"]).config, part(made[f"{other}/seed0"]).config
            assert isinstance(var, VarConfig)
            assert mvar == replace(var, transformer=replace(var.transformer, mixer="mvar"))
            assert part(made[f"{plain}/seed0"]).inputs == part(made[f"{other}/seed0"]).inputs


@pytest.mark.parametrize(
    ("only", "variants"),
    [
        ([], {"var-d12", "m-var-d12", "fvar-d12"}),
        (["*-d12"], {"var-d12", "m-var-d12", "fvar-d12"}),
        (["fmvar-*"], {"var-d12", "m-var-d12", "fvar-d12", "fmvar-d12"}),
    ],
)
def test_fvar_on_m_var_is_a_row_only_where_it_is_named(only: list[str], variants: set[str]) -> None:
    driver = Driver(Context(study("table1"), preset("smoke"), dry=True), Settings.parse([]), only)
    assert {cell.variant for cell in driver.cells() if cell.variant.endswith("-d12")} == variants


def test_table_1_at_512_px_has_vars_ten_scales() -> None:
    made = cells("table1_512", preset("paper"))
    for variant in ("var", "m-var", "fvar"):
        config = part(made[f"{variant}-d24/seed0"], "tokens", "tokenizer").config
        assert isinstance(config, TokenizerConfig)
        assert config.data.image_size == 512
        assert config.pyramid.patch_nums == (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)


def test_scaled_down_table_1_says_so() -> None:
    labels = [cell.label for cell in study("table1").cells(Context(study("table1"), preset("smoke")))]
    assert labels[0] == f"VAR-d12 at depth {depths(preset('smoke'))[0]}"
    paper = [cell.label for cell in study("table1").cells(Context(study("table1"), preset("paper")))]
    assert paper[0] == "VAR-d12"


@pytest.mark.parametrize(("depth", "expected"), [(16, (12, 16, 20, 24)), (8, (6, 8, 10, 12)), (12, (9, 12, 15, 18))])
def test_table_1_scales_with_the_depth_of_its_preset(depth: int, expected: tuple[int, ...]) -> None:
    row = replace(preset("paper"), name="another", transformer=TransformerConfig(depth=depth))
    assert depths(row) == expected


def test_another_depth_keeps_the_width_of_a_head(row: Preset) -> None:
    plain, deeper = row.var(None, 0).transformer, row.var(None, 0, depth=7).transformer
    assert deeper.dim / deeper.num_heads == plain.dim / plain.num_heads
    assert (deeper.depth, deeper.num_heads) == (7, 7)


def test_other_images_change_the_images_alone(row: Preset) -> None:
    other = row.on("text")
    curve = other.var(None, 0).curve
    assert other.tokenizer().data == other.tokens().data
    assert replace(other.data, crop="center", crops=1) == other.scores().reference == curve.scores.reference
    assert other.data.dataset == "text"
    assert replace(other, data=row.data) == row
    with pytest.raises(UserError, match="emoji"):
        row.on("emojis")
