"""A trained tokenizer as its users need it: the network with the pyramid and the signal scale it was trained with."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fvar.config import Signal, TokenizerConfig
from fvar.errors import UserError
from fvar.focus import pyramid
from fvar.rundir import RunDir
from fvar.tokenizer.dual import SignalScaler, signal_views, silent_scales
from fvar.tokenizer.quantiser import area
from fvar.tokenizer.vqvae import VQVAE

MODEL_FILE = "model.safetensors"  # the VQVAE under the original's keys
COMPANION_FILE = "companion.safetensors"  # `scaler.*` and, for reference, the codebook's statistics `codebook.*`


class Tokenizer:
    """A tokenizer in evaluation mode; nothing in it is trained or noisy."""

    def __init__(self, config: TokenizerConfig, vqvae: VQVAE, scaler: SignalScaler) -> None:
        device = vqvae.quant_conv.weight.device
        self.config = config
        self.vqvae = vqvae.eval().requires_grad_(False)
        self.scaler = scaler.to(device).eval()
        self.pyramid = pyramid.from_config(config.pyramid).to(device).eval()

    @property
    def device(self) -> torch.device:
        return self.vqvae.quant_conv.weight.device

    @property
    def patch_nums(self) -> tuple[int, ...]:
        return self.config.pyramid.patch_nums

    def views(self, x: Tensor, signal: Signal | None = None) -> list[Tensor]:
        """What is coded of images x (B, 3, S, S) in [-1, 1]: L_k or scaled A_k, of the signal it was trained on.

        A structure tokenizer also codes alias residuals ("without dual tokenizers"), not the other way round.
        """
        signal = signal or self.config.signal
        if signal == "structure" and self.config.signal == "alias":
            raise UserError("this is an alias tokenizer: it cannot code structure; name the structure tokenizer's run")
        views = signal_views(self.pyramid, self.scaler, signal, x.to(self.device))
        return [view.contiguous(memory_format=torch.channels_last) for view in views]

    @torch.no_grad()
    def encode_images(self, x: Tensor, signal: Signal | None = None) -> list[Tensor]:
        """Tokens of images x (B, 3, S, S) in [-1, 1]: per scale (B, p_k * p_k) int64."""
        return self.vqvae.indices(self.views(x, signal), self.silent(signal))

    def silent(self, signal: Signal | None = None) -> frozenset[int]:
        """Scales (from 0) at which the signal, by default its own, is zero: nothing is coded there."""
        return silent_scales(self.pyramid, signal or self.config.signal)

    @torch.no_grad()
    def decode_prefixes(self, indices: list[Tensor]) -> list[Tensor]:
        """What the first 1, 2, ... scales stand for.

        Structure: images (B, 3, S, S) in [-1, 1], from blurred to sharp. Alias: residuals A_k (B, 3, f*p_k, f*p_k),
        signed and not clamped.
        """
        f_hats = self.vqvae.indices_to_f_hat(indices)
        if self.config.signal == "structure":
            return [self.vqvae.decode(f_hat) for f_hat in f_hats]
        return [
            self.scaler.restore(k, self.vqvae.render(area(f_hat, self.patch_nums[k])).float())
            for k, f_hat in enumerate(f_hats)
        ]


def load_tokenizer(run: RunDir, device: torch.device | str = "cpu") -> Tokenizer:
    """The tokenizer a finished run trained.

    Raises `UserError` if the run trained something else, is not finished, or its files do not fit its configuration.
    """
    config = run.config_as(TokenizerConfig)
    silent = silent_scales(pyramid.from_config(config.pyramid), config.signal)
    vqvae = VQVAE(config.autoencoder, config.quantiser, config.pyramid.patch_nums, silent)
    scaler = SignalScaler(len(config.pyramid.patch_nums))
    companion = _read(run.path / COMPANION_FILE)
    own = {key.removeprefix("scaler."): value for key, value in companion.items() if key.startswith("scaler.")}
    try:
        vqvae.load_state_dict(_read(run.path / MODEL_FILE))
        scaler.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the weights in {run.path} do not fit its config.json: {reason}; delete them and rerun"
        ) from None
    return Tokenizer(config, vqvae.to(device), scaler)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; first: python -m fvar.run {shlex.quote(str(path.parent))}") from None
