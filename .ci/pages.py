"""A hook of MkDocs, for what the site has and docs/ has not.

What pages name by `../PATH`, outside docs/, becomes part of the site under the same path: one link works in the
repository and in the site, and neither pages (READINGS.md) nor pictures are kept twice.

A page of docs/api is named after a package and has a title alone; the reference of the package's modules is added here.
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
PACKAGES = ("fvar", "analysis", "studies")


def outside(page: str, markdown: str) -> Iterator[tuple[str, str]]:
    """The links of a page (its path below docs/) that leave docs/, each with its path below the root."""
    for link in LINK.findall(markdown):
        path = (DOCS / page).parent.joinpath(link).resolve()
        if not path.is_relative_to(DOCS) and path.is_relative_to(ROOT) and path.is_file():
            yield link, path.relative_to(ROOT).as_posix()


def modules() -> dict[str, list[str]]:
    """The modules that each page of docs/api describes: those of its package that no nearer page describes."""
    found: dict[str, list[str]] = {page.stem: [] for page in DOCS.glob("api/*.md")}
    files = (file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    paths = (file.with_suffix("") for file in files if file.stem != "__main__")
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    for name in sorted(names):
        found[max((page for page in found if f"{name}.".startswith(f"{page}.")), key=len)].append(name)
    return found


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
    """Point the links to where the files lie in the site, one folder less up, and add the reference of modules."""
    path = page.file.src_uri
    if page.file.abs_src_path == str(ROOT / path):  # a page from outside names those in docs/ by docs/PATH
        return markdown.replace("](docs/", "](")
    if path.startswith("api/"):
        return markdown + "".join(f"\n::: {name}\n" for name in modules()[Path(path).stem])
    named = dict(outside(path, markdown))
    return LINK.sub(lambda found: found[1][3:] if found[1] in named else found[1], markdown)
