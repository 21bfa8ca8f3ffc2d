"""The device that tests marked `gpu` run on: a GPU, or the one that the GPU check was told to use."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = "FVAR_GPU_CHECK_DEVICE"  # cpu: the same tests where there is no GPU, to test them


@pytest.fixture
def device() -> torch.device:
    name = os.environ.get(DEVICE, "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")
    return torch.device(name, 0) if name == "cuda" else torch.device(name)
