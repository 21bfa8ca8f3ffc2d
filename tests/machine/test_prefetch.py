"""Reading ahead changes when items are read, and nothing else."""

from __future__ import annotations

import threading

import pytest

from fvar.machine.prefetch import prefetch


@pytest.mark.parametrize("depth", [0, 1, 3, 9])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_results_come_in_order_read_by_one_thread(count: int, depth: int) -> None:
    threads = set()

    def read(number: int) -> int:
        threads.add(threading.get_ident())
        return number**2

    assert list(prefetch(read, range(count), depth)) == [number**2 for number in range(count)]
    assert len(threads) <= 1
    assert threading.get_ident() not in threads


def test_the_next_item_is_read_while_one_is_in_use() -> None:
    second_read = threading.Event()

    def read(number: int) -> int:
        if number == 1:
            second_read.set()
        return number

    reading = prefetch(read, range(3))
    assert next(reading) == 0
    assert second_read.wait(60)
    reading.close()  # type: ignore[attr-defined]


def test_an_error_is_raised_where_its_item_is_due() -> None:
    reading = prefetch(lambda number: 6 // number, [3, 2, 0, 1])
    assert [next(reading), next(reading)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(reading)
