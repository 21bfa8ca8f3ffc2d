"""FLOPs, parameters and memory of the transformers: blocks of any kind, classifier, the teacher's cross-attention."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from math import ceil

from fvar.config import Residual, TeacherConfig, TransformerConfig
from fvar.flops.part import Part

CHUNK = 64  # tokens that Mamba-2 takes at a time, as fvar.models.mamba


@functools.cache  # asked for each seed of a plan
def network(
    name: str,
    cfg: TransformerConfig,
    depth: int,
    vocab: int,
    patch_nums: tuple[int, ...],
    embeddings: tuple[int, int] | None,
    *,
    learns: bool,
) -> Part:
    """`depth` blocks and the classifier, with `embeddings` for (classes, latent channels).

    Without, embeddings and classifier are another network's, which only lets a gradient through.
    """
    dim, sizes = cfg.dim, [p * p for p in patch_nums]
    length, first = sum(sizes), sizes[0]
    parts = [_residual(residual, cfg, sizes) for residual in cfg.residuals]
    block_parameters, block, again, kept = (sum(column) for column in zip(*parts, strict=True))
    made = 3 * len(parts) * dim  # modulations of a block
    if cfg.shared_aln:
        block_parameters += made
    else:
        block_parameters, block = block_parameters + made * (dim + 1), block + 2 * made * dim
    head_parameters = 2 * dim * (dim + 1) + vocab * (dim + 1)
    modulation, logits = 4 * dim * dim, 2 * length * dim * vocab
    parameters, forward = depth * block_parameters, depth * block + modulation + logits
    backward, recomputed = 2 * depth * block + logits, depth * again + (depth * block if cfg.checkpointing else 0)
    if embeddings:
        classes, z = embeddings
        parameters += head_parameters + (z + 1) * dim + (classes + 1) * dim + (first + length + len(sizes)) * dim
        embed = 2 * (length - first) * z * dim
        if cfg.shared_aln:
            parameters, modulation = parameters + made * (dim + 1), modulation + 2 * made * dim
            forward += 2 * made * dim
        forward, backward = forward + embed, backward + 2 * modulation + logits + embed  # its input needs no gradient
    kept = depth * (length * dim if cfg.checkpointing else kept) + 5 * length * vocab
    if not learns:
        return Part(f"{name} (frozen)", 0, forward, 0)
    return Part(name, parameters, forward, backward, kept, recomputed)


def _residual(residual: Residual, cfg: TransformerConfig, sizes: Sequence[int]) -> tuple[float, float, float, float]:
    """Of one residual of a block: parameters, FLOPs forward, FLOPs of what is always recomputed, numbers kept.

    Attention and feed-forward keep 17 numbers per channel: Korthikanti et al. 2022, Eq. 1, without the scores.
    """
    dim, length = cfg.dim, sum(sizes)
    if residual == "feed_forward":
        hidden = round(dim * cfg.mlp_ratio)
        return 2 * dim * hidden + hidden + dim, 4 * length * dim * hidden, 0, 11.5 * length * dim
    if residual == "mamba2":
        heads, width, n = cfg.mamba.expand * dim // cfg.mamba.head_dim, cfg.mamba.head_dim, cfg.mamba.d_state
        inner, projected = heads * width, 2 * heads * width + 2 * n + heads
        parameters = dim * projected + (inner + 2 * n) * (cfg.mamba.d_conv + 1) + 3 * heads + inner + inner * dim
        chunks = ceil(length / CHUNK)
        size = ceil(length / chunks)
        scan = 2 * chunks * size * (size * (n + inner) + 2 * n * inner)
        # Kept: the projections' inputs, what they make, and the convolution's input and output.
        return parameters, 2 * length * dim * (projected + inner) + scan, scan, length * (2 * dim + 8 * inner)
    pairs = sum(n * n for n in sizes)  # of query and visible key
    if residual == "prefix_attention":
        pairs = sum(n * end for n, end in zip(sizes, accumulate(sizes), strict=True))
    temperatures = cfg.num_heads if cfg.attn_l2_norm else 0
    return 4 * dim * dim + 3 * dim + temperatures, 8 * length * dim * dim + 4 * pairs * dim, 0, 5.5 * length * dim


@functools.cache
def cross_attention(
    cfg: TransformerConfig, teacher: TeacherConfig, patch_nums: tuple[int, ...], vocab: int, *, learns: bool
) -> Part:
    """AG-XAttn of all `teacher.blocks` and the alias embedding."""
    dim, inner = cfg.dim, teacher.heads * teacher.head_dim
    sizes = [p * p for p in patch_nums]
    heard = [*sizes[:-1], 0]  # the sharpest residual is zero: its tokens are not read
    length, ends = sum(heard), list(accumulate(heard))
    visible = ends if teacher.visibility == "own" else [0, *ends[:-1]]
    spans = list(zip(sizes, visible, strict=True))[-teacher.last_scales :] if teacher.last_scales else None
    spans = [(n, keys) for n, keys in (spans or list(zip(sizes, visible, strict=True))) if keys]
    queries, pairs = sum(n for n, _ in spans), sum(n * keys for n, keys in spans)

    gated = teacher.gate == "sigmoid"
    parameters = teacher.blocks * (2 * dim * inner + 2 * inner * inner + (dim * (inner + 1) if gated else 0))
    parameters += (vocab + len(sizes) + length) * inner
    per_query = (3 if gated else 2) * dim * inner
    forward = teacher.blocks * (2 * queries * per_query + 4 * length * inner * inner + 4 * pairs * inner)
    kept = teacher.blocks * (queries * (3 * dim + 2 * inner) + 2 * length * inner)
    if not learns:
        return Part("AG-XAttn (frozen)", 0, forward, 0)
    return Part("AG-XAttn", parameters, forward, 2 * forward, kept)
