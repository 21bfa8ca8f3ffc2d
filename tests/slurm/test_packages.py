"""Installing the cluster's packages waits while another process installs its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvar.errors import UserError
from slurm.loopback import packages

HELD = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4711 (unattended-upgr)"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-get that fails with the lines of `complaints`, one after another, and then works."""
    script = tmp_path / "apt-get"
    script.write_text(
        f"#!/bin/sh\necho call >> {tmp_path}/calls\n[ -s {tmp_path}/complaints ] || exit 0\n"
        f"head -n 1 {tmp_path}/complaints >&2\nsed -i 1d {tmp_path}/complaints\nexit 100\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "LOCK_PAUSE", 0.0)
    return tmp_path


def test_a_held_lock_is_waited_for_with_one_line(apt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (apt / "complaints").write_text(f"{HELD}\n" * 3)
    packages._apt("update")
    assert (apt / "calls").read_text().count("call") == 4
    (line,) = capsys.readouterr().out.splitlines()
    assert "waiting for another process" in line
    assert "process 4711" in line


def test_any_other_failure_is_told_at_once(apt: Path) -> None:
    (apt / "complaints").write_text("E: Unable to locate package slurm-wlm\n")
    with pytest.raises(UserError, match="Unable to locate package"):
        packages._apt("install", "slurm-wlm")


def test_a_lock_that_is_held_for_ever_is_not_waited_for_as_long(apt: Path) -> None:
    (apt / "complaints").write_text(f"{HELD}\n" * 99)
    with pytest.raises(UserError, match="Could not get lock"):
        packages._apt("update", patience=0.05)
