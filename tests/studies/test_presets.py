"""Presets keep their word: what they cost, what they learn from, and what they are scored against."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fvar.config import DataConfig, TokenizerConfig, VarConfig
from fvar.data import open_dataset
from fvar.estimate import estimate
from studies.presets import PRESETS, Preset, preset
from studies.variants import VARIANTS, chain


@pytest.fixture(params=PRESETS)
def row(request: pytest.FixtureRequest) -> Preset:
    return PRESETS[request.param]


def flops_of_table_2(row: Preset) -> float:
    stages = {stage.name: stage for variant in VARIANTS for stage in chain(row, variant, 0).chain()}
    return sum(estimate(s).flops for s in stages.values() if isinstance(s.config, TokenizerConfig | VarConfig))


def test_table_2_trains_in_the_time_that_its_preset_states(row: Preset) -> None:
    assert 0.5 * row.hours < row.machine.hours(flops_of_table_2(row)) < row.hours


def test_the_demo_and_an_evening_leave_time_to_score() -> None:
    assert [PRESETS[name].hours * 60 for name in ("smoke", "desk")] <= [10, 30]


def test_a_preset_may_code_the_residual_otherwise_than_the_structure() -> None:
    plain = preset("smoke")
    squares = replace(plain.autoencoder, ch=64, ch_mult=(1,), patch=8)
    row = replace(plain, alias_autoencoder=squares, alias_loss=replace(plain.loss, l1=0.0), tokenizers_by_seed=True)
    row = replace(row, alias_train=replace(plain.tokenizer_train, batch_size=32))
    alias = row.tokenizer("alias", seed=2)
    assert (alias.autoencoder, alias.loss.l1, alias.train.batch_size, alias.train.seed) == (squares, 0.0, 32, 2)
    assert row.tokenizer() == plain.tokenizer()
    assert plain.tokenizer("alias").autoencoder == plain.autoencoder
    assert plain.tokenizer("alias").train == plain.tokenizer().train


def test_small_fits_two_hours_of_one_a100_with_as_much_again_for_all_else() -> None:
    row = preset("small")
    assert row.machine.name == "one A100"
    assert row.hours <= 1


@pytest.mark.parametrize("name", [name for name, row in PRESETS.items() if row.data.dataset == "emoji"])
def test_there_are_more_images_than_a_batch_and_every_class_is_sampled(name: str) -> None:
    row = PRESETS[name]
    images = open_dataset(row.data, "train", 1)
    tokenizers = (row.tokenizer(), row.tokenizer("alias"))
    assert len(images) > max(config.train.batch_size for config in (*tokenizers, row.var(None, 0)))
    assert row.sampling.count % len(images.class_names) in range(len(images.class_names))
    assert row.sampling.count >= len(images.class_names)


def test_training_crops_anew_at_paper_size_and_scores_against_the_middle() -> None:
    row = preset("paper")
    assert (row.data.crop, row.data.crops, row.data.flip) == ("random", 10, False)
    assert row.scores().reference == DataConfig()


@pytest.mark.parametrize(
    ("depth", "gamma", "final"), [(12, 1e-3, 0.1), (16, 1e-3, 0.1), (20, 1e-3, 0.1), (24, 1e-4, 0.01)]
)
def test_each_depth_follows_vars_readme_where_the_paper_is_silent(depth: int, gamma: float, final: float) -> None:
    config = preset("paper").var(None, 0, depth=depth)
    assert config.transformer.gamma_factor == gamma
    assert (config.train.final, config.train.lr, config.train.weight_decay) == (final, 1e-4, 0.05)
    assert config.train.decay_classes


def test_paper_is_vars_recipe_where_the_paper_gives_no_other() -> None:
    """Typed a second time, from VAR's README, train.py, lr_control.py and demo_sample.ipynb."""
    row = preset("paper")
    train, network = row.var(None, 0).train, row.var(None, 0).transformer
    assert (train.betas, train.weight_decay, train.clip) == ((0.9, 0.95), 0.05, 2.0)  # --twd, --tclip
    assert (train.warmup, train.warmup_from, train.flat) == (1 / 50, 0.005, 0.05)  # --wp, --wp0, --sche lin0
    assert (network.label_drop, network.drop_path_peak, network.attn_l2_norm) == (0.1, 0.1 * 16 / 24, True)
    assert (row.sampling.guidance, row.sampling.top_k, row.sampling.top_p) == (1.5, 900, 0.96)
    assert (row.sampling.count, row.data.flip, train.optimiser) == (50_000, False, "adamw")


def test_512_px_doubles_every_token_map_and_the_radius() -> None:
    small, large = (preset(name).tokenizer().pyramid for name in ("paper", "paper512"))
    assert large.patch_nums == tuple(2 * side for side in small.patch_nums)
    assert large.rho_max_px == 2 * small.rho_max_px == 24
