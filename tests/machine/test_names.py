"""Any bytes are a file name; and a user may have no home."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fvar.errors import UserError
from fvar.machine import cache
from fvar.machine.names import plain, printable, search_path


def test_names_that_are_not_utf_8_become_ascii_and_others_stay() -> None:
    assert printable(os.fsdecode(b"p\xff-\xc3\xa4")) == r"p\xff-ä"


def test_without_a_home_the_cache_lies_among_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FVAR_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert cache.directory() == Path(tempfile.gettempdir()) / f"fvar-{os.getuid()}"


def test_commands_give_libraries_a_home_and_print_any_name(tmp_path: Path) -> None:
    """MLflow asks for a home as it is imported, and a terminal takes UTF-8 only."""
    code = (
        "import pwd, os\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from fvar.errors import run_main\n"
        "from pathlib import Path\n"
        "run_main(lambda: print(Path.home(), os.fsdecode(bytes([255]))))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HOME"} | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == rf"{tmp_path}/fvar-{os.getuid()} \udcff" + "\n"
    assert (tmp_path / f"fvar-{os.getuid()}").stat().st_mode & 0o777 == 0o700


def test_a_folder_is_reached_by_a_plain_name_only_where_its_own_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    ordinary, odd = tmp_path / "results", tmp_path / "100%j a:b\n\udcff"
    odd.mkdir()
    assert plain(ordinary, "%:") == ordinary
    assert not (tmp_path / "cache").exists()
    link = plain(odd, "%:")
    assert not {"%", ":"} & set(str(link))
    assert link.samefile(odd)
    assert plain(odd, ":") == link
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "50%"))
    with pytest.raises(UserError, match="set FVAR_CACHE"):
        plain(odd, "%")


def test_packages_are_found_in_a_folder_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "nonesuch.py").write_text("print('found')")
    path = search_path(tmp_path / "a:b")
    assert path.endswith(":/elsewhere")
    command = [sys.executable, "-m", "nonesuch"]
    done = subprocess.run(command, cwd="/", env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout == "found\n"
