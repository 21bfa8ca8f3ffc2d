"""Configurations refuse what cannot be meant, and a stage's signature names exactly what it computes."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvar import config
from fvar.config import (
    DataConfig,
    PyramidConfig,
    QuantiserConfig,
    SamplesConfig,
    ScoresConfig,
    Stage,
    StageConfig,
    TeacherConfig,
    TokenizerConfig,
    TokensConfig,
    TrainConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.errors import DataChanged, UserError
from fvar.plain import differences, from_dict, replace_path, to_dict

ALL = [
    TokenizerConfig(),
    TokensConfig(),
    VarConfig(),
    VarConfig(teacher=TeacherConfig()),
    SamplesConfig(),
    ScoresConfig(),
]


def leaves(value: Any, prefix: str = "") -> list[str]:
    """Dotted paths of all plain fields of a configuration."""
    paths = []
    for item in dataclasses.fields(value):
        inner = getattr(value, item.name)
        path = f"{prefix}{item.name}"
        paths += leaves(inner, f"{path}.") if dataclasses.is_dataclass(inner) else [path]
    return paths


def other(value: Any) -> Any:
    """A value of the same type that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return value


@pytest.mark.parametrize("value", ALL, ids=lambda v: f"{v.kind}")
def test_configuration_survives_json(value: Any) -> None:
    assert from_dict(type(value), to_dict(value)) == value


@pytest.mark.parametrize(
    "value", [TrainConfig(), PyramidConfig(), TransformerConfig(), TeacherConfig(), SamplesConfig()]
)
def test_every_number_is_part_of_the_identity(value: Any) -> None:
    wraps: dict[str, Callable[[Any], StageConfig]] = {
        "PyramidConfig": lambda v: TokenizerConfig(pyramid=v),
        "TrainConfig": lambda v: VarConfig(train=v),
        "TransformerConfig": lambda v: VarConfig(transformer=v),
        "TeacherConfig": lambda v: VarConfig(teacher=v),
        "SamplesConfig": lambda v: v,
    }
    wrapped = wraps[type(value).__name__]
    before = Stage(wrapped(value)).signature
    for path in leaves(value):
        current = attrgetter(path)(value)
        try:
            changed = wrapped(replace_path(value, path, other(current)))
        except UserError:
            continue  # no neighbouring value is valid, e.g. a share that would exceed 1
        assert (Stage(changed).signature == before) is (current == other(current)), path


def test_data_are_identified_by_their_content_not_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    for name in ("one", "two"):
        (tmp_path / name / "pets" / "cat").mkdir(parents=True)
        (tmp_path / name / "pets" / "cat" / "0.png").write_text(name)
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    found = {
        name: DataConfig(dataset="folder", root=str(tmp_path / name / "pets")).found()
        for name in ("one", "two", "moved")
    }
    signatures = {name: Stage(TokensConfig(data=data)).signature for name, data in found.items()}
    assert signatures["one"] == signatures["moved"] != signatures["two"]
    assert found["one"].title == f"pets-{found['one'].content[:6]}" != found["two"].title
    placed = Stage(TokensConfig(data=replace(found["one"], content="")))
    assert placed.signature != Stage(TokensConfig(data=replace(found["moved"], content=""))).signature
    found["one"].require_unchanged()
    (tmp_path / "one" / "pets" / "cat" / "1.png").write_text("more")
    with pytest.raises(DataChanged, match="pets changed since this was planned"):
        found["one"].require_unchanged()
    assert DataConfig(dataset="emoji").found() == DataConfig(dataset="emoji")


@pytest.mark.parametrize(
    ("dataset", "counts", "does_not"),
    [
        ("folder", "cat/0.png", "README"),
        ("webdataset", "train-0.tar", "README"),
        ("cifar10", "test_batch.bin", ".note"),
    ],
)
def test_only_files_of_the_data_set_are_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Any, counts: str, does_not: str
) -> None:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    (root / counts).parent.mkdir(parents=True)
    (root / counts).write_text("one")
    data = DataConfig(dataset=dataset, root=str(root)).found()
    (root / does_not).write_text("about these data")
    assert data.found() == data
    (root / counts).write_text("two")
    assert data.found().content != data.content


def test_signature_changes_with_a_stage_above() -> None:
    def var(seed: int) -> Stage:
        tokenizer = Stage(TokenizerConfig(train=TrainConfig(seed=seed)))
        return Stage(VarConfig(), {"tokens": Stage(TokensConfig(), {"tokenizer": tokenizer})})

    assert var(0).signature == var(0).signature
    assert var(0).signature != var(1).signature


def test_chain_lists_inputs_first_and_shared_ones_once() -> None:
    tokenizer = Stage(TokenizerConfig())
    both = {"tokens": Stage(TokensConfig(), {"tokenizer": tokenizer}),
            "alias": Stage(TokensConfig(signal="alias"), {"tokenizer": tokenizer})}  # fmt: skip
    kinds = [stage.kind for stage in Stage(VarConfig(), both).chain()]
    assert kinds == ["tokenizer", "tokens", "tokens", "var"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DataConfig(dataset="emojy"),  # type: ignore[arg-type]
            r"unknown DataConfig.dataset 'emojy' \(did you mean 'emoji'\?\); valid: ",
        ),
        (lambda: TokenizerConfig(data=DataConfig(dataset="emoji", holdout=0.0)), "keeps no images for validation"),
        (lambda: TokensConfig(data=DataConfig(dataset="emoji", holdout=0.0)), "keeps no images for validation"),
        (
            lambda: ScoresConfig(reference=DataConfig(dataset="emoji", holdout=0.0), split="heldout"),
            "keeps no images for validation",
        ),
        (lambda: DataConfig(holdout=1.0), r"holdout must be in \[0, 1\)"),
        (lambda: TrainConfig(steps=0), "steps must be at least 1, got 0"),
        (lambda: TrainConfig(batch_size="8"), "TrainConfig.batch_size must be int, got '8'"),  # type: ignore[arg-type]
        (lambda: TrainConfig(betas=(0.9,)), "betas must have 2 values"),  # type: ignore[arg-type]
        (lambda: PyramidConfig(patch_nums=(4, 2)), "patch_nums must rise"),
        (lambda: PyramidConfig(rho_max=-1.0), "rho_max must be >= 0 px"),
        (lambda: TransformerConfig(depth=3, width=64), "width 64 is not a multiple of its 3 heads"),
        (lambda: TokenizerConfig(data=DataConfig(image_size=64)), "data.image_size 64 differs"),
        (lambda: QuantiserConfig(vocab_size=70_000), "vocab_size 70000 exceeds 65536"),
        (lambda: SamplesConfig(top_p=0.0), r"top_p must be in \(0, 1\]"),
        (lambda: from_dict(VarConfig, {"trian": {}}), r"unknown key in VarConfig 'trian' \(did you mean 'train'\?\)"),
        (lambda: from_dict(VarConfig, {"train": 3}), "VarConfig.train must be a table of settings"),
        (lambda: replace_path(VarConfig(), "train.lrr", 1.0), "unknown key in TrainConfig 'lrr'"),
        (lambda: replace_path(VarConfig(), "train.lr.x", 1.0), "lr has no settings of its own"),
    ],
)
def test_mistake_is_named_with_its_place(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@settings(deadline=None)
@given(depth=st.integers(1, 40))
def test_width_and_heads_follow_the_depth(depth: int) -> None:
    cfg = TransformerConfig(depth=depth)
    assert (cfg.dim, cfg.num_heads) == (64 * depth, depth)
    assert cfg.drop_path_peak == pytest.approx(0.1 * depth / 24)


def test_differences_name_every_changed_leaf() -> None:
    before = to_dict(VarConfig())
    after = to_dict(replace_path(replace_path(VarConfig(), "train.lr", 3e-4), "transformer.depth", 12))
    assert differences(before, after) == ["train.lr: 0.0001 -> 0.0003", "transformer.depth: 16 -> 12"]


def test_defaults_are_the_papers() -> None:
    """Paper Sec. 4.2."""
    train, distill, pyramid = TrainConfig(), config.DistillConfig(), PyramidConfig()
    assert (train.steps, train.batch_size, train.lr) == (400_000, 256, 1e-4)
    assert (distill.lambda_feat, distill.lambda_logit) == (1.0, 0.5)
    assert (len(pyramid.patch_nums), pyramid.rho_max, pyramid.beta) == (4, 12.0, (1e-3, 1e-2))
    assert TokenizerConfig().train.steps == 100_000


def test_configuration_needs_no_torch() -> None:
    program = "import sys, fvar.config, fvar.rundir, fvar.run; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
