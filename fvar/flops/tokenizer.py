"""FLOPs, parameters and memory of a tokenizer's networks, layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from fvar.config import AutoencoderConfig, QuantiserConfig, Signal
from fvar.flops.part import Part

COARSE_IMAGES = 0.25  # blurred views that a focus tokenizer decodes per image
Layers = list[tuple[float, float, float]]  # per layer: parameters, FLOPs, numbers in its output


@functools.cache
def coder(
    signal: Signal, auto: AutoencoderConfig, quantiser: QuantiserConfig, patch_nums: tuple[int, ...]
) -> tuple[Part, ...]:
    """Encoder, quantiser and decoder of one training image."""
    side, z, whole = patch_nums[-1], auto.z_channels, quantiser.reading == "latent_area"
    coded = patch_nums[:-1] if signal == "alias" else patch_nums  # the sharpest residual is zero
    encoded = [side] if whole else coded
    if signal == "alias":
        decoded = [(p, 1.0) for p in coded]
    else:
        decoded = [(side, 1.0 if whole or len(patch_nums) == 1 else 1 + COARSE_IMAGES)]

    look_up = sum(2 * p * p * z * quantiser.vocab_size for p in coded)
    phi_parameters, phi = convolution(z, z, 3, side)
    phis = _phis_used(quantiser.num_phi, len(patch_nums), len(coded))
    codes = quantiser.vocab_size * z if quantiser.codebook == "gradient" else 0
    used = len(coded) * phi
    return (
        _convolutions("encoder", [(_encoder(auto, p), 1.0) for p in encoded]),
        Part("quantiser", phis * phi_parameters + codes, look_up + used, used),
        _convolutions("decoder", [(_decoder(auto, p), times) for p, times in decoded]),
    )


def _phis_used(count: int, scales: int, coded: int) -> int:
    """How many phi the first `coded` of the scales use; see `fvar.tokenizer.quantiser.SharedPhi`."""
    if not count:
        return coded
    margin = (1 / 3 if count == 4 else 1 / 2) / count
    ticks = [margin + (1 - 2 * margin) * i / max(count - 1, 1) for i in range(count)]
    places = [k / max(scales - 1, 1) for k in range(coded)]
    return len({min(range(count), key=lambda i: abs(ticks[i] - place)) for place in places})


def _convolutions(name: str, runs: Sequence[tuple[Layers, float]]) -> Part:
    """One network applied to several sizes, each a number of times per image."""
    forward = sum(times * flops for layers, times in runs for _, flops, _ in layers)
    kept = sum(times * 2 * out for layers, times in runs for _, _, out in layers)  # input of the norm and of the layer
    return Part(name, sum(layer[0] for layer in runs[0][0]), forward, 2 * forward, kept)


def convolution(channels_in: int, channels_out: int, kernel: int, side: int) -> tuple[int, int]:
    """Parameters and FLOPs of a convolution whose output is side x side."""
    weights = channels_in * channels_out * kernel * kernel
    return weights + channels_out, 2 * side * side * weights


def _layer(channels_in: int, channels_out: int, kernel: int, side: int, norm: int = 0) -> Layers:
    """A convolution, with a group normalisation over `norm` channels before it."""
    parameters, flops = convolution(channels_in, channels_out, kernel, side)
    return [(parameters + 2 * norm, flops, channels_out * side * side)]


def _doubling(width: int, side: int) -> Layers:
    """A 3x3 convolution of doubled pixels, computed as a 4x4 transposed one of the `side` x `side` map."""
    parameters, _ = convolution(width, width, 3, side)
    return [(parameters, 2 * side * side * 16 * width * width, 4 * width * side * side)]


def _resnet(a: int, b: int, side: int) -> Layers:
    shortcut = _layer(a, b, 1, side) if a != b else []
    return _layer(a, b, 3, side, norm=a) + _layer(b, b, 3, side, norm=b) + shortcut


def _attention(width: int, side: int) -> Layers:
    product = (0, 4 * side**4 * width, width * side * side)
    return [*_layer(width, 3 * width, 1, side, norm=width), product, *_layer(width, width, 1, side)]


def _middle(cfg: AutoencoderConfig, width: int, side: int) -> Layers:
    return _resnet(width, width, side) * 2 + (_attention(width, side) if cfg.attention else [])


def _encoder(cfg: AutoencoderConfig, p: int) -> Layers:
    """Encoder and quant_conv, from an image of side f*p to p x p latents."""
    width, side = cfg.ch, p * cfg.downsample_factor // cfg.patch
    layers = _layer(3 * cfg.patch**2, width, 3, side)
    for multiple in cfg.ch_mult:
        channels, lowest = cfg.ch * multiple, side == p
        for _ in range(cfg.num_res_blocks):
            layers += _resnet(width, channels, side) + (_attention(channels, side) if cfg.attention and lowest else [])
            width = channels
        if not lowest:
            side //= 2
            layers += _layer(width, width, 3, side)
    z = cfg.z_channels
    return layers + _middle(cfg, width, p) + _layer(width, z, 3, p, norm=width) + _layer(z, z, 3, p)


def _decoder(cfg: AutoencoderConfig, p: int) -> Layers:
    """post_quant_conv and decoder, from p x p latents to an image of side f*p."""
    width, side, z = cfg.ch * cfg.ch_mult[-1], p, cfg.z_channels
    layers = _layer(z, z, 3, p) + _layer(z, width, 3, p) + _middle(cfg, width, p)
    for number, multiple in reversed(list(enumerate(cfg.ch_mult))):
        channels = cfg.ch * multiple
        for _ in range(cfg.num_res_blocks + 1):
            layers += _resnet(width, channels, side) + (
                _attention(channels, side) if cfg.attention and side == p else []
            )
            width = channels
        if number:
            layers += _doubling(width, side)
            side *= 2
    return layers + _layer(width, 3 * cfg.patch**2, 3, side, norm=width)
