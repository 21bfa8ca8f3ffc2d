"""What a release says of itself: one version, everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml  # type: ignore[import-untyped]

import fvar

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_has_one_source_and_the_newest_entry_of_the_changelog_is_of_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fvar.__version__"}
    entries = re.findall(r"^## \[(.+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entries[0][0] == fvar.__version__
    assert [date for _, date in entries] == sorted((date for _, date in entries), reverse=True)


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited.keys() >= {"cff-version", "message", "title", "authors"}  # what CFF 1.2 requires
    assert (cited["cff-version"], cited["type"], cited["version"]) == ("1.2.0", "software", fvar.__version__)
    assert cited["date-released"] in (ROOT / "CHANGELOG.md").read_text()
    assert "Next Focus Prediction" in cited["references"][0]["title"]
