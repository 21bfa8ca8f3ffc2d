"""What an error of a disk looks like, from the system itself and through libraries."""

from __future__ import annotations

import errno
import os
import sqlite3

import pytest

from fvar.machine.troubles import PASSING, passing


def raised(number: int) -> OSError:
    return OSError(number, os.strerror(number), "some/file")


@pytest.mark.parametrize("number", sorted(PASSING))
def test_each_is_told_in_a_line_with_its_file(number: int) -> None:
    assert passing(raised(number)).endswith("(some/file)")


def test_the_folder_is_named_where_the_file_is_not_known() -> None:
    assert passing(OSError(errno.ENOSPC, "so"), "runs/var-1") == "the disk is full (runs/var-1)"
    assert passing(raised(errno.ENOSPC), "runs/var-1") == "the disk is full (some/file)"
    assert passing(OSError(errno.ENOSPC, "so")) == "the disk is full"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:778] . PytorchStreamWriter failed writing file data/3"),
        sqlite3.OperationalError("database or disk is full"),
        OSError("Caught OSError in a worker: [Errno 116] Stale file handle"),
    ],
)
def test_what_libraries_make_of_it_is_recognised(error: Exception) -> None:
    assert passing(error).startswith("a file could not be read or written")


def test_it_is_found_below_what_was_raised_from_it_or_while_handling_it() -> None:
    cause, caused, followed = raised(errno.EDQUOT), ValueError("cannot save"), ValueError("cannot save")
    caused.__cause__ = cause
    followed.__context__ = caused
    assert passing(caused) == passing(followed) == "the disk quota is used up (some/file)"
    followed.__suppress_context__ = True  # raised "from None"
    assert passing(followed) == ""


@pytest.mark.parametrize(
    "error",
    [raised(errno.ENOENT), raised(errno.EACCES), raised(errno.EFBIG), ValueError("shape"), MemoryError(), KeyError(28)],
)
def test_other_errors_are_verdicts(error: Exception) -> None:
    assert passing(error) == ""


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert passing(one) == ""
