"""Golden files: inputs, weights, and what the original VAR code (FoundationVision/VAR) computes with them.

A safetensors file with `vae.*` and `var.*` (two state dicts under the original's names), `in.image` (B, 3, H, W) in
[-1, 1], `in.label` (B,), the outputs `out.*` listed in TOLERANCES plus `out.idx.K` (token indices of scale K), and a
metadata entry `config` in JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fvar.errors import UserError
from fvar.models.loading import VarShape, build_var
from fvar.sampling import decode, sample
from fvar.tokenizer.loading import build_vqvae

# Largest absolute difference in float32, by the name of an output; tokens and indices must be equal.
TOLERANCES = {
    "encoder_feature": 1e-4,
    "f_hat": 1e-4,
    "reconstruction": 1e-4,
    "var_input": 1e-4,
    "logits": 2e-4,
    "sample_cfg": 1e-3,
    "sample_nocfg": 1e-3,
    "tokens_cfg": 0.0,
    "tokens_nocfg": 0.0,
}


def verify(path: Path) -> int:
    """Print name, largest absolute error and verdict of every output of the file; return 1 if one fails, else 0.

    Raises `UserError` if the file is not of the golden format.
    """
    config, tensors = read_golden(path)
    expected = {key.removeprefix("out."): value for key, value in tensors.items() if key.startswith("out.")}
    computed = recompute(config, tensors, str(path))
    failures = 0
    for name, value in expected.items():
        mine = computed.get(name)
        tolerance = 0.0 if name.startswith("idx.") else TOLERANCES.get(name)
        if mine is None or tolerance is None:
            verdict = "FAIL (an output this version does not know)"
        elif mine.shape != value.shape:
            verdict = f"FAIL (shape expected {list(value.shape)}, found {list(mine.shape)})"
        else:
            error = float((mine.to(torch.float64) - value.to(torch.float64)).abs().max())
            passed = error <= tolerance  # false for nan
            verdict = f"{error:9.2e}  {'pass' if passed else 'FAIL'}  (tolerance {tolerance:g})"
        failures += "FAIL" in verdict
        print(f"{name:16} {verdict}")
    print(f"{len(expected) - failures} of {len(expected)} outputs agree with the original")
    return 1 if failures else 0


def read_golden(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and all tensors of a golden file. Raises `UserError` if it is none."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file ({error})") from None
    try:
        config = json.loads(metadata["config"])
    except (KeyError, json.JSONDecodeError):
        raise UserError(f"{path} has no metadata entry `config` in JSON, which a golden file has") from None
    missing = [name for name in ("patch_nums", "norm_eps", "cfg", "top_k") if name not in config]
    missing += [name for name in ("in.image", "in.label") if name not in tensors]
    if missing:
        raise UserError(f"{path} is no golden file: expected {', '.join(missing)}, not found")
    return config, tensors


def recompute(config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Every output of a golden file, from its inputs and weights alone, in float32 on the CPU."""
    vae = {key.removeprefix("vae."): value for key, value in tensors.items() if key.startswith("vae.")}
    weights = {key.removeprefix("var."): value for key, value in tensors.items() if key.startswith("var.")}
    vqvae = build_vqvae(vae, tuple(config["patch_nums"]), where)
    cfg = VarShape.of(weights, where).transformer(int(config.get("heads", 0)))
    cfg = dataclasses.replace(cfg, norm_eps=float(config["norm_eps"]))
    var = build_var(weights, cfg, vqvae, where)
    image, labels = tensors["in.image"], tensors["in.label"]
    with torch.no_grad():
        quantised = vqvae.quantise(vqvae.latents([image]))
        var_input = vqvae.var_input(quantised.indices)
        out = {f"idx.{k}": indices for k, indices in enumerate(quantised.indices)}
        out["encoder_feature"] = vqvae.encode(image)
        out["f_hat"] = quantised.f_hats[-1]
        out["reconstruction"] = vqvae.decode(quantised.f_hats[-1])
        out["var_input"] = var_input
        out["logits"] = var(labels, var_input).logits
    for name, guidance in (("cfg", float(config["cfg"])), ("nocfg", 0.0)):
        seeds = list(range(len(labels)))
        made = sample(
            var, vqvae, labels, guidance=guidance, top_k=config["top_k"], top_p=config.get("top_p") or 1.0, seeds=seeds
        )
        out[f"tokens_{name}"] = torch.cat(made.tokens, dim=1)
        out[f"sample_{name}"] = (decode(vqvae, made.f_hats[-1]) + 1) / 2
    return out
