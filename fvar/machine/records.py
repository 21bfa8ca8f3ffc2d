"""Small JSON files that one process writes and others read, each a flat dataclass whose fields have defaults.

A reader may come after a crash, a failing disk or somebody's editor, so nothing in such a file is taken on trust.
"""

from __future__ import annotations

import functools
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class Damaged(Exception):
    """A file does not hold what it should; the message names the file and says what is wrong with it."""


def read(cls: type[T], path: str | Path) -> T | None:
    """The record in a file, or None where there is no file. Keys that `cls` does not know are left out.

    Raises `Damaged` where the file holds no JSON object, or a value of another type than its field.
    """
    body = read_object(path)
    if body is None:
        return None
    fields = _fields(typing.cast(Any, cls))
    known: dict[str, Any] = {}
    for key, value in body.items():
        if (allowed := fields.get(key)) is None:
            continue
        kind = type(value)
        valid = kind is str and value in allowed if type(allowed) is tuple else kind in allowed
        if not valid or (kind is float and not abs(value) <= sys.float_info.max):
            raise Damaged(f"{path} has {key} = {_short(value)}")
        known[key] = value
    return cls(**known)


def read_object(path: str | Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is no file. Raises `Damaged` for anything else in it."""
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or brackets without end
        raise Damaged(f"{path} is not valid JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(body, dict):
        raise Damaged(f"{path} holds {_short(body)} instead of a JSON object")
    return body


@functools.cache
def _fields(cls: type) -> dict[str, tuple[str, ...] | frozenset[type]]:
    """What each field may hold: one of some words, or a value of one of some types."""
    found: dict[str, tuple[str, ...] | frozenset[type]] = {}
    for name, hint in typing.get_type_hints(cls).items():
        if typing.get_origin(hint) is Literal:
            found[name] = typing.get_args(hint)
            continue
        kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
        found[name] = frozenset(kinds | ({int} if float in kinds else set()))
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
