"""The OCR reads what a person reads, makes more mistakes the less is left to read, and mistakes are counted right."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fvar.data.text import page_names, render
from fvar.errors import UserError
from fvar.focus.optics import gaussian_psf
from fvar.metrics import ocr

needs_ocr = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None, reason="rapidocr-onnxruntime is not installed"
)
COUNT = 40


@cache
def reader() -> ocr.Reader:
    return ocr.load_reader(threads=1)


def words(
    size: int, side: int = 128, change: Callable[[Tensor], Tensor] = lambda page: page
) -> tuple[list[Tensor], list[str]]:
    """Pictures of the first held-out words in one size, cut from pages (1, 1, S, S) in [0, 255] after a `change`."""
    pictures: list[Tensor] = []
    written: list[str] = []
    for name in page_names("heldout", size):
        page = render(name, side)
        pixels = change(page.pixels[None, None].float())[0].round().clamp(0, 255).byte().expand(3, -1, -1)
        for word in page.words:
            left, top, right, bottom = word.box
            pictures.append(pixels[:, top:bottom, left:right])
            written.append(word.text)
        if len(written) >= COUNT:
            break
    return pictures[:COUNT], written[:COUNT]


def rate(pictures: Sequence[Tensor], written: Sequence[str]) -> float:
    return ocr.ErrorRate.of(reader().read(pictures), written).value


def blurred(sigma: float) -> Callable[[Tensor], Tensor]:
    psf = gaussian_psf(sigma).float()
    margin = psf.shape[-1] // 2
    return lambda page: F.conv2d(F.pad(page, [margin] * 4, mode="replicate"), psf[None, None])


def pixelated(factor: int) -> Callable[[Tensor], Tensor]:
    return lambda page: F.avg_pool2d(page, factor).repeat_interleave(factor, -1).repeat_interleave(factor, -2)


# -------------------------------------------------------------------------------------------------------------- reading


@needs_ocr
@pytest.mark.parametrize("size", [8, 12, 24, 48])
def test_clean_words_are_read_with_fewer_than_5_percent_errors_at_every_size(size: int) -> None:
    assert rate(*words(size)) < 0.05


@needs_ocr
def test_mistakes_grow_with_blur() -> None:
    rates = [rate(*words(16, change=blurred(sigma))) for sigma in (0.5, 2.0, 3.0, 4.0, 6.0)]
    assert rates[0] < 0.05
    assert rates == sorted(rates)
    assert rates[-1] > 0.9


@needs_ocr
def test_mistakes_grow_with_pixelation() -> None:
    rates = [rate(*words(16, change=pixelated(factor))) for factor in (1, 2, 4, 8)]
    assert rates[0] < 0.05
    assert rates == sorted(rates)
    assert rates[-1] > 0.9


@needs_ocr
def test_an_empty_picture_reads_as_nothing() -> None:
    assert reader().read([torch.full((3, 20, 60), 255, dtype=torch.uint8)]) == [""]
    assert reader().read([]) == []


@needs_ocr
def test_a_reading_does_not_depend_on_the_company() -> None:
    pictures, _ = words(12, change=blurred(1.5))
    together = reader().read(pictures)
    assert [reader().read([picture])[0] for picture in pictures] == together
    assert reader().read(pictures[::-1]) == together[::-1]


@needs_ocr
def test_readings_are_those_of_the_packages_own_front_end() -> None:
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:  # OpenCV without the system's libGL
        pytest.skip(f"rapidocr's front end does not load here ({error})")
    front = RapidOCR(intra_op_num_threads=1)
    pictures, written = words(20)
    theirs = []
    for picture in pictures:
        result, _ = front(picture.permute(1, 2, 0).numpy()[..., ::-1], use_det=False, use_cls=False)
        theirs.append(result[0][0])
    assert [ocr.normalise(text) for text in reader().read(pictures)] == [ocr.normalise(text) for text in theirs]
    assert ocr.ErrorRate.of(theirs, written).value < 0.05


class Session:
    """Stands for onnxruntime's: remembers what it is shown, and finds the classes it is told to."""

    def __init__(self, *best: int) -> None:
        self.scores = np.eye(4, dtype=np.float32)[list(best)]  # (T, classes): blank, a, b, space
        self.shown: list[np.ndarray] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="x")]

    def get_modelmeta(self) -> SimpleNamespace:
        return SimpleNamespace(custom_metadata_map={"character": "a\nb"})

    def run(self, _: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.shown.append(feed["x"])
        return [np.stack([self.scores] * len(feed["x"]))]


def test_runs_of_a_class_are_one_letter_and_blanks_part_equal_ones() -> None:
    stub = ocr.Reader(Session(0, 1, 1, 0, 1, 2, 2, 2, 3, 2, 0), "stub")
    assert stub.read([torch.zeros(3, 8, 8, dtype=torch.uint8)]) == ["aab b"]


def test_the_network_is_shown_48_px_of_height_black_to_white_as_minus_1_to_1_and_grey_beside() -> None:
    session = Session(0)
    picture = torch.zeros(3, 10, 30, dtype=torch.uint8)
    picture[:, 5:] = 255
    wide = torch.zeros(3, 10, 200, dtype=torch.uint8)
    ocr.Reader(session, "stub").read([wide, picture])
    first, second = session.shown  # by width
    assert (first.shape, second.shape) == ((1, 3, 48, 160), (1, 3, 48, 640))
    assert (first[..., :20, :144] == -1).all()
    assert (first[..., 28:, :144] == 1).all()
    assert (first[..., 144:] == 0).all()


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install rapidocr-onnxruntime"):
        ocr.load_reader()


# ------------------------------------------------------------------------------------------------------------- counting


def literal_distance(a: str, b: str) -> int:
    """Levenshtein's recursion as it is defined."""
    if not a or not b:
        return len(a) + len(b)
    replaced = literal_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(literal_distance(a[1:], b) + 1, literal_distance(a, b[1:]) + 1, replaced)


@given(st.text("ab", max_size=5), st.text("abc", max_size=5))
def test_edit_distance_is_levenshteins(a: str, b: str) -> None:
    assert ocr.edit_distance(a, b) == literal_distance(a, b)


@pytest.mark.parametrize(
    ("read", "written", "expected"),
    [
        ("kitten", "sitting", 3 / 7),
        ("", "word", 1.0),
        ("Word ", "word", 0.0),
        ("ｗord", "word", 0.0),
        ("aword", "wo", 1.5),
    ],
)
def test_error_rate_of_one_word(read: str, written: str, expected: float) -> None:
    assert ocr.ErrorRate.of([read], [written]).value == pytest.approx(expected)


def test_long_words_count_for_more_than_short_ones() -> None:
    found = ocr.ErrorRate.of(["", "planet"], ["it", "planet"])
    assert (found.words, found.characters, found.errors) == (2, 8, 2)
    assert found.value == pytest.approx(0.25)


def test_spread_is_what_drawing_other_words_would_give() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 7, 400)
    wrong = np.minimum(lengths, rng.poisson(1, 400))
    written = ["a" * n for n in lengths]
    read = ["a" * (n - e) for n, e in zip(lengths, wrong, strict=True)]
    draws = [rng.integers(0, 400, 400) for _ in range(400)]
    resampled = [wrong[draw].sum() / lengths[draw].sum() for draw in draws]
    assert ocr.ErrorRate.of(read, written).spread == pytest.approx(np.std(resampled), rel=0.15)


def test_an_error_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ocr.ErrorRate.of([], [])
