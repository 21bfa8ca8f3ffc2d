"""Reading ahead: the next items are read by a thread while the present one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


def prefetch(read: Callable[[Item], Found], items: Iterable[Item], depth: int = 1) -> Iterator[Found]:
    """`read(item)` for each of `items`, in order, up to `depth` items ahead of the one in use.

    One thread reads, one item after another, so that random numbers are drawn as in a plain loop. An error of `read`
    is raised where its item is due.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        waiting: deque[Future[Found]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
