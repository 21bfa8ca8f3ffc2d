"""Multi-scale residual vector quantisation: K latent maps -> K token maps -> one latent map that grows scale by scale.

Scale k codes what the scales before it left of its target z_k (B, Cz, p_k, p_k):

    r_k = z_k - area(f_hat_{k-1}, p_k)        e_k = nearest code to each vector of r_k
    f_hat_k = f_hat_{k-1} + phi_k(up(e_k))    up: bicubic to P = p_K,  phi(h) = (1 - r) h + r conv3x3(h)

The three readings of the method differ in the targets and in what is accumulated:

- `focus`: z_k is the encoded focus state k.
- `latent_area`: z_k = area(f, p_k) of one encoded image. Area downsampling is linear, so
  r_k = area(f - f_hat_{k-1}, p_k): the original VAR.
- `independent`: z_k is the encoded focus state k and nothing is accumulated: r_k = z_k, f_hat_k = phi_k(up(e_k)).

A scale that is `silent`, as the sharpest alias residual, has nothing to code: its tokens are 0 and stand for nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvar.config import QuantiserConfig


@dataclass(frozen=True)
class Quantised:
    """What coding a batch gives; lists run over the scales."""

    indices: list[Tensor]  # (B, p_k * p_k) int64, row by row; 0 where the scale is silent
    f_hats: list[Tensor]  # (B, Cz, P, P) after each scale; gradients pass straight through to the latents
    residuals: list[Tensor]  # (B * p_k * p_k, Cz) the vectors that were replaced by codes, detached; (0, Cz) if silent
    commitment: Tensor  # mean over scales heard of |latents - sg f_hat|^2: pulls the encoder to the codes
    codebook: Tensor  # mean over scales of |f_hat - sg latents|^2: teaches phi (and the codes, without EMA)

    @property
    def drawn(self) -> list[Tensor]:
        """The codes that were chosen, flat; none where the scale is silent."""
        return [index.flatten()[: len(residual)] for index, residual in zip(self.indices, self.residuals, strict=True)]


class Phi(nn.Conv2d):
    """phi(h) = (1 - ratio) h + ratio conv3x3(h): mends what bicubic upsampling cannot."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.ratio = ratio

    def forward(self, h: Tensor) -> Tensor:
        return torch.lerp(h, super().forward(h), self.ratio)


class SharedPhi(nn.Module):
    """`count` phi shared by K scales: scale k takes the one whose tick on [0, 1] is nearest to k / (K - 1).

    With a `count` of 0 every scale has its own. The original calls several `qresi_ls.0`, ..., a single one `qresi`, and
    those of a scale each `0`, `1`, ...
    """

    def __init__(self, channels: int, count: int, ratio: float, scales: int, silent: Collection[int] = ()) -> None:
        super().__init__()
        own, count = count == 0, count or scales
        phis = [Phi(channels, ratio) for _ in range(count)]
        if own:
            for number, phi in enumerate(phis):
                self.add_module(str(number), phi)
        elif count == 1:
            self.qresi = phis[0]
        else:
            self.qresi_ls = nn.ModuleList(phis)
        # The margins are the original's; double precision and "first of equals" decide its ties, e.g. k = 2 of 10.
        margin = (1 / 3 if count == 4 else 1 / 2) / count
        ticks = np.linspace(margin, 1 - margin, count)
        self.choice = [int(np.abs(ticks - k / max(scales - 1, 1)).argmin()) for k in range(scales)]
        used = {phi for k, phi in enumerate(self.choice) if k not in silent}
        for number, phi in enumerate(self.phis):  # few scales, or silent ones, leave some phi without use
            phi.requires_grad_(number in used)

    @property
    def phis(self) -> list[Phi]:
        return [module for module in self.modules() if isinstance(module, Phi)]

    def forward(self, k: int, h: Tensor) -> Tensor:
        return self.phis[self.choice[k]](h)  # type: ignore[no-any-return]


def area(x: Tensor, side: int) -> Tensor:
    """Downsample to side x side by averaging."""
    return x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="area")


def bicubic(x: Tensor, side: int) -> Tensor:
    """Resize to side x side by bicubic interpolation."""
    return x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False)


class MultiScaleQuantiser(nn.Module):
    """Codebook, phi and the residual recursion above. Everything is computed in float32, also under autocast.

    `silent` names the scales (from 0) at which its signal is zero.
    """

    ema_vocab_hit_SV: Tensor

    def __init__(
        self, cfg: QuantiserConfig, z_channels: int, patch_nums: tuple[int, ...], silent: Collection[int] = ()
    ) -> None:
        super().__init__()
        self.reading = cfg.reading
        self.patch_nums = patch_nums
        self.silent = frozenset(silent)
        self.embedding = nn.Embedding(cfg.vocab_size, z_channels)
        nn.init.uniform_(self.embedding.weight, -1 / cfg.vocab_size, 1 / cfg.vocab_size)
        self.embedding.weight.requires_grad_(cfg.codebook == "gradient")
        self.quant_resi = SharedPhi(z_channels, cfg.num_phi, cfg.phi_ratio, len(patch_nums), self.silent)
        # The original's hit counter (S scales, V codes), under its name: a running mean of hits per batch.
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(len(patch_nums), cfg.vocab_size))

    @property
    def side(self) -> int:
        """P, the side of f_hat."""
        return self.patch_nums[-1]

    # --------------------------------------------------------------------------------------------------- the recursion

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the L2-nearest code of each vector: (N, Cz) -> (N,). |v|^2 is common to all codes."""
        codes = self.embedding.weight.detach().float()
        distances: Tensor = torch.addmm(codes.square().sum(1), vectors.float(), codes.T, alpha=-2)
        return distances.argmin(1)

    def code_map(self, k: int, indices: Tensor) -> Tensor:
        """(B, p_k * p_k) indices -> (B, Cz, p_k, p_k) codes."""
        codes: Tensor = self.embedding(indices).mT
        return codes.reshape(*codes.shape[:2], self.patch_nums[k], self.patch_nums[k])

    def blank(self, like: Tensor) -> Tensor:
        """f_hat before the first scale: zeros (B, Cz, P, P) for the batch and device of `like`."""
        return like.new_zeros(like.shape[0], self.embedding.embedding_dim, self.side, self.side, dtype=torch.float32)

    def add(self, k: int, f_hat: Tensor, codes: Tensor) -> Tensor:
        """f_hat_k from f_hat_{k-1} (B, Cz, P, P) and the code map of scale k (B, Cz, p_k, p_k)."""
        if k in self.silent:
            return f_hat
        h: Tensor = self.quant_resi(k, bicubic(codes, self.side))
        return f_hat + h if self.reading != "independent" else h

    def next_map(self, k: int, f_hat: Tensor, codes: Tensor) -> Tensor:
        """Input of the transformer at scale k + 1 (B, Cz, p_{k+1}, p_{k+1}), once scale k is known."""
        side = self.patch_nums[k + 1]
        return bicubic(codes, side) if self.reading == "independent" else area(f_hat, side)

    # ------------------------------------------------------------------------------------------------- whole pyramids

    def quantise(
        self, latents: list[Tensor], bypass: Tensor | None = None, silent: Collection[int] | None = None
    ) -> Quantised:
        """Code the targets z_k (B, Cz, p_k, p_k) of all scales.

        Where `bypass` (B,) bool is true, the f_hats returned are the latents themselves (see TokenizerLossConfig).
        `silent` names the scales to leave out, if not this quantiser's own: the alias residual's, coded by Q_L.
        """
        silent = self.silent if silent is None else silent
        with torch.autocast(latents[0].device.type, enabled=False):
            targets = [z.float() for z in latents]
            f_hat = self.blank(targets[0])
            indices: list[Tensor] = []
            f_hats: list[Tensor] = []
            residuals: list[Tensor] = []
            commitment: list[Tensor] = []
            codebook: list[Tensor] = []
            for k, (z, side) in enumerate(zip(targets, self.patch_nums, strict=True)):
                if k in silent:
                    indices.append(torch.zeros(len(z), side * side, dtype=torch.int64, device=z.device))
                    residuals.append(z.new_empty(0, z.shape[1]))
                    f_hats.append(f_hats[-1] if f_hats else f_hat)
                    continue
                rest = z if self.reading == "independent" else z - area(f_hat, side)
                vectors = rest.detach().movedim(1, -1).flatten(0, 2)  # (B * p_k * p_k, Cz)
                index = self.nearest(vectors).view(z.shape[0], side * side)
                f_hat = self.add(k, f_hat, self.code_map(k, index))
                # VAR compares every prefix with the whole latent map, ours with the focus state it stands for.
                goal, made = (targets[-1], f_hat) if self.reading == "latent_area" else (z, area(f_hat, side))
                commitment.append(F.mse_loss(goal, made.detach()))
                codebook.append(F.mse_loss(made, goal.detach()))
                through = targets[-1] if self.reading == "latent_area" else bicubic(z, self.side)
                straight = f_hat.detach() + through - through.detach()
                f_hats.append(
                    straight if bypass is None else torch.where(bypass[:, None, None, None], through, straight)
                )
                indices.append(index)
                residuals.append(vectors)
            none = [] if commitment else [f_hat.new_zeros(())]
            losses = (torch.stack(commitment + none).mean(), torch.stack(codebook + none).mean())
            return Quantised(indices, f_hats, residuals, *losses)

    def f_hats(self, indices: list[Tensor]) -> list[Tensor]:
        """f_hat after each of the given scales (all, or the first few)."""
        f_hat, made = self.blank(indices[0]), []
        for k, index in enumerate(indices):
            f_hat = self.add(k, f_hat, self.code_map(k, index))
            made.append(f_hat)
        return made

    def var_input(self, indices: list[Tensor]) -> Tensor:
        """Teacher-forced input of the transformer: the next maps of scales 1..K-1, (B, L - p_1 ** 2, Cz)."""
        maps = [
            self.next_map(k, f_hat, self.code_map(k, indices[k])).flatten(2).mT
            for k, f_hat in enumerate(self.f_hats(indices[: len(self.patch_nums) - 1]))
        ]
        empty = self.blank(indices[0])[:, :, :0, :0].flatten(2).mT  # a single scale has no input but its start token
        return torch.cat([empty, *maps], dim=1)

    @torch.no_grad()
    def record_hits(self, indices: list[Tensor], decay: float = 0.99) -> None:
        """Update the running mean of hits per code and scale, of the codes chosen at each (N_k,)."""
        for hits, index in zip(self.ema_vocab_hit_SV, indices, strict=True):
            chosen = index.flatten()  # counted without `bincount`, which waits for the highest of them
            counts = torch.zeros_like(hits).index_add_(0, chosen, torch.ones_like(chosen, dtype=hits.dtype))
            hits.lerp_(counts, 1 - decay)
