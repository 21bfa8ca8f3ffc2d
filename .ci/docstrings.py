"""An extension of griffe: what is set in columns in a docstring stays in columns on the page.

optics.py    PSF and OTF        Markdown would run such lines together; indented, they are a block as they are.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

COLUMNS = re.compile(r"\S {2,}\S")


def blocks(text: str) -> str:
    """The docstring with its unindented lines of columns, and what continues them, as indented blocks."""
    made: list[str] = []
    inside = False
    for line in text.splitlines():
        column = not line.startswith((" ", ">")) and COLUMNS.search(line) is not None
        before, inside = inside, column or (inside and line.startswith(" "))
        if inside != before:
            made.append("")
        made.append(f"    {line}" if inside else line)
    return "\n".join(made)


class Columns(griffe.Extension):
    """Applies `blocks` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = blocks(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:  # a package is not a member of anything
        self.on_object(obj=pkg)
