"""What every data set looks like to the rest of fvar: numbered, labelled images of one size, read in batches."""

from __future__ import annotations

import concurrent.futures
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fvar.config import DataConfig
from fvar.data.images import Unreadable, crop_at, resize_shorter, resized_side, to_tensor
from fvar.data.index import system_failure
from fvar.data.split import balanced_subset
from fvar.errors import UserError


class ImageSet(ABC):
    """N labelled images, served as (B, 3, image_size, image_size) uint8.

    `names` identify the images within their data set, `class_names` are sorted, `labels` index them, and `skipped`
    names the unreadable files that were left out.
    """

    def __init__(
        self,
        config: DataConfig,
        names: Sequence[str],
        labels: Sequence[int] | Tensor,
        class_names: Sequence[str],
        skipped: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.names = list(names)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.class_names = list(class_names)
        self.skipped = list(skipped)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Side of a served image in px."""
        return self.config.image_size

    def batch(self, indices: Sequence[int] | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, S, S) uint8, in the order asked for.

        With a `generator`, crops and mirrors as the configuration says; the numbers drawn do not depend on the threads.
        Without one, always the centre crop, unmirrored.
        """
        numbers = [int(index) for index in indices]
        draws = torch.full((len(numbers), 3), 0.5)
        if generator is not None:
            draws = torch.rand((len(numbers), 3), generator=generator)
        images = []
        for pixels, (top, left, mirror) in zip(self._read(numbers), draws.tolist(), strict=True):
            place = (top, left) if self.config.crop == "random" else (0.5, 0.5)
            images.append(crop_at(pixels, self.image_size, place, self.config.flip and mirror < 0.5))
        return torch.stack(images) if images else torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)

    @abstractmethod
    def _read(self, indices: Sequence[int]) -> Iterable[Tensor]:
        """Resized but uncropped images, each (3, H, W) uint8."""

    @abstractmethod
    def select(self, indices: Sequence[int]) -> ImageSet:
        """The subset of these images, in this order."""

    def balanced(self, count: int, seed: int) -> ImageSet:
        """`count` of these images (all, if there are no more), class sizes as equal as the data allow."""
        return self.select(balanced_subset(self.names, self.labels.tolist(), count, seed))


class MemoryImages(ImageSet):
    """A small data set in one tensor.

    `load` returns (M, 3, R, R) uint8, when pixels are first needed; `rows[i]` is where image i stands in it.
    """

    def __init__(
        self,
        config: DataConfig,
        load: Callable[[], Tensor],
        names: Sequence[str],
        labels: Sequence[int] | Tensor,
        class_names: Sequence[str],
        rows: Sequence[int] | None = None,
    ) -> None:
        super().__init__(config, names, labels, class_names)
        self.load = load
        self.rows = list(range(len(names))) if rows is None else list(rows)

    def _read(self, indices: Sequence[int]) -> Iterable[Tensor]:
        return self.load()[[self.rows[index] for index in indices]]

    def select(self, indices: Sequence[int]) -> MemoryImages:
        return MemoryImages(
            self.config,
            self.load,
            [self.names[i] for i in indices],
            self.labels[list(indices)],
            self.class_names,
            [self.rows[i] for i in indices],
        )


class FileImages(ImageSet):
    """A large data set, decoded image by image on `workers` threads (Pillow decodes outside the interpreter lock).

    `read(name)` returns the image stored under a name.
    """

    def __init__(
        self,
        config: DataConfig,
        read: Callable[[str], Image.Image],
        names: Sequence[str],
        labels: Sequence[int] | Tensor,
        class_names: Sequence[str],
        skipped: Sequence[str] = (),
        workers: int = 2,
    ) -> None:
        super().__init__(config, names, labels, class_names, skipped)
        self.read = read
        self.workers = workers
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    def _read(self, indices: Sequence[int]) -> Iterable[Tensor]:
        if self.workers < 2 or len(indices) < 2:
            return map(self._read_one, indices)
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        return self._pool.map(self._read_one, indices)

    def _read_one(self, number: int) -> Tensor:
        name = self.names[number]
        try:
            image = self.read(name)
        except Unreadable as error:
            raise UserError(
                f"{self.config.root}: {name} can no longer be read ({error}); restore it, or remove it and run again"
            ) from error
        except OSError as error:
            raise system_failure(Path(self.config.root), name, error) from error
        return to_tensor(resize_shorter(image, resized_side(self.image_size, self.config.crop)))

    def select(self, indices: Sequence[int]) -> FileImages:
        names = [self.names[i] for i in indices]
        labels = self.labels[list(indices)]
        return FileImages(self.config, self.read, names, labels, self.class_names, self.skipped, self.workers)
