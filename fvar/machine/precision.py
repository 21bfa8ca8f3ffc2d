"""Which precision is computed in: the one asked for, where the processor can multiply matrices in it.

A processor without half-precision matrix kernels (x86 before AVX-512, many laptops) still computes in them, number by
number: measured, 0.7 GFLOP/s in bf16 where float32 reaches 130. There, half precision asked for becomes float32. That
is the same method, rounded less, so a run keeps its identity; it says so in its log, in `attempts.jsonl` and in every
table made of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # configurations name precisions, and are read without torch
    import torch

Precision = Literal["fp32", "bf16", "fp16"]


def dtype_of(precision: Precision) -> torch.dtype:
    """torch's name of a precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def computed(asked: Precision, device: torch.device) -> Precision:
    """What a computation for which `asked` was configured is done in on `device`."""
    return asked if device.type != "cpu" or has_kernels(asked) else "fp32"


def has_kernels(precision: Precision) -> bool:
    """Whether this machine's processor has matrix kernels of that precision."""
    if precision == "fp32":
        return True
    import torch

    try:
        return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")())
    except (AttributeError, RuntimeError):  # a torch built without oneDNN
        return False


def asked_by(config: object) -> Precision | None:
    """The precision a stage's configuration names; None for a stage that leaves no choice."""
    found: Precision | None = getattr(getattr(config, "train", config), "precision", None)
    return found


def shortfall(asked: Precision) -> str:
    """One line for whoever asked for a precision and gets float32."""
    return f"note: this processor has no {asked} matrix kernels; computing in float32"


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices and convolve as float32, not as TF32, which GPUs do by default and FID would notice."""
    import torch

    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision
