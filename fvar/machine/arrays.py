"""Reading numpy's files, which fail in a dozen ways where they were cut short or are something else."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib

# What `np.load(..., allow_pickle=False)`, and reading an array of what it returns, raise for a file that is not whole.
DAMAGED = (
    OSError,
    ValueError,  # also of a pickle, which is never loaded
    KeyError,
    EOFError,
    NotImplementedError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
