"""On the path of a toy study's jobs: Python imports this at its start, and stages become toys."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("fvar.run", Path(__file__).with_name("toy_stage.py"))
assert spec is not None
sys.modules["fvar.run"] = importlib.util.module_from_spec(spec)
assert spec.loader is not None
spec.loader.exec_module(sys.modules["fvar.run"])
