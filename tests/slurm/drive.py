"""`python -m studies.run`, with two studies more whose stages cost nothing: `toy`, and `toy_search` for one number.

    python -m tests.slurm.drive run toy --cluster slurm --profile FILE --results DIR --seeds CELLS
    python -m tests.slurm.drive command status toy --results DIR

TOY_DIES=1 makes the driver kill itself right after sbatch has taken its first jobs, before it can write that down.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import replace

import studies.engine.outputs
import studies.engine.preflight
import studies.study
from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    PyramidConfig,
    QuantiserConfig,
    ReadabilityConfig,
    Stage,
    TokenizerConfig,
    TokenizerLossConfig,
    TokensConfig,
    TrainConfig,
)
from fvar.errors import run_main
from studies.engine.search.definition import Search
from studies.engine.search.space import Uniform
from studies.presets import Preset
from studies.study import Cell, Context, Study

DATA = DataConfig(dataset="emoji", image_size=16)


def first_stage(seed: int) -> Stage:
    """The tokenizer of a toy cell; it could be trained, too."""
    return Stage(
        TokenizerConfig(
            data=DATA,
            pyramid=PyramidConfig(patch_nums=(1,)),
            autoencoder=AutoencoderConfig(ch=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=1),
            quantiser=QuantiserConfig(vocab_size=16),
            loss=TokenizerLossConfig(perceptual=0.0, adversarial=0.0),
            train=TrainConfig(steps=30, batch_size=4, eval_images=16, eval_every=15, precision="fp32", seed=seed),
            rfid_images=0,
        )
    )


def cells(ctx: Context) -> Iterator[Cell]:
    """As many cells as seeds: a tokenizer each; with TOY_CHAIN tokens made from it; with TOY_READ a reading of both."""
    for seed in range(ctx.seeds):
        stage = tokenizer = first_stage(seed)
        if "TOY_CHAIN" in os.environ:
            stage = Stage(TokensConfig(data=DATA), {"tokenizer": tokenizer})
        if "TOY_READ" in os.environ:
            stage = Stage(ReadabilityConfig(), {"tokenizer": tokenizer, "tokens": stage})
        yield Cell("toy", "toy", seed, {}, stage)


def searched(preset: Preset) -> Stage:
    """A network and its scores, with nothing in between: as short as a chain with a curve and a score can be."""
    return Stage(preset.scores(), {"samples": Stage(preset.var(None, 0))})


SEARCH = Search(
    "toy_search",
    "Toy search",
    space=lambda preset: {"lambda_feat": Uniform(0.1, 10.0, log=True)},
    first=lambda preset: [{"lambda_feat": 1.0}],
    settings=lambda preset, point: {"var.distill.lambda_feat": point["lambda_feat"]},
    base=searched,
)


def die_after_sbatch() -> None:
    """Let sbatch come through, then die before its answer is written into the run directories."""
    from studies.engine.backends import sbatch
    from studies.engine.backends.clients import call

    def submit_and_die(*command: str) -> str:
        answer = call(*command)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        return answer

    vars(sbatch)["call"] = submit_and_die


def main() -> int:
    search = replace(SEARCH.study(), report=lambda results: {}, publish=None)  # figures have tests of their own
    for study in (Study("toy", "Toy study", cells, outputs=lambda ctx: {}), search):
        module = types.ModuleType(f"studies.{study.name}")
        module.STUDY = study  # type: ignore[attr-defined]
        sys.modules[f"studies.{study.name}"] = module
        studies.study.STUDIES += (study.name,)
    studies.engine.preflight.require_space = lambda results, stages: None  # toys write next to nothing
    studies.engine.outputs.Tracker.start = lambda self, say: None  # type: ignore[method-assign]
    if "TOY_DIES" in os.environ:
        die_after_sbatch()
    verb, *arguments = sys.argv[1:]
    if verb == "run":
        from studies.run import main as run

        return run(arguments)
    from studies.__main__ import main as command

    return command(arguments)


if __name__ == "__main__":
    run_main(main)
