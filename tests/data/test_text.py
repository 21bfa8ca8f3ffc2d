"""Rendered words: known text at a known place, the same everywhere, and held-out words that no training page holds."""

from itertools import pairwise

import pytest
import torch

from fvar.config import DataConfig
from fvar.data import open_dataset
from fvar.data.text import PAGES, WORDS, page_names, render, sizes
from fvar.errors import UserError

TEXT_64 = DataConfig(dataset="text", image_size=64)


@pytest.mark.parametrize("side", [16, 64, 100])
def test_ink_lies_within_the_boxes_and_every_box_holds_some(side: int) -> None:
    for size in sizes(side):
        for name in page_names("heldout", size)[:4]:
            page = render(name, side)
            outside = page.pixels.clone()
            for word in page.words:
                left, top, right, bottom = word.box
                assert page.pixels[top:bottom, left:right].min() < 100
                outside[top:bottom, left:right] = 255
            assert page.words
            assert (outside == 255).all()


def test_words_of_a_line_leave_a_gap_that_separates_them() -> None:
    words = render("train/008-0000", 64).words
    lines = {word.box[1] for word in words}
    assert len(lines) >= 3
    for top in lines:
        line = [word.box for word in words if word.box[1] == top]
        assert all(left[2] <= right[0] for left, right in pairwise(line))


def test_no_held_out_word_is_on_a_training_page() -> None:
    shown = {
        split: {w.text for s in sizes(64) for n in page_names(split, s) for w in render(n, 64).words} for split in PAGES
    }
    assert not shown["train"] & shown["heldout"]
    assert shown["train"] | shown["heldout"] <= set(WORDS)
    letters = {split: set("".join(words)) for split, words in shown.items()}
    assert letters["heldout"] <= letters["train"]


def test_a_data_set_of_pages_by_font_size() -> None:
    train, heldout = (open_dataset(TEXT_64, split) for split in ("train", "heldout"))
    assert train.class_names == ["08 px", "10 px", "12 px", "16 px", "20 px", "24 px", "32 px"]
    assert (len(train), len(heldout)) == (7 * PAGES["train"], 7 * PAGES["heldout"])
    batch = heldout.batch([0, len(heldout) - 1])
    assert torch.equal(batch[1], render("heldout/032-0063", 64).pixels.expand(3, -1, -1))
    assert heldout.labels[-1] == 6


def test_a_page_follows_from_its_name_alone() -> None:
    first, again = (render("train/012-0003", 64) for _ in range(2))
    assert first.words == again.words
    assert torch.equal(first.pixels, again.pixels)
    assert render("train/012-0004", 64).words != first.words
    assert render("heldout/012-0003", 64).words != first.words


def test_a_page_too_small_for_type_says_what_to_raise() -> None:
    with pytest.raises(UserError, match=r"16 px.*data\.image_size"):
        open_dataset(DataConfig(dataset="text", image_size=15), "all")
