"""Which images are held out: a pure function of the seed and the file names."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

SPLIT_WORDS: dict[str, Literal["train", "heldout", "test"]] = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset"), "heldout"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}


def named_split(name: str) -> Literal["train", "heldout", "test"] | None:
    """The split that a folder or shard is named after, such as imagenet1k-validation-0001; None if there is not one."""
    found = {SPLIT_WORDS[word] for word in re.split("[^a-z]+", name.lower()) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def heldout_mask(names: Sequence[str], labels: Sequence[int], share: float, seed: int) -> list[bool]:
    """Hold out the same share of every class.

    Within a class the files are ordered by a hash of (seed, name), and the first `round(share * n)` are held out: at
    least one if `share > 0` and the class has two files, and never all. The order of the list does not matter, and
    adding a file to a class moves at most one other file to the other side.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    mask = [False] * len(names)
    for indices in members.values():
        count = min(max(round(share * len(indices)), int(share > 0)), len(indices) - 1)
        for index in sorted(indices, key=lambda i: _rank(names[i], seed))[:count]:
            mask[index] = True
    return mask


def balanced_subset(names: Sequence[str], labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Indices of `count` images, class sizes as equal as the data allow, ascending.

    Classes take turns; within a class the files come in the order of `heldout_mask`, so a larger subset contains a
    smaller one. Returns all indices where there are no more than `count`.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(names)), key=lambda i: _rank(names[i], seed)):
        members[labels[index]].append(index)
    turns = ((position, label, index) for label, m in members.items() for position, index in enumerate(m))
    return sorted(index for _, _, index in sorted(turns)[:count])


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest()
