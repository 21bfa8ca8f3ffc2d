"""A hook of MkDocs: what pages name by `../PATH`, outside docs/, becomes part of the site under the same path.

So the same link works in the repository and in the site, and neither pages (READINGS.md) nor pictures are kept twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")


def outside(page: str, markdown: str) -> Iterator[tuple[str, str]]:
    """The links of a page (its path below docs/) that leave docs/, each with its path below the root."""
    for link in LINK.findall(markdown):
        path = (DOCS / page).parent.joinpath(link).resolve()
        if not path.is_relative_to(DOCS) and path.is_relative_to(ROOT) and path.is_file():
            yield link, path.relative_to(ROOT).as_posix()


def on_files(files: Files, config: Any) -> Files:
    """Add the files that pages name."""
    for page in list(files.documentation_pages()):
        for _, path in outside(page.src_uri, page.content_string):
            if files.get_file_from_path(path) is None:
                added = File.generated(config, path, abs_src_path=str(ROOT / path))
                added.inclusion = InclusionLevel.NOT_IN_NAV  # or in it: both are fine
                files.append(added)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links to where the files lie in the site: one folder less up."""
    if page.file.abs_src_path == str(ROOT / page.file.src_uri):  # a page from outside names those in docs/ by docs/PATH
        return markdown.replace("](docs/", "](")
    named = dict(outside(page.file.src_uri, markdown))
    return LINK.sub(lambda found: found[1][3:] if found[1] in named else found[1], markdown)
