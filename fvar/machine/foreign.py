"""Networks in checkpoints that other programs wrote: found wherever they lie in the file, under plain names.

A trainer stores more than a network, and stores that under names of its own: {"trainer": {"var_wo_ddp": {...}}},
{"model": ..., "model_ema": ...}, "module.blocks.0..." of DDP, "_orig_mod." of torch.compile. A network is recognised by
two tensors that it must have.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fvar.errors import UserError, one_line
from fvar.machine.weights import some

State = dict[str, Tensor]


@dataclass(frozen=True)
class Found:
    """A state dict within a file; `place` says where, such as "trainer.var_wo_ddp"; it is empty for the file itself."""

    place: str
    state: State

    @property
    def averaged(self) -> bool:
        return "ema" in self.place.lower()


def read(path: Path) -> Any:
    """What a file of `torch.save` or safetensors holds. Raises `UserError`; nothing but plain values is unpickled."""
    if not path.is_file():
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # a trainer's settings; it can do nothing
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what the unpickler raises on arbitrary bytes is arbitrary too
        reason = " ".join(one_line(error).split())[:120]
        raise UserError(f"{path} is not a checkpoint of plain tensors ({reason})") from None


def network(body: Any, marks: tuple[str, str], what: str, where: str) -> State:
    """The state dict of one network in `body`, its names without a wrapper's prefix, its numbers in float32.

    Of several the averaged one (EMA) is taken, and a line says so.

    Parameters
    ----------
    marks
        Names of two tensors that this network has and others lack.
    what, where
        The network and the file, for messages.

    Raises
    ------
    UserError
        Where there is none, naming what was found; where a tensor holds NaN or infinity.
    """
    found = list(_networks(body, marks))
    if not found:
        raise UserError(
            f"{where} is no {what} checkpoint: expected tensors {' and '.join(marks)}, found {_listed(body)}"
        )
    chosen = next((one for one in found if one.averaged), found[0])
    if len(found) > 1:
        others = ", ".join(one.place or "the file itself" for one in found if one is not chosen)
        print(f"note: {where} holds several networks; {chosen.place or 'the file itself'} is taken, not {others}")
    state = {key: value.float() if value.is_floating_point() else value for key, value in chosen.state.items()}
    bad = [key for key, value in state.items() if not (value < math.inf).all()]  # a mask may hold -inf
    if bad:
        raise UserError(f"{where}: {len(bad)} of {len(state)} tensors hold NaN or infinity ({some(bad)})")
    return state


def _networks(body: Any, marks: tuple[str, str], place: str = "") -> Iterator[Found]:
    if not isinstance(body, Mapping):
        return
    tensors = {key: value for key, value in body.items() if isinstance(key, str) and isinstance(value, Tensor)}
    for key in tensors:
        prefix = key.removesuffix(marks[0])
        if key.endswith(marks[0]) and (not prefix or prefix.endswith(".")) and prefix + marks[1] in tensors:
            state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            yield Found(_joined(place, prefix.rstrip(".")), state)
    for key, value in body.items():
        yield from _networks(value, marks, _joined(place, str(key)))


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _listed(body: Any) -> str:
    """What is in a file, for a message."""
    if not isinstance(body, Mapping):
        return f"a {type(body).__name__}"
    return some(body.keys())
