"""The embedded emoji: what is in them, and which are held out."""

from collections import Counter

import pytest
import torch

from fvar.config import DataConfig
from fvar.data import open_dataset
from fvar.errors import UserError

EMOJI_64 = DataConfig(dataset="emoji", image_size=64)


def test_emoji_have_the_documented_classes_and_counts() -> None:
    images = open_dataset(EMOJI_64, "all")
    counts = Counter(images.class_names[label] for label in images.labels.tolist())
    assert counts == {
        "Activities": 85,
        "Animals & Nature": 157,
        "Flags": 253,
        "Food & Drink": 128,
        "Objects": 261,
        "People & Body": 361,
        "Smileys & Emotion": 167,
        "Symbols": 224,
        "Travel & Places": 218,
    }
    assert images.class_names == sorted(images.class_names)
    assert len(images) == len(set(images.names)) == 1854


def test_train_and_heldout_partition_every_class_in_the_same_share() -> None:
    whole = open_dataset(EMOJI_64, "all")
    train, heldout = open_dataset(EMOJI_64, "train"), open_dataset(EMOJI_64, "heldout")
    assert set(train.names) | set(heldout.names) == set(whole.names)
    assert not set(train.names) & set(heldout.names)
    shares = torch.bincount(heldout.labels) / torch.bincount(whole.labels)
    assert torch.all((shares - EMOJI_64.holdout).abs() < 0.5 / torch.bincount(whole.labels))


def test_the_split_follows_its_seed_and_not_the_image_size() -> None:
    first = open_dataset(EMOJI_64, "heldout").names
    assert open_dataset(DataConfig(dataset="emoji", image_size=128), "heldout").names == first
    assert open_dataset(DataConfig(dataset="emoji", image_size=64, split_seed=1), "heldout").names != first


@pytest.mark.parametrize("size", [64, 128])
def test_batches_hold_the_images_of_their_names_on_white(size: int) -> None:
    heldout = open_dataset(DataConfig(dataset="emoji", image_size=size), "heldout")
    whole = open_dataset(DataConfig(dataset="emoji", image_size=size), "all")
    numbers = [7, 3, 3]
    batch = heldout.batch(numbers)
    assert batch.shape == (3, 3, size, size)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, whole.batch([whole.names.index(heldout.names[i]) for i in numbers]))
    corners = batch[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 240


def test_64_px_is_the_low_pass_of_128_px() -> None:
    """Lanczos reduction keeps area means: 2x2 block averages of the large image are near the small one."""
    small = open_dataset(EMOJI_64, "all").batch(range(20)).float()
    large = open_dataset(DataConfig(dataset="emoji", image_size=128), "all").batch(range(20)).float()
    blocks = torch.nn.functional.avg_pool2d(large, 2)
    assert (small - blocks).abs().mean() < 2.0
    assert (small - large[..., ::2, ::2]).abs().mean() > 2 * (small - blocks).abs().mean()


def test_flips_and_crops_happen_only_when_asked_for() -> None:
    draw = torch.Generator().manual_seed(0)
    plain = open_dataset(EMOJI_64, "all")
    assert torch.equal(plain.batch(range(16), draw), plain.batch(range(16)))
    flipping = open_dataset(DataConfig(dataset="emoji", image_size=64, flip=True), "all")
    seen = flipping.batch(range(64), draw)
    mirrored = [torch.equal(seen[i], plain.batch([i])[0].flip(-1)) for i in range(64)]
    kept = [torch.equal(seen[i], plain.batch([i])[0]) for i in range(64)]
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48
    cropping = open_dataset(DataConfig(dataset="emoji", image_size=64, crop="random"), "all")
    again = [cropping.batch(range(8), torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*again)
    assert not torch.equal(again[0], cropping.batch(range(8)))


def test_more_than_the_stored_resolution_is_refused() -> None:
    with pytest.raises(UserError, match="128"):
        open_dataset(DataConfig(dataset="emoji", image_size=256), "train")
