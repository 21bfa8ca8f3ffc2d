"""fvar: next-focus prediction (FVAR / ReFocus-VAR) and the baselines it is measured against.

Importing the package is cheap: torch is loaded only by the modules that hold tensors.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fvar.focus import optics as optics
    from fvar.focus import pyramid as pyramid
    from fvar.focus import spectrum as spectrum

__version__ = "0.2.0"

SHORTCUTS = ("optics", "pyramid", "spectrum")  # `from fvar import optics`: what a notebook reaches for first


def __getattr__(name: str) -> ModuleType:
    if name in SHORTCUTS:
        return importlib.import_module(f"fvar.focus.{name}")
    raise AttributeError(f"module 'fvar' has no attribute {name!r}")
