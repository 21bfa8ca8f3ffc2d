"""VAR and M-VAR once more, literally: the networks of a golden file in float64, from state dicts and nothing of fvar.

Written from tests/golden/README.md, for files of other shapes than the original's. Interpolation, averaging, attention
and normalisation are spelled out; attention runs over the whole sequence under a dense mask, sampling recomputes it
from the start for every scale. Only convolution, matrix products and the nonlinearities are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """What the weights do not tell."""

    patch_nums: tuple[int, ...]
    heads: int
    l2_norm: bool
    norm_eps: float


# ---------------------------------------------------------------------------------------------------------- resampling


def area_matrix(size: int, side: int) -> Tensor:
    """(side, size): row i averages the pixels that cell i touches."""
    rows = torch.zeros(side, size, dtype=torch.float64)
    for i in range(side):
        first, last = math.floor(i * size / side), math.ceil((i + 1) * size / side)
        rows[i, first:last] = 1 / (last - first)
    return rows


def bicubic_matrix(size: int, side: int) -> Tensor:
    """(side, size): Keys' kernel with a = -0.75 at half-pixel centres, borders repeated."""

    def kernel(t: float) -> float:
        t, a = abs(t), -0.75
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        return near if t <= 1 else a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    rows = torch.zeros(side, size, dtype=torch.float64)
    for i in range(side):
        centre = (i + 0.5) * size / side - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            rows[i, min(max(j, 0), size - 1)] += kernel(centre - j)
    return rows


def resample(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ih,bchw,jw->bcij", matrix, x, matrix)


def area(x: Tensor, side: int) -> Tensor:
    return resample(area_matrix(x.shape[-1], side), x)


def bicubic(x: Tensor, side: int) -> Tensor:
    return x if x.shape[-1] == side else resample(bicubic_matrix(x.shape[-1], side), x)


# --------------------------------------------------------------------------------------------------------- autoencoder


def conv(w: State, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w[f"{name}.bias"], stride, padding if weight.shape[-1] == 3 else 0)


def group_norm(w: State, name: str, x: Tensor) -> Tensor:
    grouped = x.reshape(len(x), 32, -1)
    grouped = (grouped - grouped.mean(-1, keepdim=True)) / (grouped.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    return grouped.reshape(x.shape) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def swish_norm(w: State, name: str, x: Tensor) -> Tensor:
    x = group_norm(w, name, x)
    return x * torch.sigmoid(x)


def residual(w: State, name: str, x: Tensor) -> Tensor:
    h = conv(w, f"{name}.conv1", swish_norm(w, f"{name}.norm1", x))
    h = conv(w, f"{name}.conv2", swish_norm(w, f"{name}.norm2", h))
    return h + (conv(w, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in w else x)


def spatial_attention(w: State, name: str, x: Tensor) -> Tensor:
    q, k, v = conv(w, f"{name}.qkv", group_norm(w, f"{name}.norm", x)).flatten(2).chunk(3, dim=1)  # (B, C, HW)
    weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(q.shape[1]), dim=-1)
    return x + conv(w, f"{name}.proj_out", torch.einsum("bnm,bcm->bcn", weights, v).reshape(x.shape))


def level(w: State, name: str, x: Tensor) -> Tensor:
    i = 0
    while f"{name}.block.{i}.conv1.weight" in w:
        x = residual(w, f"{name}.block.{i}", x)
        if f"{name}.attn.{i}.qkv.weight" in w:
            x = spatial_attention(w, f"{name}.attn.{i}", x)
        i += 1
    return x


def middle(w: State, name: str, x: Tensor) -> Tensor:
    x = residual(w, f"{name}.block_1", x)
    return residual(w, f"{name}.block_2", spatial_attention(w, f"{name}.attn_1", x))


def count_levels(w: State) -> int:
    return sum(key.endswith(".block.0.conv1.weight") for key in w if key.startswith("encoder.down."))


def encode(w: State, image: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, Cz, P, P)."""
    x = conv(w, "encoder.conv_in", image)
    for i in range(count_levels(w)):
        x = level(w, f"encoder.down.{i}", x)
        if f"encoder.down.{i}.downsample.conv.weight" in w:
            x = conv(w, f"encoder.down.{i}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
    x = conv(w, "encoder.conv_out", swish_norm(w, "encoder.norm_out", middle(w, "encoder.mid", x)))
    return conv(w, "quant_conv", x)


def decode(w: State, f_hat: Tensor) -> Tensor:
    """(B, Cz, P, P) -> (B, 3, H, W), clamped to [-1, 1]."""
    x = middle(w, "decoder.mid", conv(w, "decoder.conv_in", conv(w, "post_quant_conv", f_hat)))
    for i in reversed(range(count_levels(w))):
        x = level(w, f"decoder.up.{i}", x)
        if f"decoder.up.{i}.upsample.conv.weight" in w:
            doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = conv(w, f"decoder.up.{i}.upsample.conv", doubled)
    return conv(w, "decoder.conv_out", swish_norm(w, "decoder.norm_out", x)).clamp(-1, 1)


# ----------------------------------------------------------------------------------------------------------- quantiser


def contribution(w: State, k: int, tokens: Tensor, patch_nums: Sequence[int]) -> Tensor:
    """What the tokens of scale k (B, p_k^2) add to f_hat: phi_k(up(codes))."""
    count = sum(key.startswith("quantize.quant_resi.") and key.endswith("weight") for key in w)
    margin = 1 / 3 / count if count == 4 else 1 / 2 / count
    ticks = np.linspace(margin, 1 - margin, count)
    choice = int(np.argmin(np.abs(ticks - k / (len(patch_nums) - 1))))
    side = patch_nums[k]
    codes = w["quantize.embedding.weight"][tokens].transpose(1, 2).reshape(len(tokens), -1, side, side)
    h = bicubic(codes, patch_nums[-1])
    names = (f"qresi_ls.{choice}", "qresi", f"{choice}")  # some shared by the scales, one for all, one for each
    phi = next(name for name in names if f"quantize.quant_resi.{name}.weight" in w)
    return 0.5 * h + 0.5 * conv(w, f"quantize.quant_resi.{phi}", h)


def quantise(w: State, f: Tensor, patch_nums: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """Tokens of every scale and f_hat of latents f (B, Cz, P, P)."""
    rest, f_hat, tokens = f, torch.zeros_like(f), []
    for k, side in enumerate(patch_nums):
        vectors = area(rest, side).flatten(2).transpose(1, 2)  # (B, p_k^2, Cz)
        distances = (vectors[:, :, None] - w["quantize.embedding.weight"]).square().sum(-1)
        tokens.append(distances.argmin(-1))
        h = contribution(w, k, tokens[-1], patch_nums)
        f_hat, rest = f_hat + h, rest - h
    return tokens, f_hat


def inputs(w: State, tokens: Sequence[Tensor], patch_nums: Sequence[int]) -> tuple[Tensor, Tensor]:
    """var_input of the scales after the given ones, as far as there are any, and f_hat after them."""
    channels, side = w["quantize.embedding.weight"].shape[1], patch_nums[-1]
    f_hat, maps = torch.zeros(len(tokens[0]), channels, side, side, dtype=torch.float64), []
    for k, given in enumerate(tokens):
        f_hat = f_hat + contribution(w, k, given, patch_nums)
        maps += [area(f_hat, side).flatten(2).transpose(1, 2) for side in patch_nums[k + 1 : k + 2]]
    return torch.cat(maps, dim=1), f_hat


# --------------------------------------------------------------------------------------------------------- transformer


def linear(w: State, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(x: Tensor, eps: float) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()


def modulations(w: State, name: str, condition: Tensor, count: int) -> list[Tensor]:
    silu = condition * torch.sigmoid(condition)
    return list(linear(w, f"{name}.ada_lin.1", silu)[:, None].chunk(count, dim=-1))


def block_modulations(w: State, name: str, condition: Tensor, count: int) -> list[Tensor]:
    """A block's own linear layer, or the layer all blocks share and the block's offset."""
    if f"{name}.ada_gss" not in w:
        return modulations(w, name, condition, count)
    silu = condition * torch.sigmoid(condition)
    shared = linear(w, "shared_ada_lin.1", silu).reshape(len(condition), 1, count, -1)
    return list((shared + w[f"{name}.ada_gss"]).unbind(2))


def attention(w: State, name: str, x: Tensor, hidden: Tensor, cfg: Settings) -> Tensor:
    bias = torch.cat([w[f"{name}.q_bias"], torch.zeros_like(w[f"{name}.q_bias"]), w[f"{name}.v_bias"]])
    q, k, v = (x @ w[f"{name}.mat_qkv.weight"].T + bias).chunk(3, dim=-1)
    q, k, v = (torch.unflatten(t, -1, (cfg.heads, -1)) for t in (q, k, v))  # (B, L, heads, D)
    if cfg.l2_norm:
        temperature = w[f"{name}.scale_mul_1H11"].clamp(max=math.log(100)).exp().reshape(cfg.heads, 1)
        q, k = q / q.norm(dim=-1, keepdim=True) * temperature, k / k.norm(dim=-1, keepdim=True)
    else:
        q = q * 0.25 / math.sqrt(q.shape[-1])  # a quarter of the usual: the original's code
    scores = torch.einsum("blhd,bmhd->bhlm", q, k).masked_fill(hidden, -math.inf)
    return linear(w, f"{name}.proj", torch.einsum("bhlm,bmhd->blhd", torch.softmax(scores, -1), v).flatten(2))


def mamba(w: State, name: str, x: Tensor) -> Tensor:
    """Mamba-2, one token after another, from a state of zeros; all sizes are read off the weights."""
    taps, decay, skip = w[f"{name}.conv1d.weight"], -torch.exp(w[f"{name}.A_log"]), w[f"{name}.D"]
    inner, heads = w[f"{name}.norm.weight"].shape[0], len(decay)
    n = (taps.shape[0] - inner) // 2
    z, mixed, dt = (x @ w[f"{name}.in_proj.weight"].T).split([inner, inner + 2 * n, heads], dim=-1)
    dt = torch.log1p(torch.exp(dt + w[f"{name}.dt_bias"]))
    state, outputs = torch.zeros(len(x), heads, inner // heads, n, dtype=x.dtype), []
    for t in range(x.shape[1]):
        total = w[f"{name}.conv1d.bias"]
        for back in range(min(taps.shape[-1], t + 1)):
            total = total + taps[:, 0, taps.shape[-1] - 1 - back] * mixed[:, t - back]
        value, b, c = (total * torch.sigmoid(total)).split([inner, n, n], dim=-1)
        value = torch.unflatten(value, 1, (heads, -1))
        state = torch.exp(dt[:, t] * decay)[:, :, None, None] * state
        state = state + torch.einsum("bh,bhp,bn->bhpn", dt[:, t], value, b)
        outputs.append((torch.einsum("bhpn,bn->bhp", state, c) + skip[:, None] * value).flatten(1))
    y = torch.stack(outputs, dim=1) * z * torch.sigmoid(z)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.norm.weight"]
    out: Tensor = y @ w[f"{name}.out_proj.weight"].T
    return out


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def logits(w: State, labels: Tensor, var_input: Tensor | None, cfg: Settings) -> Tensor:
    """Logits (B, n, V) of the first scales: as many tokens as the input (B, n - n_1, Cz) feeds; without, the first."""
    condition = w["class_emb.weight"][labels]
    x = condition[:, None] + w["pos_start"]
    if var_input is not None:
        x = torch.cat([x, linear(w, "word_embed", var_input)], dim=1)
    scale = torch.cat([torch.full((p * p,), k) for k, p in enumerate(cfg.patch_nums)])[: x.shape[1]]
    x = x + w["lvl_embed.weight"][scale] + w["pos_1LC"][:, : x.shape[1]]
    m_var = "blocks.0.mamba.D" in w
    hidden = scale[:, None] != scale[None, :] if m_var else scale[:, None] < scale[None, :]
    depth = sum(key.endswith(".attn.mat_qkv.weight") for key in w)
    for i in range(depth):
        block = f"blocks.{i}"
        made = block_modulations(w, block, condition, 9 if m_var else 6)
        gamma, factor, shift = (made[part : part + len(made) // 3] for part in range(0, len(made), len(made) // 3))
        normed = layer_norm(x, cfg.norm_eps) * (1 + factor[0]) + shift[0]
        x = x + gamma[0] * attention(w, f"{block}.attn", normed, hidden, cfg)
        if m_var:
            normed = layer_norm(x, cfg.norm_eps) * (1 + factor[1]) + shift[1]
            x = x + gamma[1] * mamba(w, f"{block}.mamba", normed)
        normed = layer_norm(x, cfg.norm_eps) * (1 + factor[-1]) + shift[-1]
        x = x + gamma[-1] * linear(w, f"{block}.ffn.fc2", gelu(linear(w, f"{block}.ffn.fc1", normed)))
    last_scale, last_shift = modulations(w, "head_nm", condition, 2)
    return linear(w, "head", layer_norm(x, cfg.norm_eps) * (1 + last_scale) + last_shift)


def greedy(vae: State, var: State, labels: Tensor, guidance: float, cfg: Settings) -> tuple[Tensor, Tensor]:
    """The likeliest token of every position, scale after scale: tokens (B, L) and images in [0, 1]."""
    free = torch.full_like(labels, len(var["class_emb.weight"]) - 1)
    tokens: list[Tensor] = []
    for k, side in enumerate(cfg.patch_nums):
        var_input = inputs(vae, tokens, cfg.patch_nums)[0] if tokens else None
        t = guidance * k / (len(cfg.patch_nums) - 1)
        mixed = (1 + t) * logits(var, labels, var_input, cfg) - t * logits(var, free, var_input, cfg)
        tokens.append(mixed[:, -side * side :].argmax(-1))
    return torch.cat(tokens, dim=1), (decode(vae, inputs(vae, tokens, cfg.patch_nums)[1]) + 1) / 2


def golden(vae: State, var: State, image: Tensor, labels: Tensor, guidance: float, cfg: Settings) -> dict[str, Tensor]:
    """Every output of a golden file, in float32."""
    vae, var = ({k: v.double() if v.is_floating_point() else v for k, v in w.items()} for w in (vae, var))
    feature = encode(vae, image.double())
    tokens, f_hat = quantise(vae, feature, cfg.patch_nums)
    var_input, _ = inputs(vae, tokens, cfg.patch_nums)
    made = {f"idx.{k}": index for k, index in enumerate(tokens)}
    made |= {"encoder_feature": feature, "f_hat": f_hat, "reconstruction": decode(vae, f_hat), "var_input": var_input}
    made["logits"] = logits(var, labels, var_input, cfg)
    for name, strength in (("cfg", guidance), ("nocfg", 0.0)):
        made[f"tokens_{name}"], made[f"sample_{name}"] = greedy(vae, var, labels, strength, cfg)
    return {f"out.{key}": value.float() if value.is_floating_point() else value for key, value in made.items()}
