"""From main memory to the device that computes, without waiting for what it is doing."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. A GPU copies it from locked memory, after what it was asked for before."""
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
