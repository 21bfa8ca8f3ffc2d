"""Convolutional encoder and decoder of the tokenizer: VQGAN's design in the original VAR's shape and parameter names.

Both are fully convolutional: an image of f*p px gives a map of p x p latents for every p, where f = 2 ** (levels - 1).
That is what lets one encoder serve all focus states. Level 0 is the image's resolution, the last level the latents'.

Where `patch` is more than 1, level 0 takes squares of patch x patch px as one, their 3 * patch ** 2 values as channels
(f is then patch times as large): on a CPU the maps near the image cost most of the time, and a square's pixels come out
of one layer, where doublings would have to tell them apart by their neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvar.config import AutoencoderConfig


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group normalisation with the most groups that divide `channels` and `groups`; eps as in VQGAN."""
    return nn.GroupNorm(math.gcd(channels, groups), channels, eps=1e-6)


def swish(x: Tensor) -> Tensor:
    """SiLU of a tensor nobody else reads: in place where no backward pass will want it.

    The maps near the image are so large that the memory they are written to costs as much as the arithmetic.
    """
    return F.silu(x, inplace=not torch.is_grad_enabled())


def initialise(*parts: nn.Module) -> None:
    """Start the convolutions of `parts` as a linear autoencoder: signal-preserving, every residual branch silent.

    torch's default shrinks the signal by 3 with every convolution until the biases drown it; ours learns colours and
    shapes in a third of the steps.
    """
    for part in parts:
        for name, module in part.named_modules():
            if isinstance(module, nn.Conv2d):
                silent = name.endswith(("conv2", "proj_out"))
                nn.init.normal_(module.weight, std=0.0 if silent else module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class ResnetBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 shortcut where the number of channels changes."""

    def __init__(self, cfg: AutoencoderConfig, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in, cfg.norm_groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out, cfg.norm_groups)
        self.dropout = nn.Dropout(cfg.dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.nin_shortcut: nn.Module = (
            nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(self.dropout(swish(self.norm2(h))))
        shortcut: Tensor = self.nin_shortcut(x)
        out: Tensor = shortcut + h if torch.is_grad_enabled() else h.add_(shortcut)
        return out


class SelfAttention(nn.Module):
    """Single-head self-attention over all positions of a feature map, added to its input."""

    def __init__(self, cfg: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, cfg.norm_groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).mT  # (B, H*W, 3*C)
        q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)  # (B, 1 head, H*W, C)
        h = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + self.proj_out(h.mT.reshape(x.shape))  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Halves the side by a strided convolution padded on the right and at the bottom only, as in VQGAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Doubles the side by repeating pixels, then convolves with 3x3.

    Computed as one transposed convolution of stride 2. Of the 3x3 taps of an output pixel several fall onto the same
    input pixel: summed beforehand they are 2x2, so it takes 4 products for 9, and no larger map in between.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, doubling_kernel(self.conv.weight), self.conv.bias, stride=2, padding=1)


def doubling_kernel(weight: Tensor) -> Tensor:
    """Of a 3x3 convolution (O, I, 3, 3) after pixels were doubled, the kernel (I, O, 4, 4) as a transposed convolution.

    It is the turned kernel convolved with the 2x2 ones that a pixel is doubled by.
    """
    turned = weight.flip(2, 3).transpose(0, 1)
    rows = F.pad(turned, (0, 0, 0, 1)) + F.pad(turned, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


class Level(nn.Module):
    """The blocks of one resolution; `block`, `attn`, `downsample` and `upsample` are the original's parameter names."""

    def __init__(self, cfg: AutoencoderConfig, channels: list[int], *, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(cfg, a, b) for a, b in itertools.pairwise(channels))
        self.attn = nn.ModuleList(SelfAttention(cfg, c) for c in channels[1:] if attention)
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))  # type: ignore[no-any-return]


class Middle(nn.Module):
    """Two residual blocks around self-attention at the latents' resolution."""

    def __init__(self, cfg: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(cfg, channels, channels)
        self.attn_1: nn.Module = SelfAttention(cfg, channels) if cfg.attention else nn.Identity()
        self.block_2 = ResnetBlock(cfg, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))  # type: ignore[no-any-return]


def _widths(cfg: AutoencoderConfig) -> Iterator[tuple[int, int, bool]]:
    """(level, channels, whether it is the lowest resolution) from the image's level down."""
    for level, multiple in enumerate(cfg.ch_mult):
        yield level, cfg.ch * multiple, level == len(cfg.ch_mult) - 1


class Encoder(nn.Module):
    """(B, 3, f*p, f*p) images -> (B, z_channels, p, p) latents."""

    def __init__(self, cfg: AutoencoderConfig) -> None:
        super().__init__()
        self.patch = cfg.patch
        self.conv_in = nn.Conv2d(3 * cfg.patch**2, cfg.ch, 3, padding=1)
        self.down = nn.ModuleList()
        width = cfg.ch
        for _, channels, lowest in _widths(cfg):
            level = Level(cfg, [width] + [channels] * cfg.num_res_blocks, attention=cfg.attention and lowest)
            if not lowest:
                level.downsample = Downsample(channels)
            self.down.append(level)
            width = channels
        self.mid = Middle(cfg, width)
        self.norm_out = group_norm(width, cfg.norm_groups)
        self.conv_out = nn.Conv2d(width, cfg.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        for level in self.down:
            h = level(h)
        return self.conv_out(swish(self.norm_out(self.mid(h))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """(B, z_channels, p, p) latents -> (B, 3, f*p, f*p) images, not clamped."""

    def __init__(self, cfg: AutoencoderConfig) -> None:
        super().__init__()
        width = cfg.ch * cfg.ch_mult[-1]
        self.conv_in = nn.Conv2d(cfg.z_channels, width, 3, padding=1)
        self.mid = Middle(cfg, width)
        levels: list[Level] = []  # from the lowest resolution up; the parameter names count from the image's level
        for number, channels, lowest in reversed(list(_widths(cfg))):
            level = Level(cfg, [width] + [channels] * (cfg.num_res_blocks + 1), attention=cfg.attention and lowest)
            if number:
                level.upsample = Upsample(channels)
            levels.append(level)
            width = channels
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = group_norm(width, cfg.norm_groups)
        self.patch = cfg.patch
        self.conv_out = nn.Conv2d(width, 3 * cfg.patch**2, 3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        """The weight at which VQGAN compares the gradients of its losses."""
        return self.conv_out.weight

    def forward(self, f_hat: Tensor) -> Tensor:
        h = self.mid(self.conv_in(f_hat))
        for level in reversed(list(self.up)):
            h = level(h)
        made: Tensor = self.conv_out(swish(self.norm_out(h)))
        return F.pixel_shuffle(made, self.patch) if self.patch > 1 else made
