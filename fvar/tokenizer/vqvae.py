"""The tokenizer network: encoder, multi-scale quantiser, decoder, under the original VAR's parameter names.

Its state dict loads the original's `vae_ch160v4096z32` strictly. What training adds (codebook statistics, the scale of
the alias signal) lives in companion modules: see fvar.tokenizer.codebook and fvar.tokenizer.dual.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from fvar.config import AutoencoderConfig, QuantiserConfig
from fvar.tokenizer.autoencoder import Decoder, Encoder, initialise
from fvar.tokenizer.quantiser import MultiScaleQuantiser, Quantised, area


class VQVAE(nn.Module):
    """Images (B, 3, f*P, f*P) in [-1, 1] <-> token maps of sides `patch_nums` = (p_1, ..., p_K = P).

    Scales that are `silent` (from 0) are neither encoded nor coded.
    """

    def __init__(
        self,
        autoencoder: AutoencoderConfig,
        quantiser: QuantiserConfig,
        patch_nums: tuple[int, ...],
        silent: Collection[int] = (),
    ) -> None:
        super().__init__()
        z = autoencoder.z_channels
        self.patch_nums = patch_nums
        self.reading = quantiser.reading
        self.encoder = Encoder(autoencoder)
        self.decoder = Decoder(autoencoder)
        self.quantize = MultiScaleQuantiser(quantiser, z, patch_nums, silent)
        self.quant_conv = nn.Conv2d(z, z, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(z, z, 3, padding=1)
        initialise(self.encoder, self.decoder, self.quant_conv, self.post_quant_conv)

    @property
    def z_channels(self) -> int:
        return self.quantize.embedding.embedding_dim

    @property
    def vocab_size(self) -> int:
        return self.quantize.embedding.num_embeddings

    # ------------------------------------------------------------------------------------------------ images to tokens

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, f*p, f*p) -> (B, Cz, p, p), for any p."""
        return self.quant_conv(self.encoder(x))  # type: ignore[no-any-return]

    def latents(self, views: list[Tensor], silent: Collection[int] | None = None) -> list[Tensor]:
        """Targets z_k (B, Cz, p_k, p_k) of all scales from the views (B, 3, f*p_k, f*p_k); zeros of a silent one.

        `latent_area` looks at the sharpest view only.
        """
        silent = self.quantize.silent if silent is None else silent
        if self.reading == "latent_area":
            f = self.encode(views[-1]).float()
            return [area(f, side) for side in self.patch_nums]
        return [
            view.new_zeros(len(view), self.z_channels, side, side) if k in silent else self.encode(view)
            for k, (view, side) in enumerate(zip(views, self.patch_nums, strict=True))
        ]

    def quantise(self, latents: list[Tensor], bypass: Tensor | None = None) -> Quantised:
        """Code the targets of all scales; `bypass` (B,) bool lets some images through as they are."""
        return self.quantize.quantise(latents, bypass)

    def indices(self, views: list[Tensor], silent: Collection[int] | None = None) -> list[Tensor]:
        """Tokens of all scales, each (B, p_k * p_k) int64; `silent` as in `MultiScaleQuantiser.quantise`."""
        return self.quantize.quantise(self.latents(views, silent), silent=silent).indices

    # ------------------------------------------------------------------------------------------------ tokens to images

    def indices_to_f_hat(self, indices: list[Tensor]) -> list[Tensor]:
        """f_hat (B, Cz, P, P) after each of the given scales."""
        return self.quantize.f_hats(indices)

    def render(self, f_hat: Tensor) -> Tensor:
        """The decoder's output, not clamped: what losses see. (B, Cz, p, p) -> (B, 3, f*p, f*p)."""
        return self.decoder(self.post_quant_conv(f_hat))  # type: ignore[no-any-return]

    def decode(self, f_hat: Tensor) -> Tensor:
        """(B, Cz, P, P) -> images (B, 3, f*P, f*P) in [-1, 1]."""
        # Without a backward pass, channels innermost convolve up to 3x faster; with one, group norm loses more.
        return self.render(f_hat.contiguous(memory_format=torch.channels_last)).clamp(-1, 1)

    # ------------------------------------------------------------------------------------------------- the transformer

    def var_input(self, indices: list[Tensor]) -> Tensor:
        """Teacher-forced input of the transformer, (B, L - p_1 ** 2, Cz)."""
        return self.quantize.var_input(indices)

    def next_input(self, k: int, f_hat: Tensor, code_map: Tensor) -> tuple[Tensor, Tensor | None]:
        """One step of sampling: add the code map of scale k (B, Cz, p_k, p_k) to f_hat_{k-1} (B, Cz, P, P).

        Returns f_hat_k and the map (B, Cz, p_{k+1}, p_{k+1}) the transformer reads next; None after the last scale.
        Start with `quantize.blank(...)`.
        """
        f_hat = self.quantize.add(k, f_hat, code_map)
        last = k == len(self.patch_nums) - 1
        return f_hat, None if last else self.quantize.next_map(k, f_hat, code_map)
