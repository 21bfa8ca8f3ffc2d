"""A device without memory: what runs on meta tensors without an error would wait for no GPU, and mix no devices.

Meta tensors have a shape, a type and a device of their own, but no numbers. Whoever asks one of them for a number gets
an error; `OneDevice` refuses the rest: torch lets some operations of two devices pass there, and none on a GPU; and a
GPU is waited for, too, by whoever hands it numbers of Python's or memory that is not locked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


MADE_OF_NUMBERS = {torch.tensor, torch.as_tensor, torch.asarray}


class OneDevice(TorchDispatchMode):
    """Refuses operations that take tensors of two devices, 0-d ones aside: torch lets those of the CPU pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()]
        if func not in COPIES and len({tensor.device for tensor in tensors}) > 1:
            raise RuntimeError(f"{func} mixes devices")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def never_waiting() -> Iterator[None]:
    """Refuse also what makes a GPU wait for the CPU, or the CPU for it.

    That is a tensor made there of Python's numbers (`torch.tensor([1, 2], device="cuda")`), and a copy to or from it
    that is not `non_blocking`.
    """
    with _NoNumbers(), _NoCopies():
        yield


class _NoCopies(OneDevice):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in COPIES and _waits(func, args, kwargs or {}):
            raise RuntimeError(f"{func} between devices is waited for")
        return super().__torch_dispatch__(func, types, args, kwargs)


def _waits(func: Any, args: Any, kwargs: Any) -> bool:
    if func is torch.ops.aten.copy_.default:
        there, given, *rest = args
        return there.device != given.device and not (rest and rest[0])
    return torch.device(kwargs.get("device") or args[0].device) != args[0].device and not kwargs.get("non_blocking")


class _NoNumbers(TorchFunctionMode):
    """The dispatcher does not tell who made a tensor of numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in MADE_OF_NUMBERS and made.device == META and not isinstance(args[0], Tensor):
            raise RuntimeError(f"{func.__name__} of numbers is waited for")
        return made
