"""Configurations as plain values and back, every key and every type checked.

A configuration is a frozen dataclass that extends `Checked`. What is wrong with a value, a key or a path raises
`UserError` that names the place and what is valid there. Nothing in this module needs torch.

Results outlive the code that made them, so a field that is added later declares which value means "as before":

    depth: int = 16
    mixer: Mixer = since("var", before="var")

While it holds that value, `identity` leaves it out, and `from_record` reads it into a record that lacks it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, TypeVar

from fvar.errors import UserError, unknown

T = TypeVar("T")
BEFORE = "before"  # key of a field's metadata
TEXT = "_identity_text"  # where a configuration keeps what `identity_text` found


class Checked:
    """Base of every configuration: each field must have its annotated type, each name must be a valid one."""

    def __post_init__(self) -> None:
        cls = type(self)
        for name, kinds, words in _plain(cls):
            value = getattr(self, name)
            if type(value) not in kinds or (words and value not in words):
                object.__setattr__(self, name, _coerce(_hints(cls)[name], value, f"{cls.__name__}.{name}"))

    def outside_identity(self) -> Collection[str]:
        """Names of fields that say where something is found, not what is computed; see `identity`."""
        return ()


def since(default: Any = dataclasses.MISSING, *, before: Any, default_factory: Any = dataclasses.MISSING) -> Any:
    """A field that configurations recorded earlier lack; `before` is the value that computes what they did."""
    return dataclasses.field(default=default, default_factory=default_factory, metadata={BEFORE: before})


def identity(config: Any) -> dict[str, Any]:
    """What of a configuration names its results: `to_dict` without what `since` or `outside_identity` leaves out.

    Adding a field by `since` therefore changes the identity of no configuration that computes what it did before.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return identity(value) if dataclasses.is_dataclass(value) else value

    return {name: plain(value) for name, value in _identifying(config)}


def identity_text(config: Any) -> str:
    """`identity` as JSON with sorted keys, as `json.dumps` writes it: what is hashed.

    Written once per object and joined from the texts of its parts, most of which the cells of a plan share.
    """
    known: str | None = vars(config).get(TEXT)
    if known is None:
        known = joined({name: _text(value) for name, value in _identifying(config)})
        vars(config)[TEXT] = known  # beside the fields, which alone are compared, copied and written
    return known


def _text(value: Any) -> str:
    """A field's value as JSON."""
    if value is None or isinstance(value, str | int | float):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return identity_text(value)


def _identifying(config: Any) -> Iterator[tuple[str, Any]]:
    """The fields that name a configuration's results, and their values."""
    hidden = config.outside_identity() if isinstance(config, Checked) else ()
    for item in _fields(type(config)):
        value = getattr(config, item.name)
        if item.name not in hidden and not (BEFORE in item.metadata and value == item.metadata[BEFORE]):
            yield item.name, value


def joined(parts: Mapping[str, str]) -> str:
    """A JSON object with sorted keys, of the JSON texts of its values."""
    return "{" + ", ".join(f'"{name}": {parts[name]}' for name in sorted(parts)) + "}"


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries of JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a configuration, checking every key and type.

    Raises `UserError` naming the key and what is valid there.
    """
    where = where or cls.__name__
    hints = _hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a table of settings, got {values!r}")
    for key in values:
        if key not in names:
            raise unknown(f"key in {where}", key, names)
    return cls(**{key: _coerce(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def from_record(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """`from_dict` of what `to_dict` wrote, perhaps before some fields were added: those get their "as before" value."""
    return from_dict(cls, _completed(cls, values), where)


def _completed(cls: type[Any], values: Any) -> Any:
    """`values` with the "as before" value of every field that it lacks, at every depth."""
    if not isinstance(values, Mapping):
        return values  # `from_dict` says what is wrong
    complete = dict(values)
    for item in dataclasses.fields(cls):
        inner = _configuration(_hints(cls)[item.name])
        if item.name not in complete and BEFORE in item.metadata:
            complete[item.name] = item.metadata[BEFORE]
        elif inner is not None and complete.get(item.name) is not None:
            complete[item.name] = _completed(inner, complete[item.name])
    return complete


def _configuration(hint: Any) -> type[Any] | None:
    """The dataclass that an annotation names, alone or beside None."""
    for each in (hint, *typing.get_args(hint)):
        if isinstance(each, type) and dataclasses.is_dataclass(each):
            return each
    return None


def replace_path(config: T, path: str, value: Any) -> T:
    """A copy with one dotted field changed, e.g. `replace_path(cfg, "train.lr", 3e-4)`."""
    head, _, rest = path.partition(".")
    names = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    if head not in names:
        raise unknown(f"key in {type(config).__name__}", head, names)
    current = getattr(config, head)
    if rest and not dataclasses.is_dataclass(current):
        raise UserError(f"{type(config).__name__}.{head} has no settings of its own, so {path!r} leads nowhere")
    hint = _hints(type(config))[head]
    new = replace_path(current, rest, value) if rest else _coerce(hint, value, f"{type(config).__name__}.{head}")
    return dataclasses.replace(config, **{head: new})  # type: ignore[type-var]


def finite(value: Any) -> Any:
    """Nested plain values with None for every number that is not finite: JSON has no place for one."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every leaf in which two nested dictionaries differ."""
    lines: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        old, new, path = before.get(key), after.get(key), f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{path}.")
        elif old != new:
            lines.append(f"{path}: {json.dumps(old)} -> {json.dumps(new)}")
    return lines


# The annotations and fields of a class; finding them is the slow part of making a configuration.
_hints: Callable[[type], dict[str, Any]] = functools.cache(typing.get_type_hints)
_fields: Callable[[type], tuple[dataclasses.Field[Any], ...]] = functools.cache(dataclasses.fields)


def _plain_fields(cls: type) -> tuple[tuple[str, tuple[type, ...], tuple[Any, ...]], ...]:
    """Each field with the types, and of a choice the words, that are right as they are: most values need no more."""
    hints = _hints(cls)
    return tuple((item.name, *_plain_values(hints[item.name])) for item in _fields(cls))


def _plain_values(hint: Any) -> tuple[tuple[type, ...], tuple[Any, ...]]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return tuple({type(word) for word in args}), args
    alternatives = args if origin in (typing.Union, types.UnionType) else (hint,)
    return tuple(each for each in alternatives if typing.get_origin(each) is None), ()


_plain: Callable[[type], tuple[tuple[str, tuple[type, ...], tuple[Any, ...]], ...]] = functools.cache(_plain_fields)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type, or a `UserError` that names the place."""
    if type(value) is hint:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise unknown(where, value, map(str, args))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(arg for arg in args if arg is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise UserError(f"{where} must be a list, got {value!r}")
        if args[-1] is Ellipsis:
            return tuple(_coerce(args[0], item, where) for item in value)
        if len(value) != len(args):
            raise UserError(f"{where} must have {len(args)} values, got {list(value)}")
        return tuple(_coerce(arg, item, where) for arg, item in zip(args, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def positive(config: Any, *names: str) -> None:
    """Raise `UserError` for a field below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{type(config).__name__}.{name} must be at least 1, got {getattr(config, name)}")


def fraction(config: Any, *names: str) -> None:
    """Raise `UserError` for a field outside [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{type(config).__name__}.{name} must be in [0, 1), got {getattr(config, name)}")
