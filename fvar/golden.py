"""Golden files: inputs, weights, and what the public code of VAR or M-VAR computes with them.

A safetensors file with a metadata entry `config` in JSON and the tensors

- `var.*`, the transformer's state dict under the public code's names, `in.label` (B,), and `out.logits`;
- `vae.*`, the tokenizer's, with `in.image` (B, 3, H, W) in [-1, 1], `out.idx.K` (token indices of scale K) and all that
  TOLERANCES lists besides. A file without a tokenizer holds the transformer's input, `out.var_input`, as given.
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

from fvar.config import RESIDUALS, TransformerConfig
from fvar.errors import UserError, unknown
from fvar.machine.precision import full_precision
from fvar.models.loading import VarShape, build_var, new_var
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


CPU = torch.device("cpu")


def verify(path: Path, device: torch.device | str = "cpu") -> int:
    """Print name, largest absolute error and verdict of every output of the file; return 1 if one fails, else 0.

    `device` is where the outputs are computed. Raises `UserError` if the file is not of the golden format.
    """
    config, tensors = read_golden(path)
    expected = {key.removeprefix("out."): value for key, value in tensors.items() if key.startswith("out.")}
    computed = recompute(config, tensors, str(path), torch.device(device))
    failures = 0
    if not _has_tokenizer(tensors):
        del expected["var_input"]  # it is given
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
    tokenizer = _has_tokenizer(tensors)
    settings = ("patch_nums", "norm_eps", *(("cfg", "top_k") if tokenizer else ()))
    missing = [name for name in settings if name not in config]
    missing += [name for name in ("in.label", "in.image" if tokenizer else "out.var_input") if name not in tensors]
    if missing:
        raise UserError(f"{path} is not a golden file: expected {', '.join(missing)}, not found")
    return config, tensors


def _has_tokenizer(tensors: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("vae.") for key in tensors)


def recompute(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, device: torch.device = CPU
) -> dict[str, Tensor]:
    """Every output of a golden file, from its inputs and weights alone, in float32 on `device`, and then on the CPU."""
    tensors = {name: value.to(device) for name, value in tensors.items()}
    with full_precision():
        return {name: value.cpu() for name, value in _recompute(config, tensors, where, device).items()}


def _recompute(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, device: torch.device
) -> dict[str, Tensor]:
    weights = _under("var", tensors)
    shape = VarShape.of(weights, where)
    if (mixer := config.get("mixer", shape.mixer)) not in RESIDUALS:
        raise unknown(f"mixer in {where}", mixer, RESIDUALS)
    shape.require_mixer(mixer, where)
    cfg = shape.transformer(int(config.get("heads", 0)))
    cfg = dataclasses.replace(cfg, norm_eps=float(config["norm_eps"]))
    if _has_tokenizer(tensors):
        return _with_tokenizer(config, tensors, weights, cfg, where, device)
    if shape.patch_nums != tuple(config["patch_nums"]):
        raise UserError(f"{where} does not fit: expected patch_nums {config['patch_nums']}, found {shape.patch_nums}")
    var = new_var(shape, cfg, weights, where).to(device)
    with torch.no_grad():
        return {"logits": var(tensors["in.label"], tensors["out.var_input"]).logits}


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def _with_tokenizer(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    cfg: TransformerConfig,
    where: str,
    device: torch.device,
) -> dict[str, Tensor]:
    """What tokenizer and transformer compute together, sampling included."""
    vqvae = build_vqvae(_under("vae", tensors), tuple(config["patch_nums"]), where).to(device)
    var = build_var(weights, cfg, vqvae, where).to(device)
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
