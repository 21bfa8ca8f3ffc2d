"""The original's tokenizer from its state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from fvar.config import AutoencoderConfig, QuantiserConfig
from fvar.errors import UserError
from fvar.machine.weights import load_strictly
from fvar.tokenizer.vqvae import VQVAE


def read_configs(state: Mapping[str, Tensor], where: str) -> tuple[AutoencoderConfig, QuantiserConfig]:
    """What the shapes of the weights tell of a VQVAE that came from `where`. Raises `UserError` if it is none."""
    try:
        ch = state["encoder.conv_in.weight"].shape[0]
        levels = _count(state, "encoder.down.*.block.0.conv2.weight")
        widths = [state[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] for level in range(levels)]
        autoencoder = AutoencoderConfig(
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=_count(state, "encoder.down.0.block.*.conv2.weight"),
            z_channels=state["quant_conv.weight"].shape[0],
            attention="encoder.mid.attn_1.norm.weight" in state,
            patch=math.isqrt(state["encoder.conv_in.weight"].shape[1] // 3),
        )
        quantiser = QuantiserConfig(
            vocab_size=state["quantize.embedding.weight"].shape[0],
            reading="latent_area",
            num_phi=_count(state, "quantize.quant_resi.qresi_ls.*.weight")
            or int("quantize.quant_resi.qresi.weight" in state),
            codebook="gradient",
        )
    except KeyError as error:
        raise UserError(f"{where} is no VQVAE checkpoint of VAR: expected a tensor {error}, not found") from None
    return autoencoder, quantiser


def build_vqvae(state: Mapping[str, Tensor], patch_nums: tuple[int, ...], where: str) -> VQVAE:
    """The original's tokenizer, loaded strictly, in eval mode.

    Raises `UserError` if the state dict is no VQVAE's, or one for another number of scales than `patch_nums`.
    """
    vqvae = VQVAE(*read_configs(state, where), patch_nums)
    load_strictly(vqvae, state, where)
    return vqvae.eval()


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many keys have a number in place of the star."""
    head, tail = pattern.split("*")
    return sum(
        key.startswith(head) and key.endswith(tail) and key[len(head) : len(key) - len(tail)].isdigit() for key in state
    )
