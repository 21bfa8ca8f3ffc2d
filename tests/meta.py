"""A device without memory: what runs on meta tensors without an error would wait for no GPU, and mix no devices.

Meta tensors have a shape, a type and a device of their own, but no numbers. Whoever asks one of them for a number gets
an error; `OneDevice` refuses the rest: torch lets some operations of two devices pass there, and none on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class OneDevice(TorchDispatchMode):
    """Refuses operations that take tensors of two devices, 0-d ones aside: torch lets those of the CPU pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()]
        if func not in COPIES and len({tensor.device for tensor in tensors}) > 1:
            raise RuntimeError(f"{func} mixes devices")
        return func(*args, **(kwargs or {}))
