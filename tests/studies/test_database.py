"""Data bases are where their path says, whatever it holds, and a file that cannot be used is told in a few words."""

from __future__ import annotations

import shlex
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from studies.database import address, complaint
from studies.engine.search.store import dashboard_command

ODD = (
    *("plain", "q?x", "pct%20x", "50%", "h#y", "a b", "{x}", "[x]", "*", "it's", 'say "x"', "a&b=c;d", "at@x:y"),
    *("back\\slash", "~tilde", "$HOME", "`id`", "100%j run", "%A_%a", "naïve", "焦点", "new\nline"),
)


@pytest.mark.parametrize("name", ODD)
def test_an_address_leads_to_the_very_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "x.db"
    url = make_url(address(path))
    assert (url.database, dict(url.query)) == (str(path), {})


@pytest.mark.parametrize("name", ODD)
def test_the_dashboard_s_command_can_be_pasted_into_a_shell(name: str, tmp_path: Path) -> None:
    words = shlex.split(dashboard_command(tmp_path / name))
    assert words[:3] == ["optuna-dashboard", "--host", "127.0.0.1"]
    assert words[3:5] == ["--artifact-dir", str(tmp_path / name / "optuna-artifacts")]
    assert make_url(words[5]).database == str(tmp_path / name / "optuna.db")


def test_what_is_wrong_with_a_file_is_said_and_what_can_be_used_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.database.PATIENCE", 0.1)
    assert complaint(tmp_path / "none.db") == ""
    (tmp_path / "text.db").write_text("not a data base" * 100)
    assert "not a database" in complaint(tmp_path / "text.db")
    database = tmp_path / "good.db"
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("CREATE TABLE t (x)")
    before = database.read_bytes()
    assert complaint(database) == ""
    assert database.read_bytes() == before
    holder.execute("BEGIN EXCLUSIVE")
    assert "locked" in complaint(database)
    holder.close()
