"""A tiny stage of every kind, the recorded inputs it starts from, and the numbers that tell what it computed.

Each stage starts from recorded outputs of the stages above it, so that a change of one kind is seen in that kind alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    PyramidConfig,
    QuantiserConfig,
    ReadabilityConfig,
    RuntimeConfig,
    SamplesConfig,
    ScoresConfig,
    Signal,
    SpeedConfig,
    Stage,
    TeacherConfig,
    TokenizerConfig,
    TokenizerLossConfig,
    TokensConfig,
    TrainConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.rundir import RunDir

GOLDEN = Path(__file__).parents[1] / "golden" / "canary"
VALUES = GOLDEN / "values.json"
Values = dict[str, list[float]]

DATA = DataConfig(dataset="emoji", image_size=32)
PYRAMID = PyramidConfig(patch_nums=(1, 2, 4), downsample_factor=8)
# What later stages need of each kind.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("model.safetensors", "companion.safetensors"),
    "tokens": (
        "manifest.json",
        *(
            f"{split}/{name}.npy"
            for split in ("train", "heldout")
            for name in ("scale_0", "scale_1", "scale_2", "labels")
        ),
    ),
    "var": ("model.safetensors",),
    "samples": ("samples.npz",),
}


@dataclass(frozen=True)
class Canary:
    """One tiny stage; `name` is the folder of its recorded outputs."""

    name: str
    stage: Stage


def _tokenizer(signal: Signal) -> Stage:
    train = TrainConfig(steps=6, batch_size=8, lr=0.05, precision="fp32", eval_every=3, eval_images=16)
    return Stage(
        TokenizerConfig(
            signal=signal,
            data=DATA,
            pyramid=PYRAMID,
            autoencoder=AutoencoderConfig(ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=4, norm_groups=4),
            quantiser=QuantiserConfig(vocab_size=32 if signal == "structure" else 16, dead_after=2),
            loss=TokenizerLossConfig(discriminator_ch=4, bypass=0.5),
            train=train,
            rfid_images=0,
        )
    )


def _speed() -> Stage:
    tokenizer = _tokenizer("structure").config
    assert isinstance(tokenizer, TokenizerConfig)
    return Stage(
        SpeedConfig(
            transformer=TransformerConfig(depth=2, width=64, heads=2),
            classes=9,
            patch_nums=PYRAMID.patch_nums,
            autoencoder=tokenizer.autoencoder,
            quantiser=tokenizer.quantiser,
            batches=(1, 2),
            rounds=2,
            precision="fp32",
        )
    )


def canaries() -> list[Canary]:
    """One for every kind, inputs first; more of the kinds that compute different things by their settings."""
    tokenizers = {signal: _tokenizer(signal) for signal in ("structure", "alias")}
    tokens = {
        signal: Stage(TokensConfig(signal=signal, data=DATA), {"tokenizer": tokenizer})  # type: ignore[arg-type]
        for signal, tokenizer in tokenizers.items()
    }
    train = TrainConfig(steps=6, batch_size=8, lr=0.02, precision="fp32", eval_every=3, eval_images=16)
    teacher = TeacherConfig(blocks=1, heads=1, head_dim=8, gate_bias=0.0)
    transformer = TransformerConfig(depth=2, width=32, heads=2)
    config = VarConfig(transformer=transformer, teacher=teacher, train=train)
    var = Stage(config, {"tokens": tokens["structure"], "alias": tokens["alias"]})
    placebo = Stage(replace(config, teacher=replace(teacher, alias="other")), var.inputs)
    alone = Stage(replace(config, teacher=replace(teacher, alias="none")), {"tokens": tokens["structure"]})
    samples = Stage(SamplesConfig(count=9, top_k=8, precision="fp32"), {"var": var})
    completed = Stage(SamplesConfig(count=9, top_k=8, precision="fp32", mask="center"), {"var": var})
    scores = ScoresConfig(reference=DATA, reference_count=27)
    return [
        *(Canary(f"tokenizer-{signal}", stage) for signal, stage in tokenizers.items()),
        *(Canary(f"tokens-{signal}", stage) for signal, stage in tokens.items()),
        Canary("var", var),
        Canary("var-placebo", placebo),
        Canary("var-self-distillation", alone),
        Canary("samples", samples),
        Canary("samples-completed", completed),
        Canary("scores", Stage(scores, {"samples": samples})),
        Canary("scores-completed", Stage(replace(scores, split="heldout"), {"samples": completed})),
        Canary("readability", Stage(ReadabilityConfig(words=4), {"tokenizer": tokenizers["structure"]})),
        Canary("speed", _speed()),
    ]


def prepared(root: Path, canary: Canary) -> RunDir:
    """The run directory of a canary, its inputs filled with what was recorded."""
    names = {each.stage.name: each.name for each in canaries()}
    made = RunDir.create(root, canary.stage, RuntimeConfig(device="cpu", threads=1, log_every=1))
    for above in canary.stage.chain():
        run = RunDir.open(root / above.name)
        if run.path != made.path and not run.done:
            _fill(run, GOLDEN / names[above.name])
    return made


def _fill(run: RunDir, recorded: Path) -> None:
    for file in OUTPUTS[run.kind]:
        (run.path / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(recorded / file, run.path / file)
    manifest = run.path / "manifest.json"
    if manifest.exists():  # names the directory it was written in, whose name a raised revision changes
        body = json.loads(manifest.read_text()) | {"signature": run.signature, "inputs": run.input_names}
        manifest.write_text(json.dumps(body))
    run.update(state="done")


def keep(run: RunDir, name: str) -> None:
    """Record what later stages need, where there are any."""
    needed = any(above.name == run.name for each in canaries() for above in each.stage.chain() if each.name != name)
    for file in OUTPUTS.get(run.kind, ()) if needed else ():
        target = GOLDEN / name / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.path / file, target)


def measured(run: RunDir) -> Values:
    """Losses, tokens, pixels or scores of a finished canary."""
    if run.kind in ("tokenizer", "var"):
        return {
            f"{split}/{key}": [float(record[key]) for record in run.metrics(split) if key in record]
            for split in ("train", "heldout")
            for key in dict.fromkeys(key for record in run.metrics(split) for key in record)
            if key not in ("step", "split", "time")
        }
    if run.kind == "tokens":
        scales = sorted((run.path / "train").glob("scale_*.npy"))
        return {scale.stem: np.load(scale, allow_pickle=False)[:200].ravel().tolist() for scale in scales}
    if run.kind == "samples":
        with np.load(run.path / "samples.npz", allow_pickle=False) as archive:
            blocks = archive["arr_0"].reshape(9, 4, 8, 4, 8, 3).mean((2, 4))
        return {f"image {index}": blocks[index].ravel().round(2).tolist() for index in range(len(blocks))}
    if run.kind == "scores":
        scores = json.loads((run.path / "scores.json").read_text())
        return {key: [score["value"]] for key, score in scores.items() if score["value"] is not None}
    if run.kind == "speed":  # what was timed; how long it took is the machine's
        rows = json.loads((run.path / "speed.json").read_text())["rows"]
        return {f"{row['mixer']}, batch {row['batch']}": [row["parameters"], len(row["seconds"])] for row in rows}
    rates = json.loads((run.path / "readability.json").read_text())["rates"]
    return {f"{row['picture']} {row['scale']} at {row['size']} px": [row["value"]] for row in rates}
