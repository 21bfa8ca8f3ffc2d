"""Locks: one process at a time, whatever became of the others."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from fvar.errors import UserError
from fvar.machine import locks


def refusal(owner: str) -> str:
    return f"held by {owner}"


def test_a_lock_says_who_holds_it_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    with locks.holding(path, refusal):
        assert locks.is_held(path)
        with pytest.raises(UserError, match=r"^held by process \d+ on "), locks.holding(path, refusal, patience=0.05):
            pass
        assert locks.is_held(path)
    assert not locks.is_held(path)


def test_a_lock_is_let_go_when_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locks.holding(tmp_path / "lock", refusal):
        raise ZeroDivisionError
    with locks.holding(tmp_path / "lock", refusal):
        pass


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with (
        pytest.raises(UserError, match="without locks \\(No locks available\\)"),
        locks.holding(tmp_path / "lock", refusal),
    ):
        pass
