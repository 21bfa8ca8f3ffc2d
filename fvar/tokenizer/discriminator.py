"""PatchGAN: judges overlapping patches of an image instead of the whole (Isola et al. 2017)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from fvar.tokenizer.autoencoder import group_norm

MIN_SIDE = 21  # px; below, the few patches overlap so much that they judge the whole image


class PatchDiscriminator(nn.Module):
    """(B, 3, S, S) -> (B, 1, S/8, S/8) logits, positive where a patch looks real."""

    def __init__(self, ch: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, ch, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for a, b in pairwise((ch, 2 * ch, 4 * ch)):
            # Group instead of batch normalisation: nothing depends on how the batch is cut over ranks.
            layers += [nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False), group_norm(b, 32), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * ch, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]
