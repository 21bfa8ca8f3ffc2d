"""The code a job runs: a copy of the packages as they were when the driver started.

    results/slurm/code/<hash of all files>/
        fvar/ analysis/ studies/    the source; and the modules of plugins (`fvar.plugins`)
        commit, diff      where it came from: the git commit, and what differed from it

A queued job therefore never sees a later edit, and a job requeued after days runs what it began with.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fvar.run import git_commit

PACKAGES = ("fvar", "analysis", "studies")
HASH_DIGITS = 16


def snapshot(source: Path, folder: Path, more: Mapping[Path, Path] | None = None) -> Path:
    """Copy the packages below `source`, and `more` files by their place, into `folder`, once per content.

    Returns the copy. It is written under another name and then renamed: a folder of that name is complete.
    """
    files = {path.relative_to(source): path.read_bytes() for path in _files(source)}
    files |= {place: path.read_bytes() for place, path in sorted((more or {}).items())}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    target = folder / digest.hexdigest()[:HASH_DIGITS]
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".staged-", dir=folder))
    try:
        staged.chmod(0o755)  # jobs of a colleague who continues the study read it, too
        for name, content in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(content)
        (staged / "commit").write_text(git_commit(source) + "\n")
        (staged / "diff").write_text(_diff(source))
        with contextlib.suppress(OSError):  # another driver was faster; what it made is the same
            staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def _files(source: Path) -> list[Path]:
    found = (path for package in PACKAGES for path in (source / package).rglob("*"))
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _diff(source: Path) -> str:
    """What differs from the commit; empty outside a repository."""
    command = ["git", "-C", str(source), "diff", "HEAD", "--", *PACKAGES]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
