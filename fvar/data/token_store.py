"""The token store: a data set as tokens, computed once, read by memory mapping.

    train/scale_0.npy ... scale_<K-1>.npy   (N, p_k * p_k) uint16
    train/labels.npy                        (N,) int64
    heldout/...                             the same for the held-out images
    manifest.json                           what was coded by what, and the SHA-256 of every file; written last

Tokens of a scale at which the signal is zero (`silent`), as the sharpest alias residual, are 0 and stand for nothing.

Item i of `train` is training image i % n in its copy i // n, n images: copy 0 is the centre crop, the others are drawn
from the store's seed. That depends on nothing else, so stores of one data set and seed line up item by item, whichever
signal or tokenizer they hold.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fvar.config import TokensConfig
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.plain import identity
from fvar.rundir import RunDir

FORMAT = 1
SPLITS: tuple[Literal["train"], Literal["heldout"]] = ("train", "heldout")
Tokens = npt.NDArray[np.uint16]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenSplit:
    """The tokens of one split, memory-mapped: `indices[k]` is (N, p_k * p_k) uint16, `labels` is (N,) int64."""

    indices: list[Tokens]
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, items: Sequence[int] | Tensor) -> tuple[list[Tensor], Tensor]:
        """Tokens per scale (B, p_k * p_k) int64 and labels (B,) int64 of these items."""
        rows = np.asarray(items, dtype=np.int64)
        tokens = [torch.from_numpy(scale[rows].astype(np.int64)) for scale in self.indices]
        return tokens, torch.from_numpy(self.labels[rows].astype(np.int64))


@dataclass(frozen=True)
class TokenStore:
    """A verified token store; `open` it from the run directory of a `tokens` stage."""

    patch_nums: tuple[int, ...]
    vocab_size: int
    class_names: list[str]
    train: TokenSplit
    heldout: TokenSplit
    silent: tuple[int, ...] = ()  # scales (from 0) whose tokens are to be ignored
    drawn: Mapping[str, Any] = field(default_factory=dict)  # what decides which pixels item i holds: see `_drawn`

    @property
    def indices(self) -> list[Tokens]:
        """Training tokens per scale."""
        return self.train.indices

    @property
    def labels(self) -> Labels:
        """Labels of the training items."""
        return self.train.labels

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.train)

    @classmethod
    def open(cls, run: RunDir) -> TokenStore:
        """Map the store of a finished `tokens` run after checking every file against its checksum.

        Raises `UserError` if it is missing, damaged, or was written for another tokenizer, pyramid or data set.
        """
        manifest = read_manifest(run)
        if manifest is None:
            raise UserError(f"{run.path} holds no token store; first: python -m fvar.run {shlex.quote(str(run.path))}")
        _verify(run, manifest)
        train, heldout = (_map(run.path / split, len(manifest["patch_nums"])) for split in SPLITS)
        shape = (tuple(manifest["patch_nums"]), manifest["vocab_size"], manifest["class_names"])
        return cls(*shape, train, heldout, tuple(manifest.get("silent", ())), _drawn(run))

    def require_same_items(self, other: TokenStore) -> None:
        """Raise `UserError` unless both stores hold the same crops of the same images in the same order."""
        for name, mine in self.drawn.items():
            if (theirs := other.drawn.get(name)) != mine:
                raise UserError(
                    f"the two token stores were drawn differently: {name} is {mine} and {theirs}; "
                    "they must come from one data setting and seed"
                )
        for split in SPLITS:
            if not np.array_equal(getattr(self, split).labels, getattr(other, split).labels):
                raise UserError(
                    f"the two token stores differ in their {split} items; they must come from one data setting and seed"
                )


def read_manifest(run: RunDir) -> dict[str, Any] | None:
    """The manifest of `run`'s store, None if it is not complete. Raises `UserError` if it is another stage's."""
    path = run.path / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete {run.path} and run it again") from error
    if manifest.get("format") != FORMAT or manifest.get("signature") != run.signature:
        raise UserError(
            f"{path} was written for signature {manifest.get('signature')}, but this stage's tokenizer, pyramid "
            f"and data have {run.signature}; delete {run.path} and run it again"
        )
    return manifest


def write_manifest(
    run: RunDir, patch_nums: tuple[int, ...], vocab_size: int, class_names: list[str], silent: Collection[int] = ()
) -> None:
    """Seal the store: after this it counts as complete."""
    files = [run.path / split / name for split in SPLITS for name in _names(len(patch_nums))]
    atomic.write_json(
        run.path / "manifest.json",
        {
            "format": FORMAT,
            "signature": run.signature,
            "inputs": run.input_names,
            "patch_nums": patch_nums,
            "vocab_size": vocab_size,
            "class_names": class_names,
            "silent": sorted(silent),
            "files": {
                str(path.relative_to(run.path)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
                for path in files
            },
        },
    )


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Replace a .npy file atomically."""
    with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


# -------------------------------------------------------------------------------------------------------------- details


def _drawn(run: RunDir) -> dict[str, Any]:
    """The settings that decide which pixels an item holds, of a `tokens` run."""
    if not isinstance(run.config, TokensConfig):
        return {}
    data = {f"data.{name}": value for name, value in identity(run.config.data).items()}
    return {**data, "seed": run.config.seed}


def _names(scales: int) -> list[str]:
    return [*(f"scale_{k}.npy" for k in range(scales)), "labels.npy"]


def _map(folder: Path, scales: int) -> TokenSplit:
    *indices, labels = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in _names(scales))
    return TokenSplit(list(indices), labels)


def _verify(run: RunDir, manifest: dict[str, Any]) -> None:
    for name in (f"{split}/{file}" for split in SPLITS for file in _names(len(manifest["patch_nums"]))):
        path, promised = run.path / name, manifest["files"][name]
        found = path.stat().st_size if path.exists() else None
        if found != promised["bytes"] or _sha256(path) != promised["sha256"]:
            problem = "is missing" if found is None else "does not match its checksum"
            raise UserError(f"{path} {problem}; delete {run.path} and run it again")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
