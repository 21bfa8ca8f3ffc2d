"""fvar: next-focus prediction (FVAR / ReFocus-VAR) and the baselines it is measured against.

Importing the package is cheap: torch is loaded only by the modules that hold tensors.
"""

__version__ = "0.1.0"
