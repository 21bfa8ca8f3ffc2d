"""Where a training step's time goes, at the size of the smoke preset: python -m tests.benchmarks.bench_training

Steps are timed in turns within one process and quoted as a ratio to the plain step, so a busy machine shifts all of it
alike. A resume is timed as one lives it, from typing the command to the first new step, and so is what two ranks
compute: as processes of `python -m fvar.run`. Tokens are random; speed does not depend on what they say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fvar.config import RuntimeConfig, Stage, TeacherConfig, VarConfig
from fvar.data.token_store import SPLITS, TokenSplit, write_array, write_manifest
from fvar.machine.precision import computed
from fvar.models.teacher import Teacher
from fvar.models.var import VAR
from fvar.rundir import RunDir
from fvar.stages.tokenizer import save as save_tokenizer
from fvar.tasks.var import TokenSet, VarTask
from fvar.tokenizer.dual import SignalScaler
from fvar.tokenizer.vqvae import VQVAE
from fvar.training.data_feed import MicroBatch
from fvar.training.loop import train
from fvar.training.phase import Phase
from studies.presets import preset

STEPS = 8
IMAGES = 1669  # emoji's training split
SMOKE = preset("smoke")
PATCH_NUMS, VOCAB, ALIAS_VOCAB = SMOKE.pyramid.patch_nums, SMOKE.quantiser.vocab_size, SMOKE.alias_vocab
CLASSES = 9


def random_tokens(vocab: int) -> TokenSplit:
    generator = np.random.default_rng(0)
    maps = [generator.integers(0, vocab, (IMAGES, p * p)).astype(np.uint16) for p in PATCH_NUMS]
    return TokenSplit(maps, generator.integers(0, CLASSES, IMAGES))


def smoke_task(config: VarConfig) -> VarTask:
    """The smoke preset's networks over random tokens."""
    torch.manual_seed(0)
    tokenizer = SMOKE.tokenizer()
    vqvae = VQVAE(tokenizer.autoencoder, tokenizer.quantiser, PATCH_NUMS).eval().requires_grad_(False)
    shape = (CLASSES, VOCAB, SMOKE.autoencoder.z_channels, PATCH_NUMS)
    student = VAR(config.transformer, *shape)
    teacher = Teacher(config.transformer, config.teacher, *shape, ALIAS_VOCAB) if config.teacher else None
    tokens = TokenSet(random_tokens(VOCAB), random_tokens(ALIAS_VOCAB) if teacher else None)
    return VarTask(
        student, vqvae, tokens, tokens, teacher=teacher, distill=config.distill, eval_images=64, eval_batch=64
    )


@contextlib.contextmanager
def timed(owner: Any, *names: str) -> Iterator[list[float]]:
    """Collects the seconds spent in some methods of a class."""
    seconds: list[float] = []
    originals = {name: getattr(owner, name) for name in names}

    def wrap(original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(*arguments, **named)
            finally:
                seconds.append(time.perf_counter() - started)

        return call

    for name, original in originals.items():
        setattr(owner, name, wrap(original))
    try:
        yield seconds
    finally:
        for name, original in originals.items():
            setattr(owner, name, original)


def median_step(config: VarConfig) -> float:
    """Seconds of forward, backward, clipping and optimiser, without the loop."""
    task = smoke_task(config)
    phase = Phase("train", task, config.train)
    batch = task.fetch(torch.arange(config.train.batch_size), torch.Generator())
    seconds = []
    for step in range(4):
        started = time.perf_counter()
        phase.optimiser.zero_grad(set_to_none=True)
        loss, _ = phase.backward([MicroBatch(batch, range(config.train.batch_size), config.train.batch_size)], step)
        phase.apply(1e-4, phase.finite(loss, phase.clip()))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def loop_overhead(config: VarConfig) -> float:
    """Share of a training outside forward, backward and optimiser."""
    settings = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=STEPS, eval_every=10_000))
    runtime = RuntimeConfig(device="cpu", log_every=5, checkpoint_steps=STEPS - 1)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence):
        run = RunDir.create(Path(folder), Stage(settings), runtime)
        task = smoke_task(settings)
        task.eval_images = 0
        with timed(Phase, "backward", "clip", "apply") as work:
            train(task, run, settings.train)
        records = [record for record in run.metrics("train") if record["step"] in (1, STEPS)]
        whole: float = records[-1]["time"] - records[0]["time"]
        return 1 - sum(work[3:]) / whole


def smoke_run(root: Path, **changes: Any) -> RunDir:
    """A var run directory of the smoke preset over random tokens; `changes` are fields of its training."""
    config = SMOKE.var(None, 0)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))
    tokens = Stage(SMOKE.tokens(), {"tokenizer": Stage(SMOKE.tokenizer())})
    run = RunDir.create(root, Stage(config, {"tokens": tokens}), RuntimeConfig(device="cpu", log_every=1))
    store, tokenizer = run.input("tokens"), SMOKE.tokenizer()
    torch.manual_seed(0)
    vqvae = VQVAE(tokenizer.autoencoder, tokenizer.quantiser, PATCH_NUMS)
    save_tokenizer(store.input("tokenizer"), {"vqvae": vqvae, "scaler": SignalScaler(len(PATCH_NUMS))})
    drawn = random_tokens(VOCAB)
    for split in SPLITS:
        for k, indices in enumerate(drawn.indices):
            write_array(store.path / split / f"scale_{k}.npy", indices)
        write_array(store.path / split / "labels.npy", drawn.labels)
    write_manifest(store, PATCH_NUMS, VOCAB, [str(number) for number in range(CLASSES)])
    for done in (store, store.input("tokenizer")):
        done.update(state="done")
    return run


def steps_made(run: RunDir) -> int:
    return max((record["step"] for record in run.metrics("train")), default=0)


def resume_seconds() -> tuple[float, float]:
    """From the command to the first new step of a stopped run; and how much of it a bare `import torch` takes."""
    with tempfile.TemporaryDirectory() as folder:
        run = smoke_run(Path(folder))
        command = [sys.executable, "-m", "fvar.run", str(run.path)]
        seconds = []
        for _ in range(3):  # the first is the start that will be resumed
            before, started = steps_made(run), time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while steps_made(run) <= before:
                time.sleep(0.01)
            seconds.append(time.perf_counter() - started)
            process.send_signal(signal.SIGTERM)
            process.wait()
    imports = []
    for _ in range(2):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch, torch._dynamo"], check=True)
        imports.append(time.perf_counter() - started)
    return min(seconds[1:]), min(imports)


def two_ranks_difference(steps: int = 6) -> float:
    """Largest difference of a loss between two gloo ranks and one, in float32."""
    losses: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (1, 2):
            run = smoke_run(Path(folder) / str(ranks), steps=steps, precision="fp32", eval_images=1)
            launcher = (
                ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
            )
            command = [sys.executable, "-m", *launcher, "fvar.run", str(run.path)]
            subprocess.run(command, check=True, capture_output=True)
            losses.append([record["loss"] for record in run.metrics("train")])
    one, two = losses
    return max(abs(a - b) for a, b in zip(one, two, strict=True))


def reading_ratio(config: VarConfig, step_seconds: float) -> float:
    """How many times faster tokens are read than a step needs them."""
    task = smoke_task(config)
    started = time.perf_counter()
    for turn in range(100):
        task.fetch(torch.arange(config.train.batch_size) + turn, torch.Generator())
    return step_seconds / ((time.perf_counter() - started) / 100)


def input_share(config: VarConfig, step_seconds: float) -> float:
    """Share of a step spent on computing the transformer's input from tokens, which a cache would save."""
    task = smoke_task(config)
    batch = task.fetch(torch.arange(config.train.batch_size), torch.Generator())
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        with torch.no_grad():
            task.inputs.var_input(batch.structure)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) / step_seconds


def main() -> None:
    alone = SMOKE.var(None, 0)
    separate, shared = (SMOKE.var(TeacherConfig(trunk=trunk), 0) for trunk in ("separate", "shared"))
    length, train_config = sum(p * p for p in PATCH_NUMS), alone.train
    computed_in = computed(train_config.precision, torch.device("cpu"))
    print(f"smoke: depth {SMOKE.transformer.depth}, {length} tokens, batch {train_config.batch_size}, {computed_in}; "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    step = median_step(alone)
    print(f"student step                  {step * 1e3:8.0f} ms")
    if computed_in != "fp32":
        switched = dataclasses.replace(alone, train=dataclasses.replace(alone.train, precision="fp32"))
        print(f"the same in fp32              {median_step(switched) / step:8.2f} x")
    print(f"with a separate teacher       {median_step(separate) / step:8.2f} x")
    print(f"with a shared trunk           {median_step(shared) / step:8.2f} x")
    print(f"input from tokens             {input_share(alone, step):8.1%} of the step (a cache would save it)")
    print(f"reading tokens                {reading_ratio(alone, step):8.0f} x faster than needed (at least 100)")
    print(f"loop outside its arithmetic   {loop_overhead(alone):8.1%} (at most 3 %)")
    resume, imports = resume_seconds()
    print(f"resume, command to new step   {resume:8.2f} s (at most 5; importing torch alone: {imports:.2f} s)")
    print(f"two ranks, losses differ by   {two_ranks_difference():8.1e} (at most 1e-5)")


if __name__ == "__main__":
    main()
