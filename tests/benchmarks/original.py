"""The original's own networks, from a checkout of its sources (FoundationVision/VAR), to be timed beside ours.

Nothing of it is copied: its packages are imported from the folder that `--original` names, and built as its training
script builds them. Whoever names the folder runs its code.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import types
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from fvar.errors import UserError
from fvar.models.var import VAR

# Layers whose first values it switches off, for good, to be built faster: all networks after it would start from noise.
SWITCHED_OFF = (
    nn.Linear, nn.LayerNorm, nn.BatchNorm2d, nn.SyncBatchNorm, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d,
    nn.ConvTranspose2d,
)  # fmt: skip


class Original:
    """VAR and its tokenizer as the original builds them, VAR with the weights of `like`; the tokenizer's are noise."""

    def __init__(self, folder: Path, like: VAR, channels: int) -> None:
        build: Callable[..., tuple[Any, Any]] = _models(folder).build_vae_var
        device = like.pos_start.device
        with ExitStack() as stack, redirect_stdout(io.StringIO()):  # it tells its shapes
            for layer in SWITCHED_OFF:
                stack.enter_context(mock.patch.object(layer, "reset_parameters", layer.reset_parameters))
            self.tokenizer, self.var = build(
                device, patch_nums=like.patch_nums, V=like.vocab_size, Cvae=like.z_channels, ch=channels,
                num_classes=like.num_classes, depth=like.cfg.depth,
            )  # fmt: skip
        for parameter in self.tokenizer.parameters():
            nn.init.normal_(parameter, std=0.02)
        self.tokenizer.eval().requires_grad_(False)
        self.var.load_state_dict(like.state_dict())

    def logits(self, labels: Tensor, var_input: Tensor) -> Tensor:
        """Teacher-forced logits (B, L, V), in training mode."""
        out: Tensor = self.var.train()(labels, var_input)
        return out

    @torch.no_grad()
    def code(self, images: Tensor) -> Tensor:
        """Its transformer's input of images (B, 3, H, W), which it computes anew in every step."""
        out: Tensor = self.tokenizer.quantize.idxBl_to_var_input(self.tokenizer.img_to_idxBl(images))
        return out

    def sample(self, labels: Tensor, guidance: float, top_k: int, top_p: float) -> Tensor:
        """Images (B, 3, H, W) in [0, 1]."""
        self.var.eval()
        out: Tensor = self.var.autoregressive_infer_cfg(
            B=len(labels), label_B=labels, g_seed=0, cfg=guidance, top_k=top_k, top_p=top_p
        )
        return out


def require_sources(folder: Path) -> None:
    """Raise `UserError` where the folder does not hold the original's sources."""
    if not (folder / "models" / "var.py").is_file():
        raise UserError(f"--original {folder}: no models/var.py there; name a checkout of FoundationVision/VAR")


def _models(folder: Path) -> Any:
    """Its package `models`."""
    require_sources(folder)
    hub = "huggingface_hub"  # wanted for a class that publishes weights, not for these
    if hub not in sys.modules and importlib.util.find_spec(hub) is None:
        sys.modules[hub] = stand_in = types.ModuleType(hub)
        stand_in.PyTorchModelHubMixin = type("PyTorchModelHubMixin", (), {})  # type: ignore[attr-defined]
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module("models")
