"""What is checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fvar.config import SamplesConfig, Stage, TokenizerConfig, VarConfig
from fvar.errors import UserError
from fvar.models.teacher import Teacher
from fvar.models.var import VAR
from fvar.tokenizer.vqvae import VQVAE
from studies.engine import preflight
from studies.presets import preset
from studies.variants import chain


def trained_bytes(modules: Iterable[torch.nn.Module]) -> int:
    return sum(
        4 * parameter.numel() for module in modules for parameter in module.parameters() if parameter.requires_grad
    )


@pytest.mark.parametrize("name", ["small", "paper"])
def test_room_is_asked_for_a_network_and_four_checkpoints_of_it_with_two_moments(name: str) -> None:
    stages = {stage.kind: stage for stage in chain(preset(name), "full", 0).chain()}  # the structure's last
    tokenizer, var = preset(name).tokenizer(), stages["var"].config
    assert isinstance(var, VarConfig)
    assert var.teacher is not None
    shape = (1000 if name == "paper" else 9, tokenizer.quantiser.vocab_size, tokenizer.autoencoder.z_channels)
    with torch.device("meta"):
        vqvae = VQVAE(tokenizer.autoencoder, tokenizer.quantiser, tokenizer.pyramid.patch_nums)
        student = VAR(var.transformer, *shape, tokenizer.pyramid.patch_nums)
        teacher = Teacher(var.transformer, var.teacher, *shape, tokenizer.pyramid.patch_nums, preset(name).alias_vocab)
    for stage, modules in ((Stage(tokenizer), [vqvae]), (stages["var"], [student, teacher])):
        assert preflight.expected_bytes(stage) == pytest.approx((1 + 3 * 4) * trained_bytes(modules), rel=1e-3)


def test_a_full_disk_is_named_before_the_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 << 30}))
    with pytest.raises(UserError, match=r"will write about \d\.\d GiB to .*, but only 1\.0 GiB are free"):
        preflight.require_space(tmp_path, [Stage(TokenizerConfig())])


def test_a_token_store_of_ten_crops_of_imagenet_asks_for_its_room_twice() -> None:
    """2 bytes a token: the parts, and what they are joined into."""
    stages = [stage for stage in chain(preset("paper"), "full", 0).chain() if stage.kind == "tokens"]
    tokens = 4 + 16 + 64 + 256
    assert [preflight.expected_bytes(stage) for stage in stages] == [2 * 10 * 1_331_167 * tokens * 2] * 2
    assert preflight.expected_bytes(chain(preset("smoke"), "baseline", 0).inputs["samples"]) < 4 << 20


def test_fewer_images_than_a_batch_are_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").touch()
    few = preset("small").on("folder", str(tmp_path))
    with pytest.raises(
        UserError, match=r"has fewer images \(1\) than a batch of 32; add --set tokenizer.train.batch_size"
    ):
        preflight.require_images([chain(few, "baseline", 0)])
    preflight.require_images([chain(preset("small"), "baseline", 0)])


def test_fewer_samples_than_classes_are_said_before_anything_starts() -> None:
    smoke = preset("smoke")
    with pytest.raises(UserError, match=r"samples.count 8 leaves some of the 9 classes without a sample"):
        preflight.require_images([chain(replace(smoke, sampling=SamplesConfig(count=8)), "baseline", 0)])
