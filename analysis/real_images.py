"""Images of a data set that figures show beside samples, kept in the cache: reading the data takes half of a report."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from fvar.machine import atomic, cache
from fvar.machine.arrays import DAMAGED
from fvar.plain import to_dict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fvar.config import DataConfig
    from fvar.data import Split

    Images = NDArray[np.uint8]  # (N, H, W, 3)

FORM = 1  # raise it where the same question would be answered by other pixels


def of_classes(data: DataConfig, split: Split, labels: Sequence[int]) -> tuple[list[str], list[int], Images]:
    """The class names of a data set and, for each label, an image of that class, the next one for each repetition.

    Returns the names, the places in `labels` for which there is an image, and these. Raises `UserError` or `OSError`
    without the data.
    """

    def read() -> dict[str, NDArray[np.generic]]:
        import numpy as np

        from fvar.data import open_dataset

        images = open_dataset(data, split)
        members = {label: (images.labels == label).nonzero().flatten().tolist() for label in set(labels)}
        taken = [(members[label], labels[:place].count(label)) for place, label in enumerate(labels)]
        shown = {place: own[rank] for place, (own, rank) in enumerate(taken) if rank < len(own)}
        return {
            "names": np.array(images.class_names, dtype=np.str_),
            "places": np.array(list(shown), dtype=np.int64),
            "pixels": images.batch(list(shown.values())).permute(0, 2, 3, 1).numpy(),
        }

    found = _kept(data, ["of classes", split, list(labels)], read)
    return found["names"].tolist(), found["places"].tolist(), found["pixels"]  # type: ignore[return-value]


def numbered(data: DataConfig, split: Split, numbers: Sequence[int]) -> Images:
    """The images of these numbers. Raises `UserError` or `OSError` without the data."""

    def read() -> dict[str, NDArray[np.generic]]:
        from fvar.data import open_dataset

        return {"pixels": open_dataset(data, split).batch(numbers).permute(0, 2, 3, 1).numpy()}

    return _kept(data, ["numbered", split, list(numbers)], read)["pixels"]  # type: ignore[return-value]


def _kept(
    data: DataConfig, question: list[object], read: Callable[[], Mapping[str, NDArray[np.generic]]]
) -> Mapping[str, NDArray[np.generic]]:
    """The answer in the cache, else what is read. Data that are known by their place alone are read each time."""
    import numpy as np

    if data.root and not data.content:
        return read()
    identity = {key: value for key, value in to_dict(data).items() if key not in data.outside_identity()}
    digest = hashlib.sha256(json.dumps([FORM, identity, *question]).encode()).hexdigest()[:32]
    path = cache.directory() / "figures" / f"{digest}.npz"
    with contextlib.suppress(*DAMAGED), np.load(path, allow_pickle=False) as archive:  # there, and whole
        return dict(archive)
    data.require_unchanged()
    answer = read()
    with contextlib.suppress(OSError), atomic.replacing(path) as temporary:
        np.savez(temporary, **answer)  # type: ignore[arg-type]
    return answer
