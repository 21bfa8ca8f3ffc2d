"""The bill agrees with the networks as built and with torch's FLOP counter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fvar import estimate
from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    Mixer,
    PyramidConfig,
    QuantiserConfig,
    Reading,
    RuntimeConfig,
    Stage,
    TeacherConfig,
    TokenizerConfig,
    TokensConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.errors import UserError
from fvar.flops.part import Part
from fvar.flops.tokenizer import COARSE_IMAGES
from fvar.flops.transformer import CHUNK
from fvar.models import mamba
from fvar.models.teacher import Teacher
from fvar.models.var import VAR
from fvar.rundir import RunDir
from fvar.tokenizer.quantiser import area
from fvar.tokenizer.vqvae import VQVAE

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
ALIAS_VOCAB = 512
MIXERS: tuple[Mixer, ...] = ("var", "mvar")


def stages(transformer: TransformerConfig, teacher: TeacherConfig | None, vocab: int = 4096) -> Stage:
    """A var stage over ImageNet with VAR's ten scales."""
    pyramid, data = PyramidConfig(patch_nums=SCALES), DataConfig()

    def tokens(size: int) -> Stage:
        quantiser = QuantiserConfig(vocab_size=size)
        return Stage(
            TokensConfig(data=data), {"tokenizer": Stage(TokenizerConfig(pyramid=pyramid, quantiser=quantiser))}
        )

    inputs = {"tokens": tokens(vocab), **({"alias": tokens(ALIAS_VOCAB)} if teacher else {})}
    return Stage(VarConfig(transformer=transformer, teacher=teacher), inputs)


def learned(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("depth", [12, 16, 20, 24])
@pytest.mark.parametrize("mixer", MIXERS)
def test_student_parameters_are_those_of_the_published_sizes(depth: int, mixer: Mixer) -> None:
    cfg = TransformerConfig(depth=depth, mixer=mixer)
    with torch.device("meta"):
        built = learned(VAR(cfg, 1000, 4096, 32, SCALES))
    student = estimate.estimate(stages(cfg, None)).parts[1]
    assert student.parameters == built


@pytest.mark.parametrize("mixer", MIXERS)
def test_modulations_that_all_blocks_share_are_billed_once(mixer: Mixer) -> None:
    cfg = TransformerConfig(depth=4, width=256, shared_aln=True, mixer=mixer)
    with torch.device("meta"):
        student = VAR(cfg, 1000, 4096, 32, SCALES)
        labels, targets = torch.zeros(2, dtype=torch.long), torch.zeros(2 * 680, dtype=torch.long)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            logits = student(labels, torch.zeros(2, 679, 32)).logits
            F.cross_entropy(logits.flatten(0, 1), targets).backward()
    bill = estimate.estimate(stages(cfg, None)).parts[1]
    assert bill.parameters == learned(student)
    assert bill.flops == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_d16_has_the_parameters_the_original_reports() -> None:
    assert estimate.estimate(stages(TransformerConfig(depth=16), None)).parameters == pytest.approx(
        310_283_520, rel=1e-3
    )


TEACHERS = [
    TeacherConfig(),
    TeacherConfig(trunk="shared", last_scales=2),
    TeacherConfig(gate="none", visibility="before", blocks=1),
    TeacherConfig(alias="none", trunk="shared"),
]


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("mixer", MIXERS)
def test_transformer_bill_matches_the_flop_counter(teacher: TeacherConfig, mixer: Mixer) -> None:
    cfg = TransformerConfig(depth=4, width=256, mixer=mixer)
    bill = {part.name: part for part in estimate.estimate(stages(cfg, teacher)).parts}
    shape = (1000, 4096, 32, SCALES)
    with torch.device("meta"):
        student, taught = VAR(cfg, *shape), Teacher(cfg, teacher, *shape, ALIAS_VOCAB, {len(SCALES) - 1})
        labels, targets = torch.zeros(2, dtype=torch.long), torch.zeros(2 * 680, dtype=torch.long)
        var_input = torch.zeros(2, 679, 32)
        alias = [torch.zeros(2, p * p, dtype=torch.long) for p in SCALES]
    assert bill["student"].parameters == learned(student)
    assert bill["teacher"].parameters == learned(taught.network)
    attention = bill.get("AG-XAttn", Part("none", 0, 0, 0))
    assert attention.parameters == (learned(taught.alias) if taught.alias else 0) + learned(taught.cross)

    # The mathematical attention is made of matrix products, which the counter knows on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        out = student(labels, var_input, trunk_before=taught.trunk_before)
        F.cross_entropy(out.logits.flatten(0, 1), targets).backward()
    assert bill["student"].flops == pytest.approx(counter.get_total_flops() / 2, rel=0.02)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = taught(labels, var_input, alias, trunk=out.trunk).logits
        F.cross_entropy(logits.flatten(0, 1), targets).backward()
    counted = counter.get_total_flops() / 2
    assert bill["teacher"].flops + attention.flops == pytest.approx(counted, rel=0.02)
    if taught.alias is None:
        return

    x = torch.zeros(2, 680, cfg.dim, device="meta", requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sum(cross(x, taught.alias(alias)).sum() for cross in taught.cross).backward()
    assert attention.flops == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


@pytest.mark.parametrize(("ch_mult", "patch"), [((1, 2, 4), 1), ((1, 1, 2, 2, 4), 1), ((1, 2), 2), ((1,), 4)])
@pytest.mark.parametrize("reading", ["focus", "latent_area"])
def test_tokenizer_bill_matches_the_flop_counter(ch_mult: tuple[int, ...], patch: int, reading: Reading) -> None:
    auto = AutoencoderConfig(ch=32, ch_mult=ch_mult, patch=patch)
    pyramid = PyramidConfig(patch_nums=(2, 4, 8), downsample_factor=auto.downsample_factor)
    quantiser = QuantiserConfig(vocab_size=512, reading=reading)
    data = DataConfig(image_size=pyramid.image_size)
    config = TokenizerConfig(data=data, pyramid=pyramid, autoencoder=auto, quantiser=quantiser)
    bill = {part.name: part for part in estimate.estimate(Stage(config)).parts}

    vqvae = VQVAE(auto, quantiser, pyramid.patch_nums)
    assert bill["encoder"].parameters == learned(vqvae.encoder) + learned(vqvae.quant_conv)
    assert bill["decoder"].parameters == learned(vqvae.decoder) + learned(vqvae.post_quant_conv)
    assert bill["quantiser"].parameters == learned(vqvae.quantize)
    views = [torch.rand(1, 3, p * auto.downsample_factor, p * auto.downsample_factor) for p in pyramid.patch_nums]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        coded = vqvae.quantise(vqvae.latents(views))
        made = vqvae.render(coded.f_hats[-1])
        (made.square().mean() + coded.commitment + coded.codebook).backward()
    decoded = 1.0 if reading == "latent_area" else 1 + COARSE_IMAGES
    whole = bill["encoder"].flops + bill["quantiser"].flops + bill["decoder"].flops / decoded
    assert whole == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("patch_nums", [(2, 4, 8), (1, 2, 3, 4, 5)])
def test_bill_of_an_alias_tokenizer_leaves_out_the_scale_that_is_silent(patch_nums: tuple[int, ...]) -> None:
    auto = AutoencoderConfig(ch=32, ch_mult=(1, 2, 4))
    pyramid = PyramidConfig(patch_nums=patch_nums, downsample_factor=4)
    data = DataConfig(image_size=pyramid.image_size)
    quantiser = QuantiserConfig(vocab_size=64)
    config = TokenizerConfig(signal="alias", data=data, pyramid=pyramid, autoencoder=auto, quantiser=quantiser)
    bill = estimate.estimate(Stage(config))
    last = len(patch_nums) - 1
    vqvae = VQVAE(auto, quantiser, patch_nums, {last})
    assert bill.parameters == learned(vqvae)
    views = [torch.rand(1, 3, 4 * p, 4 * p) for p in patch_nums]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        coded = vqvae.quantise(vqvae.latents(views))
        made = [vqvae.render(area(coded.f_hats[k], patch_nums[k])) for k in range(last)]
        (sum(image.square().mean() for image in made) + coded.commitment + coded.codebook).backward()
    assert bill.flops_per_image == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_separate_teacher_doubles_the_cost_and_a_shared_trunk_adds_what_the_paper_claims() -> None:
    """Paper Sec. 3.5: +6-15 % training FLOPs and < 3 % parameters, which only a shared trunk can mean."""
    cfg = TransformerConfig(depth=24)

    def bill(teacher: TeacherConfig | None) -> estimate.Estimate:
        return estimate.estimate(stages(cfg, teacher))

    alone = bill(None).flops_per_image
    assert bill(TeacherConfig()).flops_per_image > 2 * alone
    assert 1.06 < bill(TeacherConfig(trunk="shared")).flops_per_image / alone < 1.15
    crossing = next(part for part in bill(TeacherConfig()).parts if part.name == "AG-XAttn")
    assert crossing.parameters < 0.03 * bill(None).parameters


def test_more_ranks_need_less_memory_and_checkpointing_trades_it_for_flops() -> None:
    plain = estimate.estimate(stages(TransformerConfig(), None))
    thrifty = estimate.estimate(stages(TransformerConfig(checkpointing=True), None))
    assert plain.memory(8) < plain.memory(4)
    assert thrifty.memory(8) < plain.memory(8)
    assert thrifty.flops == pytest.approx(plain.flops * 4 / 3, rel=0.1)
    assert thrifty.model_flops_per_image == plain.model_flops_per_image == plain.flops_per_image


def test_m_var_costs_half_as_much_again_and_its_scan_is_recomputed() -> None:
    var, mvar = (estimate.estimate(stages(TransformerConfig(mixer=mixer), None)) for mixer in MIXERS)
    assert 1.4 < mvar.parameters / var.parameters < 1.6
    assert 1.3 < mvar.model_flops_per_image / var.model_flops_per_image < 1.6
    assert 0 < mvar.flops_per_image - mvar.model_flops_per_image < 0.03 * mvar.flops_per_image
    assert mvar.memory(8) > var.memory(8)
    assert mamba.CHUNK == CHUNK


def test_shards_hold_a_share_of_weights_and_optimiser_each() -> None:
    bill = estimate.estimate(stages(TransformerConfig(depth=24), None))
    assert bill.memory(1, sharded=True) == bill.memory(1)
    saved = bill.memory(8) - bill.memory(8, sharded=True)
    assert saved == pytest.approx(7 / 8 * estimate.MASTER_BYTES * bill.parameters)


def test_a_frozen_teacher_has_no_backward_pass() -> None:
    online, frozen = (
        estimate.estimate(stages(TransformerConfig(), TeacherConfig(learns=learns))) for learns in ("online", "frozen")
    )
    assert frozen.parameters < online.parameters
    assert frozen.flops < online.flops


def test_stage_that_trains_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="a tokens stage trains nothing"):
        estimate.estimate(stages(TransformerConfig(), None).inputs["tokens"])


def test_command_prints_the_bill_without_importing_torch(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, stages(TransformerConfig(), TeacherConfig()), RuntimeConfig())
    program = "import sys; from fvar.estimate import main; main(); assert 'torch' not in sys.modules"
    for target in (run.path, run.path / "config.json"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(target), "--ranks", "8", "--price", "2"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert all(word in done.stdout for word in ("student", "teacher", "AG-XAttn", "A100", "H200", "GPU hours"))
