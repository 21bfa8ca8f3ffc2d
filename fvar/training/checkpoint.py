"""Checkpoints that are whole or absent: written aside by a thread, synced, renamed, and verified before use.

    checkpoints/step-00000300/
        <name>.safetensors   named groups of tensors: modules, optimisers, averaged weights
        state.json           numbers that are not tensors
        manifest.json        step, size and SHA-256 of the files above; written last

No pickle anywhere: reading a checkpoint cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fvar.machine import atomic

TensorGroups = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """What was restored: the number of completed steps, tensors by group, and plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class DamagedError(Exception):
    """A checkpoint does not hold what its manifest promises."""


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the best. `join` before trusting the last to be on disk."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = max(keep, 1)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in names if match)

    def save(self, step: int, tensors: TensorGroups, state: Mapping[str, Any], best: int | None = None) -> None:
        """Copy everything to main memory now and write it in the background.

        `best` is the step of the best checkpoint so far: it stays, however old it is. Raises what the previous write
        raised, `OSError` for a full disk.
        """
        self.join()
        copies = {
            group: {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in content.items()}
            for group, content in tensors.items()
        }
        self._pending = self._writer.submit(self._write, step, copies, json.dumps(state), best)

    def join(self) -> None:
        """Wait for the write in progress; raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Finish the write in progress, whatever came of it, and release the thread."""
        self._writer.shutdown(wait=True)

    def read(self, step: int) -> Checkpoint:
        """One checkpoint. Raises `DamagedError` if it is not what was written."""
        return _read(self._path(step), step)

    def load(self) -> tuple[Checkpoint | None, str]:
        """The newest undamaged checkpoint, or None; and a line about the damaged ones passed over, or ""."""
        damaged: list[str] = []
        found: Checkpoint | None = None
        for step in reversed(self.steps):
            try:
                found = self.read(step)
                break
            except DamagedError as error:
                damaged.append(f"checkpoint {step} is damaged ({error})")
                os.replace(self._path(step), self.folder / f"damaged-{step:08d}")
        if not damaged:
            return found, ""
        return found, f"{'; '.join(damaged)}; {f'continued from {found.step}' if found else 'started over'}"

    # ------------------------------------------------------------------------------------------------------- details

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _write(self, step: int, tensors: TensorGroups, state: str, best: int | None) -> None:
        temporary = self.folder / f".writing-{step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            for group, content in tensors.items():
                _save_tensors(content, temporary / f"{group}.safetensors")
            (temporary / "state.json").write_text(state)
            files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
            (temporary / "manifest.json").write_text(json.dumps({"step": step, "files": files}, indent=1))
            for path in (*temporary.iterdir(), temporary):
                atomic.sync(path)
            # The target exists only if this very step was saved before a resume; both hold the same values.
            shutil.rmtree(self._path(step), ignore_errors=True)
            os.replace(temporary, self._path(step))
            atomic.sync(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune(best)

    def _prune(self, best: int | None) -> None:
        steps = self.steps
        kept = {self._path(step) for step in (*steps[-self.keep :], *(step for step in steps if step == best))}
        for path in self.folder.iterdir():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


def _save_tensors(content: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file(dict(content), path)
        atomic.share(path)
    except SafetensorError as error:  # hides the system's error number in its text
        number = re.search(r"os error (\d+)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _read(path: Path, step: int) -> Checkpoint:
    """Read and verify one checkpoint. Raises `DamagedError` saying which file is wrong and how."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        promised = dict(manifest["files"])
        if manifest["step"] != step or "state.json" not in promised:
            raise DamagedError("manifest.json does not belong to it")
        for name, expected in promised.items():
            if not (path / name).is_file():
                raise DamagedError(f"{name} is missing")
            if _fingerprint(path / name) != expected:
                raise DamagedError(f"{name} fails its checksum")
        state = json.loads((path / "state.json").read_text())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"manifest.json cannot be read: {error}") from None
    groups = [name.removesuffix(".safetensors") for name in promised if name.endswith(".safetensors")]
    return Checkpoint(step, {group: load_file(path / f"{group}.safetensors") for group in groups}, state)
