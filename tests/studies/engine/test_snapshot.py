"""The copy of the code that SLURM jobs run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from studies.engine.backends.snapshot import snapshot


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A little project with the packages' names."""
    root = tmp_path / "source"
    for package in ("fvar", "studies"):
        (root / package / "__pycache__").mkdir(parents=True)
        (root / package / "__init__.py").write_text(f"name = {package!r}\n")
        (root / package / "__pycache__" / "x.pyc").write_bytes(b"old")
    return root


def test_an_edit_after_the_copy_does_not_reach_it(source: Path, tmp_path: Path) -> None:
    code = snapshot(source, tmp_path / "code")
    (source / "fvar" / "__init__.py").write_text("name = 'edited'\n")
    assert (code / "fvar" / "__init__.py").read_text() == "name = 'fvar'\n"


def test_the_same_code_is_copied_once_and_an_edit_makes_another_copy(source: Path, tmp_path: Path) -> None:
    first = snapshot(source, tmp_path / "code")
    assert snapshot(source, tmp_path / "code") == first
    (source / "fvar" / "__pycache__" / "x.pyc").write_bytes(b"new")
    assert snapshot(source, tmp_path / "code") == first
    (source / "studies" / "__init__.py").write_text("# edited\n")
    assert snapshot(source, tmp_path / "code") != first
    assert len(list((tmp_path / "code").iterdir())) == 2


def test_a_copy_that_was_cut_off_is_never_taken_for_a_whole_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("studies.engine.backends.snapshot._diff", fail)
        with pytest.raises(KeyboardInterrupt):
            snapshot(source, tmp_path / "code")
    assert list((tmp_path / "code").iterdir()) == []
    assert (snapshot(source, tmp_path / "code") / "diff").exists()


def test_the_copy_says_which_commit_and_which_changes_it_is_made_of(source: Path, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    (source / "fvar" / "__init__.py").write_text("name = 'edited'\n")
    code = snapshot(source, tmp_path / "code")
    assert (code / "commit").read_text() == git("rev-parse", "HEAD") + "+\n"
    assert "+name = 'edited'" in (code / "diff").read_text()
