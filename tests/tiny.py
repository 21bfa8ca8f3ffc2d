"""Small networks for tests of the transformer half: random, but with every path open."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from fvar.config import AutoencoderConfig, MambaConfig, QuantiserConfig, TeacherConfig, TransformerConfig
from fvar.models.teacher import Teacher
from fvar.models.var import VAR
from fvar.tokenizer.vqvae import VQVAE

PATCH_NUMS = (1, 2, 3)
LENGTH = 14
CLASSES, VOCAB, CHANNELS, ALIAS_VOCAB = 5, 40, 4, 16
CFG = TransformerConfig(depth=3, width=32, heads=2)
MVAR = TransformerConfig(depth=3, width=32, heads=2, mixer="mvar", mamba=MambaConfig(d_state=8, head_dim=16))


def awake(module: nn.Module, seed: int = 0) -> None:
    """Draw all weights anew: at VAR's initial values the residual branches are closed and would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.5 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def var(cfg: TransformerConfig = CFG, patch_nums: tuple[int, ...] = PATCH_NUMS, seed: int = 0) -> VAR:
    network = VAR(cfg, CLASSES, VOCAB, CHANNELS, patch_nums)
    awake(network, seed)
    return network.eval()


def teacher(cfg: TeacherConfig | None = None, seed: int = 1, silent: Collection[int] = ()) -> Teacher:
    network = Teacher(CFG, cfg or TeacherConfig(), CLASSES, VOCAB, CHANNELS, PATCH_NUMS, ALIAS_VOCAB, silent)
    awake(network, seed)
    return network


def vqvae(patch_nums: tuple[int, ...] = PATCH_NUMS) -> VQVAE:
    autoencoder = AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=CHANNELS, norm_groups=4)
    torch.manual_seed(0)
    network = VQVAE(autoencoder, QuantiserConfig(vocab_size=VOCAB, reading="latent_area"), patch_nums)
    nn.init.normal_(network.quantize.embedding.weight)
    return network.eval()


def batch(size: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Labels (B,), var_input (B, L - 1, Cz), alias tokens per scale."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    var_input = torch.randn(size, LENGTH - 1, CHANNELS, generator=generator)
    alias = [torch.randint(ALIAS_VOCAB, (size, p * p), generator=generator) for p in PATCH_NUMS]
    return labels, var_input, alias
