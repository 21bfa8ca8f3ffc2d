"""Deployment networks from their state dicts: what a checkpoint is, and whether it is what was expected."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from fvar.config import MambaConfig, Mixer, TransformerConfig, VarConfig
from fvar.errors import UserError
from fvar.machine.weights import load_strictly, some
from fvar.models.var import VAR
from fvar.rundir import RunDir
from fvar.tokenizer.vqvae import VQVAE

MODEL_FILE = "model.safetensors"  # in a var run directory: the student under the original's keys
MAMBA = "blocks.0.mamba.A_log"  # a tensor that only M-VAR has
NAMES: dict[Mixer, str] = {"var": "a VAR", "mvar": "an M-VAR"}


@dataclass(frozen=True)
class VarShape:
    """Everything about a VAR that the shapes of its weights tell."""

    depth: int
    width: int
    heads: int  # 0 where the weights do not tell: without l2-normalised attention, whose temperatures are per head
    mlp_ratio: float
    attn_l2_norm: bool
    shared_aln: bool
    mixer: Mixer
    mamba: MambaConfig | None  # of mixer mvar
    num_classes: int
    vocab_size: int
    z_channels: int
    patch_nums: tuple[int, ...]

    @classmethod
    def of(cls, state: Mapping[str, Tensor], where: str) -> VarShape:
        """Read the shape off a state dict that came from `where`. Raises `UserError` if it is no VAR's."""
        try:
            vocab_size, width = state["head.weight"].shape
            depth = sum(key.endswith(".attn.mat_qkv.weight") for key in state)
            scale_mul = state.get("blocks.0.attn.scale_mul_1H11")  # only with l2-normalised attention
            sizes = torch.bincount(state["lvl_1L"].flatten()).tolist()
            return cls(
                depth=depth,
                width=width,
                heads=0 if scale_mul is None else scale_mul.numel(),
                mlp_ratio=state["blocks.0.ffn.fc1.weight"].shape[0] / width,
                attn_l2_norm=scale_mul is not None,
                shared_aln="shared_ada_lin.1.weight" in state,
                mixer="mvar" if MAMBA in state else "var",
                mamba=_mamba(state, width) if MAMBA in state else None,
                num_classes=state["class_emb.weight"].shape[0] - 1,
                vocab_size=vocab_size,
                z_channels=state["word_embed.weight"].shape[1],
                patch_nums=tuple(math.isqrt(size) for size in sizes),
            )
        except KeyError as error:
            raise UserError(f"{where} is no VAR checkpoint: expected a tensor {error}, found {some(state)}") from None

    @classmethod
    def configured(cls, cfg: TransformerConfig, num_classes: int, vqvae: VQVAE) -> VarShape:
        """The shape of a VAR for this tokenizer."""
        tokenizer = (num_classes, vqvae.vocab_size, vqvae.z_channels, vqvae.patch_nums)
        heads, mamba = cfg.num_heads if cfg.attn_l2_norm else 0, cfg.mamba if cfg.mixer == "mvar" else None
        form = (cfg.depth, cfg.dim, heads, cfg.mlp_ratio, cfg.attn_l2_norm, cfg.shared_aln, cfg.mixer, mamba)
        return cls(*form, *tokenizer)

    def transformer(self, heads: int = 0) -> TransformerConfig:
        """A configuration of this shape; what the weights do not tell keeps its default, or is `heads`."""
        return TransformerConfig(
            depth=self.depth,
            width=self.width,
            heads=self.heads or heads,
            mlp_ratio=self.mlp_ratio,
            attn_l2_norm=self.attn_l2_norm,
            shared_aln=self.shared_aln,
            mixer=self.mixer,
            mamba=self.mamba or MambaConfig(),
        )

    def require_mixer(self, expected: Mixer, where: str) -> None:
        """Raise `UserError` where the weights at `where` are M-VAR's and VAR's are expected, or the other way round."""
        if self.mixer != expected:
            raise UserError(
                f"{where} holds {NAMES[self.mixer]} (transformer.mixer {self.mixer}) where {NAMES[expected]} "
                f"(transformer.mixer {expected}) is expected"
            )


def _mamba(state: Mapping[str, Tensor], width: int) -> MambaConfig:
    """The sizes of the first block's Mamba-2."""
    inner, heads = state["blocks.0.mamba.norm.weight"].numel(), state[MAMBA].numel()
    mixed, _, d_conv = state["blocks.0.mamba.conv1d.weight"].shape
    return MambaConfig((mixed - inner) // 2, d_conv, inner // width, inner // heads)


def new_var(shape: VarShape, cfg: TransformerConfig, state: Mapping[str, Tensor], where: str) -> VAR:
    """A VAR of this shape with these weights, loaded strictly, in eval mode. Raises `UserError` if they do not fit."""
    var = VAR(cfg, shape.num_classes, shape.vocab_size, shape.z_channels, shape.patch_nums)
    load_strictly(var, state, where)
    return var.eval()


def build_var(state: Mapping[str, Tensor], cfg: TransformerConfig, vqvae: VQVAE, where: str) -> VAR:
    """The VAR of a state dict, loaded strictly, in eval mode, where it is what is configured.

    Parameters
    ----------
    cfg
        The configuration the weights should fit; the number of classes is taken from the weights.
    vqvae
        The tokenizer it should fit.
    where
        Where the state dict came from, for error messages.

    Raises
    ------
    UserError
        In one line, which of mixer, depth, width, heads, scales, vocabulary ... was expected and found.
    """
    found = VarShape.of(state, where)
    found.require_mixer(cfg.mixer, where)
    expected = VarShape.configured(cfg, found.num_classes, vqvae)
    wrong = [
        f"{name} {getattr(expected, name)}, found {getattr(found, name)}"
        for name in VarShape.__dataclass_fields__
        if getattr(expected, name) != getattr(found, name)
    ]
    if wrong:
        raise UserError(f"{where} does not fit: expected {'; '.join(wrong)}")
    return new_var(found, cfg, state, where)


def load_var(run: RunDir, vqvae: VQVAE) -> VAR:
    """The student a `var` run directory trained. Raises `UserError` if it holds none or another than configured."""
    config = run.config_as(VarConfig)
    path = run.path / MODEL_FILE
    if not path.exists():
        raise UserError(f"{path} is missing; first: python -m fvar.run {shlex.quote(str(run.path))}")
    return build_var(load_file(path), config.transformer, vqvae, str(path))
