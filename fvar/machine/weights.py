"""Loading weights into a module, with one line where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fvar.errors import UserError


def load_strictly(module: torch.nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """`load_state_dict(strict=True)`, complaining in one line of keys missing, unknown or of another shape."""
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise UserError(
            f"{where} does not fit: {len(missing)} tensors missing ({some(missing)}), "
            f"{len(unknown)} unknown ({some(unknown)})"
        )
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise UserError(f"{where}: {key} expected {list(value.shape)}, found {list(state[key].shape)}")
    module.load_state_dict(state)


def some(keys: object) -> str:
    """The first few of these names, for a message."""
    names = [str(key) for key in keys]  # type: ignore[attr-defined]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"
