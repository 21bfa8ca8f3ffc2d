"""What is checked before anything is trained: the results folder, the room in it, the data, and other drivers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fvar.config import SamplesConfig, Stage, TokenizerConfig, TokensConfig, VarConfig
from fvar.errors import UserError
from fvar.estimate import CLASSES, estimate
from fvar.machine import locks
from fvar.machine.names import search_path
from fvar.plain import identity_text, to_dict
from fvar.workload import images
from studies.presets import Preset

NEEDS_ROOT = ("folder", "webdataset")
CHECKPOINTS = 4  # two kept, the best, and one being written
STATES = 3  # weights and two moments, in 4 bytes each
SPARE = 64 << 20  # logs, metrics, tables
TOKEN_BYTES = 2 * 2  # 16 bits a token, and twice as long as the parts are being joined
SEED = re.compile(r'"seed": \d+')  # in a configuration's JSON


def require_data(preset: Preset) -> None:
    """Raises `UserError` where the preset's images are not shipped and nobody said where they are."""
    if preset.data.dataset in NEEDS_ROOT and not preset.data.root:
        raise UserError(
            f"preset {preset.name} needs images that are not shipped; add --data {preset.data.dataset}:/path/to/images"
        )


def require_writable(results: Path) -> None:
    """Write a probe into the results folder. Raises `UserError` where that fails."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results) as probe:
            probe.write(b"\0" * (1 << 20))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write to the results folder {results} ({error.strerror}); name another one by --results"
        ) from None


def require_space(results: Path, stages: Iterable[Stage]) -> None:
    """Compare the free space with what these stages will about write. Raises `UserError`."""
    needed, free = SPARE + sum(map(expected_bytes, stages)), shutil.disk_usage(results).free
    if free < needed:
        raise UserError(
            f"the stages to run will write about {_gib(needed)} to {results}, but only {_gib(free)} are free; "
            "make room or name another folder by --results"
        )


def require_images(stages: Iterable[Stage]) -> None:
    """Raises `UserError` where there are surely fewer images than a batch or, to be sampled, than classes."""
    for part in {part.name: part for stage in stages for part in stage.chain()}.values():
        config = part.config
        if isinstance(config, TokenizerConfig):
            count, batch = images(config.data), config.train.batch_size
            if count < batch:
                raise UserError(
                    f"data set {config.data.title} has fewer images ({count}) than a batch of {batch}; add "
                    f"--set tokenizer.train.batch_size={max(1, count // 2)}, or choose a smaller preset"
                )
        elif isinstance(config, SamplesConfig):
            classes = _classes_at_least(part)
            if config.count < classes:
                raise UserError(
                    f"samples.count {config.count} leaves some of the {classes} classes without a sample; add "
                    f"--set samples.count={classes}, or more"
                )


def _classes_at_least(stage: Stage) -> int:
    """Classes of the data that a samples stage's network learnt; 1 where only the files can tell."""
    data = [part.config.data for part in stage.chain() if isinstance(part.config, TokensConfig)]
    return max((CLASSES.get(each.dataset, 1) for each in data), default=1)


def require_buildable(stages: Iterable[Stage]) -> None:
    """Build every configuration, networks on torch's meta device. Raises `UserError` for the first that cannot be.

    In a process of its own: this one plans in a tenth of the time that torch takes to be imported. Of stages that
    differ in seeds alone one is built.
    """
    wanted = {part.name: part for stage in stages for part in stage.chain()}
    stands_for: dict[str, str] = {}  # stage -> the first that is like it
    bodies: dict[str, dict[str, Any]] = {}  # by what they are but for seeds
    for stage in wanted.values():
        inputs = {role: stands_for[upstream.name] for role, upstream in stage.inputs.items()}
        likeness = SEED.sub("", f"{stage.kind} {identity_text(stage.config)} {inputs}")
        if likeness not in bodies:
            config = to_dict(stage.config)
            bodies[likeness] = {"name": stage.name, "kind": stage.kind, "config": config, "inputs": inputs}
        stands_for[stage.name] = bodies[likeness]["name"]
    command = [sys.executable, "-m", "fvar.build"]
    environment = os.environ | {"PYTHONPATH": search_path(Path(__file__).resolve().parents[2])}
    asked = json.dumps(list(bodies.values()))
    done = subprocess.run(command, input=asked, capture_output=True, text=True, env=environment)
    if done.returncode == 2 and (lines := done.stdout.splitlines()):
        more = f" (and {len(lines) - 1} stages more)" if len(lines) > 1 else ""
        raise UserError(f"{lines[0]}{more}")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the configurations could not be built: {last}")


def expected_bytes(stage: Stage) -> int:
    """About what a stage has on disk at its worst moment."""
    config = stage.config
    if isinstance(config, TokenizerConfig | VarConfig):
        return int(4 * estimate(stage).parameters * (1 + STATES * CHECKPOINTS))
    if isinstance(config, SamplesConfig):
        return config.count * _image_size(stage) ** 2 * 3
    if isinstance(config, TokensConfig):
        pyramid = next(part.config.pyramid for part in stage.chain() if isinstance(part.config, TokenizerConfig))
        tokens = sum(side * side for side in pyramid.patch_nums)
        return images(config.data) * config.data.crops * tokens * TOKEN_BYTES
    return 1 << 20


def _image_size(stage: Stage) -> int:
    sizes = [part.config.data.image_size for part in stage.chain() if isinstance(part.config, TokenizerConfig)]
    return max(sizes, default=256)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


@contextlib.contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """One driver per study and preset; the kernel lets go however it ends. Raises `UserError` naming the other one."""
    folder.mkdir(parents=True, exist_ok=True)
    with locks.holding(
        folder / "driver.lock",
        lambda owner: (
            f"this study is being driven by {owner}; watch it with `python -m studies status`, or stop it first"
        ),
    ):
        yield
