"""Results of a study that never ran: real run directories with made-up but plausible contents."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.results import StudyResults
from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    PyramidConfig,
    RuntimeConfig,
    SamplesConfig,
    ScoresConfig,
    Stage,
    TeacherConfig,
    TokenizerConfig,
    TokensConfig,
    TrainConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.machine import atomic
from fvar.rundir import RunDir

SIZE, COUNT, CLASSES, STEPS = 64, 36, 9, 200
DATA = DataConfig(dataset="emoji", image_size=SIZE)
VARIANTS = {
    "baseline": "VAR (baseline)",
    "full": "FVAR (full)",
    "no_refocusing": "w/o progressive refocusing",
    "gaussian": "w/ Gaussian blur",
    "no_teacher": "w/o teacher",
    "no_dual": "w/o dual tokenizers",
}


def chain(variant: str, seed: int, rho_max: float = 12.0) -> Stage:
    """The stages of one cell; variants differ in depth of their signature only as far as the fakes need."""
    data = replace(DATA, split_seed=sorted(VARIANTS).index(variant) if variant in VARIANTS else 0)
    pyramid = PyramidConfig(patch_nums=(1, 2, 4), rho_max=rho_max)
    structure = TokenizerConfig(data=data, pyramid=pyramid, autoencoder=AutoencoderConfig(ch=16))
    tokenizer = Stage(structure)
    tokens = Stage(TokensConfig(data=data), {"tokenizer": tokenizer})
    teacher = None if variant in ("baseline", "no_teacher") else TeacherConfig()
    train, inputs = TrainConfig(steps=STEPS, seed=seed), {"tokens": tokens}
    if teacher:
        coder = tokenizer if variant == "no_dual" else Stage(replace(structure, signal="alias"))
        inputs["alias"] = Stage(TokensConfig(signal="alias", data=data), {"tokenizer": coder})
    var = Stage(VarConfig(TransformerConfig(depth=2), teacher, train=train), inputs)
    samples = Stage(SamplesConfig(count=COUNT, seed=seed), {"var": var})
    return Stage(ScoresConfig(reference=data), {"samples": samples})


def finish(results: Path, stage: Stage, quality: float, seed: int) -> None:
    """Give a cell's chain what a finished run leaves, its scores the better the higher `quality` (0 to 1)."""
    RunDir.create(results / "runs", stage, RuntimeConfig())
    rng = np.random.default_rng(seed)
    for part in stage.chain():
        run = RunDir.open(results / "runs" / part.name)
        if run.done:
            continue
        if part.kind in ("var", "tokenizer"):
            log_training(run, quality, rng)
        if part.kind == "samples":
            write_samples(run, quality, rng)
        if part.kind == "scores":
            write_scores(run, quality, rng)
        run.update(state="done", step=STEPS, steps=STEPS)


def log_training(run: RunDir, quality: float, rng: np.random.Generator, until: int = STEPS) -> None:
    """Loss curves that fall from ln V."""
    for step in range(0, until + 1, 10):
        fall = (1.2 + quality) * (1 - np.exp(-step / 60))
        noise = rng.normal(0, 0.02)
        run.log_metrics(step, {"cross_entropy": 6.2 - fall + noise, "accuracy": 0.01 + 0.08 * fall, "lr": 1e-4})
        if step % 20 == 0:
            run.log_metrics(
                step, {"cross_entropy": 6.3 - fall + noise, "accuracy": 0.01 + 0.07 * fall}, split="heldout"
            )


def write_samples(run: RunDir, quality: float, rng: np.random.Generator) -> None:
    """Class-balanced coloured discs, the rounder the better."""
    labels = np.arange(COUNT, dtype=np.int64) % CLASSES
    yy, xx = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    images = np.full((COUNT, SIZE, SIZE, 3), 255, np.uint8)
    for index, label in enumerate(labels):
        inside = xx**2 + yy**2 + (1 - quality) * 0.4 * rng.normal(size=xx.shape) < 0.6
        images[index][inside] = np.array([28 * label, 255 - 28 * label, 40 * (index // CLASSES) % 255], np.uint8)
    np.savez(run.path / "samples.npz", arr_0=images, labels=labels)


def write_scores(run: RunDir, quality: float, rng: np.random.Generator) -> None:
    common = {"reason": "", "count": COUNT, "reference_count": 1668, "extractor": "inception-torchscript"}
    values = {
        "fid": 180 - 60 * quality + rng.normal(0, 2),
        "kid": 0.12 - 0.05 * quality + rng.normal(0, 0.002),
        "precision": 0.4 + 0.3 * quality,
        "recall": 0.2 + 0.2 * quality,
    }
    scores = {key: common | {"value": float(value)} for key, value in values.items()}
    pixels = {"spectral_distance": 3 - 2 * quality, "top_octave": 1.8 - 0.7 * quality}
    scores |= {key: common | {"value": value, "extractor": None} for key, value in pixels.items()}
    scores["fid"]["note"] = f"{COUNT} images span no 2048 dimensions; see KID"
    scores["is"] = common | {"value": None, "reason": "inception-torchscript has no classifier head; IS needs one"}
    atomic.write_json(run.path / "scores.json", scores)


def write_cells(
    results: Path, study: str, cells: list[dict[str, object]], preset: str = "smoke", title: str = "Table 2: ablation"
) -> StudyResults:
    folder = results / study / preset
    folder.mkdir(parents=True, exist_ok=True)
    body = {"study": study, "preset": preset, "title": title, "cells": cells}
    (folder / "cells.json").write_text(json.dumps(body))
    return StudyResults.read(results, study, preset)


def cell(variant: str, seed: int, stage: Stage, label: str = "", **params: object) -> dict[str, object]:
    return {
        "name": f"{variant}/seed{seed}",
        "variant": variant,
        "label": label or VARIANTS.get(variant, variant),
        "seed": seed,
        "params": params,
        "stages": {stage.kind: stage.name},
        "chain": [part.name for part in stage.chain()],
    }


def ablation(results: Path, seeds: int = 2, unfinished: tuple[str, ...] = ()) -> StudyResults:
    """Table 2's six variants, finished but for `unfinished`."""
    cells = []
    for rank, (variant, label) in enumerate(VARIANTS.items()):
        for seed in range(seeds):
            stage = chain(variant, seed)
            cells.append(cell(variant, seed, stage, label))
            if variant not in unfinished:
                finish(results, stage, rank / 5, seed + 10 * rank)
    return write_cells(results, "ablation_table2", cells)
