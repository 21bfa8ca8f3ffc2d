"""A tokenizer learns: its losses fall, its parts take part, and its state survives a kill."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    PyramidConfig,
    QuantiserConfig,
    TokenizerConfig,
    TokenizerLossConfig,
    TrainConfig,
)
from fvar.data import to_float
from fvar.errors import UserError
from fvar.plain import replace_path
from fvar.tasks.tokenizer import TokenizerBatch, TokenizerTask
from fvar.training import optim
from fvar.training.task import Metrics

CPU = torch.device("cpu")


def config(**changes: Any) -> TokenizerConfig:
    """A tokenizer of emoji at 16 px that trains in seconds; `changes` by dotted path with `__` for the dot."""
    tiny = TokenizerConfig(
        data=DataConfig(dataset="emoji", image_size=16),
        pyramid=PyramidConfig(patch_nums=(1, 2, 4), downsample_factor=4, rho_max=48.0),
        autoencoder=AutoencoderConfig(ch=16, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=8, norm_groups=4),
        quantiser=QuantiserConfig(vocab_size=64, dead_after=10, ema_decay=0.9),
        loss=TokenizerLossConfig(perceptual=0.0, adversarial=0.0),
        train=TrainConfig(steps=60, batch_size=16, lr=0.03, eval_images=64, precision="fp32"),
        rfid_images=0,
    )
    for path, value in changes.items():
        tiny = replace_path(tiny, path.replace("__", "."), value)
    return tiny


def train(task: TokenizerTask, steps: int) -> list[float]:
    """Bare steps without the loop; the generator's losses."""
    optimisers = {phase: optim.adamw(task.parameter_groups(phase), task.config.train) for phase in task.phase_names}
    history = []
    for step in range(steps):
        torch.manual_seed(step)
        batch = task.fetch(torch.randint(task.size, (16,)), torch.Generator().manual_seed(step))
        for phase in task.phases(step):
            for optimiser in optimisers.values():
                optimiser.zero_grad()
            loss, _ = task.loss(phase, batch, step)
            loss.backward()
            optimisers[phase].step()
            if phase == "generator":
                history.append(loss.item())
        task.after_step(step, [batch])
    return history


@pytest.mark.parametrize(
    ("signal", "reading"), [("structure", "focus"), ("structure", "latent_area"), ("alias", "focus")]
)
def test_reconstruction_improves_and_codes_stay_in_use(signal: str, reading: str) -> None:
    task = TokenizerTask(config(signal=signal, quantiser__reading=reading), CPU)
    before = task.evaluate(0)
    history = train(task, 30)
    after = task.evaluate(30)
    assert sum(history[-5:]) < 0.85 * sum(history[:5])
    assert after["explained"] > before["explained"] + (0.2 if signal == "structure" else 0.02)
    assert after["usage"] > (0.8 if signal == "structure" else 0.7)  # 5 of 21 tokens carry a residual
    assert set(after) >= {"psnr", "perplexity", "usage/1", "perplexity/4"}


def test_alias_amplitudes_are_those_of_the_residuals_and_the_sharpest_is_empty() -> None:
    task = TokenizerTask(config(signal="alias"), CPU)
    task.pyramid.eval()
    raw = task.pyramid(to_float(task.images.batch(range(0, task.size, 5)))).residual
    for k in (0, 1):
        assert abs(float(raw[k].square().mean().sqrt()) / float(task.scaler.std[k]) - 1) < 0.15
        assert float(task.scaler(raw)[k].abs().max()) > 2  # signed, of unit amplitude, never clamped
        torch.testing.assert_close(task.scaler.restore(k, task.scaler(raw)[k]), raw[k])
    assert task.scaler.audible_scales == [0, 1]
    assert task.scaler.std[2] == 1


def test_fewer_images_than_a_batch_are_refused_before_training() -> None:
    with pytest.raises(UserError, match=r"1669 training .* batch of 2000; set train\.batch_size"):
        TokenizerTask(config(train__batch_size=2000), CPU)


def test_an_alias_tokenizer_cannot_read_only_the_sharpest_view() -> None:
    with pytest.raises(UserError, match="focus or independent"):
        TokenizerTask(config(signal="alias", quantiser__reading="latent_area"), CPU)


def test_without_blur_the_alias_tokenizer_claims_no_quality() -> None:
    task = TokenizerTask(config(signal="alias", pyramid__rho_max=0.0), torch.device("cpu"))
    train(task, 1)
    found = task.evaluate(1)
    assert "psnr" not in found
    assert "usage" in found


def test_discriminator_joins_after_its_warm_up() -> None:
    small = config(loss__adversarial=0.5, loss__discriminator_ch=8, train__steps=10)
    larger = dataclasses.replace(
        small,
        data=DataConfig(dataset="emoji", image_size=32),
        pyramid=dataclasses.replace(small.pyramid, patch_nums=(2, 4, 8)),
    )
    task = TokenizerTask(larger, CPU)
    assert [task.phases(step) for step in (2, 3)] == [("generator",), ("generator", "discriminator")]
    before = [p.clone() for _, p in task.parameter_groups("discriminator")]
    train(task, 3)
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, task.parameter_groups("discriminator"), strict=True))
    train(task, 5)
    assert not torch.equal(before[0], task.parameter_groups("discriminator")[0][1])


def test_perceptual_and_adversarial_losses_train_together() -> None:
    """Both judges on 32 px pictures for some steps: finite, the adaptive weight sane, the pictures better."""
    both = config(loss__adversarial=0.5, loss__perceptual=1.0, loss__discriminator_ch=8, train__steps=20)
    larger = dataclasses.replace(
        both,
        data=DataConfig(dataset="emoji", image_size=32),
        pyramid=dataclasses.replace(both.pyramid, patch_nums=(2, 4, 8)),
        loss=dataclasses.replace(both.loss, adversarial_after=0.2),
    )
    task = TokenizerTask(larger, CPU)
    assert task.perceptual is not None
    before = task.evaluate(0)["explained"]
    seen: list[dict[str, float]] = []
    judge = task.loss

    def watched(phase: str, batch: TokenizerBatch, step: int) -> tuple[torch.Tensor, Metrics]:
        loss, metrics = judge(phase, batch, step)
        seen.append({"step": step, "loss": loss.item(), **{k: torch.as_tensor(v).item() for k, v in metrics.items()}})
        return loss, metrics

    task.loss = watched  # type: ignore[method-assign]
    train(task, 12)
    assert all(math.isfinite(value) for record in seen for value in record.values())
    generator = [record for record in seen if "reconstruction" in record]
    assert all("perceptual" in record for record in generator)
    assert ["adversarial" in record for record in generator] == [step >= 4 for step in range(12)]
    weights = [record["adaptive_weight"] for record in generator[4:]]
    assert 1e-3 < min(weights) <= max(weights) < 1e4  # 1e4 is where it is cut off
    assert generator[-1]["perceptual"] < generator[0]["perceptual"]
    assert task.evaluate(12)["explained"] > before + 0.1
    assert abs(seen[-1]["logits_real"] - seen[-1]["logits_fake"]) < 10, "neither player has run away"


@pytest.mark.parametrize(("side", "adversary"), [(16, False), (24, True)])
def test_judges_join_only_where_the_picture_is_large_enough(side: int, adversary: bool) -> None:
    """Patches need 21 px, the perceptual distance 32 px."""
    judged = config(loss__adversarial=0.5, loss__perceptual=1.0, loss__discriminator_ch=8)
    sized = dataclasses.replace(
        judged,
        data=DataConfig(dataset="emoji", image_size=side),
        pyramid=dataclasses.replace(judged.pyramid, patch_nums=(1, 2, side // 4)),
    )
    task = TokenizerTask(sized, CPU)
    assert (task.discriminator is not None) == adversary
    assert task.phase_names == (("generator", "discriminator") if adversary else ("generator",))
    assert task.perceptual is None


def test_every_trained_parameter_gets_a_gradient() -> None:
    """What DDP requires: no parameter group holds a weight the loss never touches."""
    for signal in ("structure", "alias"):
        task = TokenizerTask(config(signal=signal), CPU)
        loss, _ = task.loss("generator", task.fetch(torch.arange(4), torch.Generator()), 0)
        loss.backward()
        idle = [name for name, parameter in task.parameter_groups("generator") if parameter.grad is None]
        assert idle == []


def test_state_modules_are_all_a_resumed_run_needs() -> None:
    def end(interrupted: bool) -> list[torch.Tensor]:
        task = TokenizerTask(config(train__steps=4), CPU)
        for step in range(4):
            if interrupted and step == 2:
                saved = {name: dict(module.state_dict()) for name, module in task.state_modules().items()}
                task = TokenizerTask(config(train__steps=4), CPU)
                for name, module in task.state_modules().items():
                    module.load_state_dict(saved[name])
            torch.manual_seed(step)
            batch = task.fetch(torch.arange(8) + step, torch.Generator())
            loss, _ = task.loss("generator", batch, step)
            loss.backward()
            with torch.no_grad():
                for _, parameter in task.parameter_groups("generator"):
                    assert parameter.grad is not None
                    parameter.sub_(0.01 * parameter.grad)
                    parameter.grad = None
            task.after_step(step, [batch])
        return [value for module in task.state_modules().values() for value in module.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(end(False), end(True), strict=True))


def test_the_discriminator_judges_the_images_of_its_own_batch_in_any_order() -> None:
    adversarial = config(loss__adversarial=0.5, loss__adversarial_after=0.0, loss__discriminator_ch=8)
    sized = dataclasses.replace(
        adversarial,
        data=DataConfig(dataset="emoji", image_size=32),
        pyramid=dataclasses.replace(adversarial.pyramid, patch_nums=(2, 4, 8)),
    )
    task = TokenizerTask(sized, CPU)
    batches = [task.fetch(torch.arange(4) + first, torch.Generator()) for first in (0, 4)]
    for batch in batches:
        task.loss("generator", batch, 0)
    for batch in reversed(batches):
        loss, _ = task.loss("discriminator", batch, 0)
        assert task.discriminator is not None
        assert batch.judged is not None
        real, made = batch.judged
        torch.testing.assert_close(real, to_float(batch.pixels))
        logits_real, logits_made = task.discriminator(torch.cat([real, made])).chunk(2)
        hinges = (1 - logits_real).relu().mean() + (1 + logits_made).relu().mean()
        assert loss.item() == pytest.approx(hinges.item() / 2)


def test_noise_follows_from_the_steps_seed_alone() -> None:
    task = TokenizerTask(config(loss__coarse_views=0.0), CPU)  # leaves the noise as the only random choice
    batch = task.fetch(torch.arange(4), torch.Generator())
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(task.loss("generator", batch, 0)[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_the_last_view_is_the_whole_of_vars_reading() -> None:
    plain = config(quantiser__reading="latent_area")
    blurred = dataclasses.replace(plain, pyramid=dataclasses.replace(plain.pyramid, rho_max=12.0))
    results = []
    for setting in (plain, blurred):
        task = TokenizerTask(setting, CPU)
        results.append(task.evaluate(0)["psnr"])
    assert results[0] == results[1]
