"""VAR written the plain way, to be measured against, on the parameters of an `fvar.models.var.VAR`.

A dense mask over the whole sequence, a cache that grows by concatenation, float32, the decoder on the whole batch.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.models.attention import SelfAttention
from fvar.models.blocks import Block
from fvar.models.var import VAR
from fvar.tokenizer.autoencoder import Level, ResnetBlock, Upsample
from fvar.tokenizer.vqvae import VQVAE

Cache = list[tuple[Tensor, Tensor]]


def norm(x: Tensor, var: VAR) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=var.cfg.norm_eps)


def attention(block: Block, x: Tensor, mask: Tensor | None, cache: Cache | None, index: int) -> Tensor:
    """Self-attention (B, L, C) with a dense additive mask (1, 1, L, L), or over a concatenated cache."""
    attn = block.attn
    bias = torch.cat([attn.q_bias, attn.zero_k_bias, attn.v_bias])
    qkv = F.linear(x, attn.mat_qkv.weight, bias).view(*x.shape[:2], 3, attn.heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q = F.normalize(q, dim=-1) * attn.scale_mul_1H11.clamp_max(math.log(100)).exp()
    k = F.normalize(k, dim=-1)
    if cache is not None:
        if len(cache) > index:
            k, v = torch.cat([cache[index][0], k], dim=2), torch.cat([cache[index][1], v], dim=2)
            cache[index] = (k, v)
        else:
            cache.append((k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    projected: Tensor = attn.proj(out.transpose(1, 2).reshape(x.shape))
    return projected


def run_blocks(var: VAR, x: Tensor, condition: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
    for index, block in enumerate(var.layers):
        gamma1, gamma2, scale1, scale2, shift1, shift2 = block.ada_lin(condition)
        x = x + gamma1 * attention(block, norm(x, var) * (1 + scale1) + shift1, mask, cache, index)
        x = x + gamma2 * block.ffn(norm(x, var) * (1 + scale2) + shift2)
    scale, shift = var.head_nm.ada_lin(condition)
    logits: Tensor = var.head(norm(x, var) * (1 + scale) + shift)
    return logits


def forward(var: VAR, labels: Tensor, var_input: Tensor) -> Tensor:
    """Teacher-forced logits (B, L, V)."""
    condition = var.class_emb(labels)
    x = torch.cat([condition[:, None] + var.pos_start, var.word_embed(var_input)], dim=1)
    x = x + var.lvl_embed(var.lvl_1L) + var.pos_1LC
    return run_blocks(var, x, condition, var.attn_bias_for_masking, None)


@torch.no_grad()
def sample(var: VAR, vqvae: VQVAE, labels: Tensor, guidance: float, top_k: int, top_p: float) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1]."""
    batch, last = len(labels), len(var.patch_nums) - 1
    condition = var.class_emb(torch.cat([labels, torch.full_like(labels, var.num_classes)]))
    x, cache, f_hat, position = condition[:, None] + var.pos_start, Cache(), vqvae.quantize.blank(labels), 0
    for k, side in enumerate(var.patch_nums):
        here = slice(position, position + side * side)
        x = x + var.lvl_embed(var.lvl_1L[:, here]) + var.pos_1LC[:, here]
        conditional, free = run_blocks(var, x, condition, None, cache).chunk(2)
        t = guidance * k / last
        logits = (1 + t) * conditional - t * free
        least = logits.topk(top_k, sorted=False).values.amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < least, -torch.inf)
        ranked, order = logits.sort(descending=False)
        drop = ranked.softmax(-1).cumsum(-1) <= 1 - top_p
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
        tokens = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1).view(batch, side * side)
        with torch.autocast(labels.device.type, enabled=False):  # f_hat adds up in float32, whatever the rest is in
            f_hat, next_map = vqvae.next_input(k, f_hat, vqvae.quantize.code_map(k, tokens))
        position += side * side
        if next_map is not None:
            x = var.word_embed(next_map.flatten(2).mT).repeat(2, 1, 1)
    return decode(vqvae, f_hat)


@torch.no_grad()
def decode(vqvae: VQVAE, f_hat: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], the whole batch at once, channels outermost, pixels doubled first."""
    decoder = vqvae.decoder
    h = resnet(decoder.mid.block_1, decoder.conv_in(vqvae.post_quant_conv(f_hat)))
    h = resnet(decoder.mid.block_2, decoder.mid.attn_1(h))
    for level in reversed(list(decoder.up)):
        assert isinstance(level, Level)
        for i, block in enumerate(level.block):
            assert isinstance(block, ResnetBlock)
            h = resnet(block, h)
            if len(level.attn):
                h = level.attn[i](h)
        if isinstance(level.upsample, Upsample):
            h = level.upsample.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
    images: Tensor = decoder.conv_out(F.silu(decoder.norm_out(h), inplace=True))
    return images.clamp(-1, 1)


def resnet(block: ResnetBlock, x: Tensor) -> Tensor:
    h = block.conv1(F.silu(block.norm1(x), inplace=True))
    h = block.conv2(F.silu(block.norm2(h), inplace=True))
    out: Tensor = block.nin_shortcut(x) + h
    return out


# ------------------------------------------------------------------------------------------------------------- M-VAR


def sequential_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Mamba-2's recurrence, one token after another: what `fvar.models.mamba.chunked` computes."""
    y = []
    for t in range(x.shape[1]):
        decay, step = (dt[:, t] * a).exp()[..., None, None], dt[:, t, :, None] * x[:, t]
        state = decay * state + step[..., None] * b[:, t, None, None, :]
        y.append(torch.einsum("bhpn,bn->bhp", state, c[:, t]))
    return torch.stack(y, dim=1), state


@torch.no_grad()
def logits_without_memory(var: VAR, labels: Tensor, var_input: Tensor, *, padded: bool) -> Tensor:
    """Logits (B, L, V) scale by scale, every scale by a run over the sequence: of all tokens so far, or the whole."""
    first, logits = var.scale_ends[0], []
    for start, end in pairwise((0, *var.scale_ends)):
        if padded:
            known = F.pad(var_input[:, : end - first], (0, 0, 0, var.scale_ends[-1] - end))
            logits.append(var(labels, known).logits[:, start:end])
        else:
            logits.append(_prefix(var, labels, var_input, end)[:, start:end])
    return torch.cat(logits, dim=1)


def _prefix(var: VAR, labels: Tensor, var_input: Tensor, end: int) -> Tensor:
    """Logits of the first `end` tokens, as if the scales after them did not exist."""
    x, condition = var.embed(labels, var_input)
    x = x[:, :end]
    for block in var.layers:
        for mixer in block.mixers:
            if isinstance(mixer, SelfAttention):
                mixer.scale_ends = tuple(e for e in var.scale_ends if e <= end)
        x = block(x, block.modulate(condition))
    for block in var.layers:
        block.attn.scale_ends = var.scale_ends
    return var.classify(x, condition)
