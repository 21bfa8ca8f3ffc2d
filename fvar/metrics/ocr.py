"""Reads pictures of single words by an OCR, and counts its mistakes.

The network is PP-OCRv4's recogniser as the package rapidocr-onnxruntime carries it, run by onnxruntime. The package's
own front end is not used: it imports OpenCV, whose wheels need a desktop's system libraries. Nor is its detector: where
a word stands is known here, so that all that is measured is whether it can be read. A word is shown alone, enlarged (or
reduced) to the 48 px of height that the network takes, whatever its size in the image.
"""

from __future__ import annotations

import importlib.util
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fvar.errors import UserError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PACKAGE, MODEL = "rapidocr_onnxruntime", Path("models") / "ch_PP-OCRv4_rec_infer.onnx"
HEIGHT = 48  # px, what the network was trained on
NARROWEST, WIDEST, STEP = 96, 640, 32  # px of width that the network is given: the word's own, rounded up by grey
BATCH = 16
BLANK = 0  # class that separates equal letters in connectionist temporal classification


class Reader:
    """PP-OCRv4's recogniser. `name` says which one; `load_reader` makes it."""

    def __init__(self, session: InferenceSession, name: str) -> None:
        self.name = name
        self._session = session
        self._input = session.get_inputs()[0].name
        # One character per line; the blank comes first and the space, which no line can hold, last.
        self._characters = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]

    def read(self, pictures: Sequence[Tensor]) -> list[str]:
        """What stands in each picture (3, h, w) uint8; empty where nothing can be read.

        A picture's reading does not depend on the others.
        """
        texts = [""] * len(pictures)
        inputs = [_input(picture) for picture in pictures]
        by_width = sorted(range(len(pictures)), key=lambda i: inputs[i].shape[-1])
        while by_width:
            width = inputs[by_width[0]].shape[-1]
            batch = [i for i in by_width[:BATCH] if inputs[i].shape[-1] == width]
            by_width = by_width[len(batch) :]
            scores = self._session.run(None, {self._input: np.stack([inputs[i] for i in batch])})[0]
            for i, best in zip(batch, np.asarray(scores).argmax(2), strict=True):  # scores (B, T, characters)
                texts[i] = self._decode(best)
        return texts

    def _decode(self, best: NDArray[np.int64]) -> str:
        """Greedy decoding: of a run of one class (T,) only the first counts, and blanks do not."""
        starts = np.flatnonzero(np.diff(best, prepend=-1))
        return "".join(self._characters[label] for label in best[starts] if label != BLANK)


def load_reader(threads: int = 0) -> Reader:
    """The OCR, computing on `threads` CPU threads (0: all). Raises `UserError` where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    try:
        import onnxruntime
    except ImportError:
        found = None
    if found is None or found.origin is None:
        raise UserError(
            "the OCR is not installed: `pip install rapidocr-onnxruntime` (Python 3.12 at most), then run this again"
        )
    path = Path(found.origin).parent / MODEL
    if not path.is_file():
        raise UserError(f"{path} is missing; install rapidocr-onnxruntime 1.4.4 again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    version = metadata.version("rapidocr-onnxruntime")
    return Reader(session, f"PP-OCRv4 of rapidocr-onnxruntime {version}")


def _input(picture: Tensor) -> NDArray[np.float32]:
    """(3, 48, W) in [-1, 1], the word on the left and grey to its right, as the network's own front end pads."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    width = min(max(1, round(image.width * HEIGHT / image.height)), WIDEST)
    padded = max(NARROWEST, math.ceil(width / STEP) * STEP)
    made = np.zeros((3, HEIGHT, padded), dtype=np.float32)
    enlarged = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), dtype=np.float32)
    made[:, :, :width] = enlarged.transpose(2, 0, 1) / 127.5 - 1
    return made


# ------------------------------------------------------------------------------------------------------------- mistakes


@dataclass(frozen=True)
class ErrorRate:
    """Character error rate: edits that turn what was read into what was written, over the characters written.

    0 is read without a mistake, 1 is as bad as reading nothing; reading more than was written can even exceed it.
    `spread` is the standard error of `value` if other words were drawn (that of a ratio of sums over words).
    """

    words: int
    characters: int
    errors: int
    value: float
    spread: float

    @classmethod
    def of(cls, read: Iterable[str], written: Iterable[str]) -> ErrorRate:
        """Compare word by word; case and blanks do not count. Raises ValueError for no words."""
        pairs = [(normalise(a), normalise(b)) for a, b in zip(read, written, strict=True)]
        errors = [edit_distance(a, b) for a, b in pairs]
        lengths = [len(b) for _, b in pairs]
        if not sum(lengths):
            raise ValueError("an error rate needs at least one written character")
        value, count = sum(errors) / sum(lengths), len(pairs)
        squares = sum((error - value * length) ** 2 for error, length in zip(errors, lengths, strict=True))
        spread = math.sqrt(squares * count / max(count - 1, 1)) / sum(lengths)
        return cls(count, sum(lengths), sum(errors), value, spread)


def normalise(text: str) -> str:
    """Without blanks and case, and wide forms as plain letters: a word on its own does not tell o from O."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and replacements of a character that make `a` of `b`."""
    row = list(range(len(b) + 1))  # distances of the part of `a` so far to every prefix of `b`
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]
