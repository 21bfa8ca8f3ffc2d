"""Stage `speed`: how long sampling takes, by network and batch, into `speed.json`.

    {"rows": [{"mixer": "var", "batch": 8, "seconds": [0.91, 0.90, ...], "parameters": 310e6, "reason": ""}, ...],
     "steps": 4, "precision": "fp32"}

`seconds` are of a whole batch, from classes to images in memory, a round each. Within a round the networks take turns,
so that a machine that slows down slows them alike; rounds of warm-up are not written. Weights are untrained: a
product takes as long whatever its numbers are, and each scale has its fixed number of tokens.

Run it on a quiet machine: attempts.jsonl says which one it was, and how many threads it used.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from fvar.config import Mixer, SpeedConfig
from fvar.machine import atomic
from fvar.machine.distributed import pick_device
from fvar.machine.precision import computed
from fvar.models.var import VAR
from fvar.rundir import RunDir
from fvar.sampling import image_seeds, prepare, sample
from fvar.tokenizer.vqvae import VQVAE

FILE = "speed.json"


def run(run: RunDir) -> None:
    """Time every batch of every network. Inputs: none."""
    config, device = run.config_as(SpeedConfig), pick_device(run.runtime.device)
    torch.manual_seed(config.seed)
    vqvae, made = networks(config)
    for var in made.values():
        prepare(var, vqvae, config.precision, device)
    rows: list[dict[str, Any]] = []
    for number, batch in enumerate(config.batches, 1):
        rows += _rounds(config, vqvae, made, batch, device)
        run.update(step=number, steps=len(config.batches))
        for row in rows[-len(made) :]:
            told = row["reason"] or f"{batch / statistics.median(row['seconds']):.2f} images/s"
            print(f"{row['mixer']}, batch {batch}: {told}", flush=True)
    body = {"rows": rows, "steps": len(config.patch_nums), "precision": computed(config.precision, device)}
    atomic.write_json(run.path / FILE, body)


def networks(config: SpeedConfig) -> tuple[VQVAE, dict[Mixer, VAR]]:
    """The tokenizer whose decoder makes the images, and a deployment network of each kind."""
    vqvae = VQVAE(config.autoencoder, config.quantiser, config.patch_nums)
    shape = (config.classes, vqvae.vocab_size, vqvae.z_channels, config.patch_nums)
    return vqvae, {mixer: VAR(replace(config.transformer, mixer=mixer), *shape) for mixer in config.mixers}


def _rounds(
    config: SpeedConfig, vqvae: VQVAE, made: dict[Mixer, VAR], batch: int, device: torch.device
) -> list[dict[str, Any]]:
    labels = (torch.arange(batch) % config.classes).to(device)
    seconds: dict[Mixer, list[float]] = {mixer: [] for mixer in made}
    reasons: dict[Mixer, str] = {}
    for number in range(config.warmup + config.rounds):
        for mixer, var in made.items():
            if mixer in reasons:
                continue
            try:
                taken = _timed(config, var, vqvae, labels, number)
            except torch.OutOfMemoryError:
                reasons[mixer] = f"a batch of {batch} does not fit into the memory"
                seconds[mixer] = []
                continue
            if number >= config.warmup:
                seconds[mixer].append(taken)
    return [
        {
            "mixer": mixer,
            "batch": batch,
            "seconds": seconds[mixer],
            "parameters": sum(parameter.numel() for parameter in var.parameters()),
            "reason": reasons.get(mixer, ""),
        }
        for mixer, var in made.items()
    ]


def _timed(config: SpeedConfig, var: VAR, vqvae: VQVAE, labels: torch.Tensor, number: int) -> float:
    """Seconds for one batch, until its images are in the processor's memory."""
    seeds = image_seeds(config.seed, range(number * len(labels), (number + 1) * len(labels)))
    options = {"guidance": config.guidance, "top_k": config.top_k, "top_p": config.top_p}
    begun = time.perf_counter()
    sample(var, vqvae, labels, seeds=seeds, **options).images.cpu()  # type: ignore[arg-type]
    return time.perf_counter() - begun
