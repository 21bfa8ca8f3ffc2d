"""Turns `pip freeze` (standard input) into requirements.lock (standard output).

`===` keeps pip from preferring a local build of torch ("2.13.0+cpu"), which torchvision does not import on; the CUDA
libraries exist for Linux only; the OCR package has no build for Python 3.13.
"""

import re
import sys

HEADER = """# Exact pins of everything fvar runs on; written by `make lock`.
# torch, torchvision and torch-fidelity belong together."""

print(HEADER)
for line in sorted(sys.stdin.read().splitlines(), key=str.lower):
    name, separator, version = line.partition("==")
    if not separator or name in ("pip", "wheel"):
        continue
    marker = ""
    if re.match(r"nvidia-|cuda-|triton$", name):
        marker = ' ; sys_platform == "linux" and platform_machine == "x86_64"'
    if name == "rapidocr-onnxruntime":
        marker = ' ; python_version < "3.13"'
    print(f"{name}{'===' if name == 'torch' else '=='}{version}{marker}")
