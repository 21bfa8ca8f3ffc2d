"""The former name of `fvar.metrics.aliasing`: its command still answers to it."""

from __future__ import annotations

from fvar.errors import run_main
from fvar.metrics.aliasing import main

if __name__ == "__main__":
    run_main(main)
