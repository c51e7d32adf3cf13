"""TOML to the same dataclasses that the library is made of, and back.

A table becomes the dataclass that its place asks for. Where that is an abstract one (an attack, a defence, a data
set), `kind` names the class, one of this package or 'module:Class' of your own; a bare string is a `kind` without
settings. Values are checked by pydantic. Every error names the path and, for an unknown name, the nearest known one.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from torch import Tensor

from steelman.classes import Unresolved, class_of, concrete, spelt, unresolved
from steelman.extras import require
from steelman.files import parse_toml, reason_of
from steelman.naming import identifying, is_default, nearest
from steelman.norms import NORMS, Norm
from steelman.ranges import check_finite, may_be_infinite
from steelman.trust import Untrusted, reading

T = TypeVar("T")

NONE = "none"


def read(kind: type[T], value: Any, path: str = "") -> T:
    """Build a `kind` from TOML's tables and values. A class 'module:Class' is imported only if it is trusted.

    Raises:
        ValueError: an unknown key or name, a missing or ill-typed value; the message begins with its path.
        Untrusted: a class that is not trusted (`steelman.trust`).
    """
    with reading():
        return _read(kind, value, path)


def read_file(path: Path, what: str, read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of a TOML file's tables; errors call the file a `what`.

    Raises:
        FileNotFoundError, ValueError: no such file, not TOML, or what `read` raises, with the file's name before it.
    """
    settings = parse_file(path, what)
    try:
        return read(settings)
    except ValueError as error:
        raise in_file(path, error) from error


def parse_file(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {what} {path}")
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {reason_of(error)}") from error


def in_file(path: Path, error: ValueError) -> ValueError:
    """The same error, with the name of the file before it."""
    return (Untrusted if isinstance(error, Untrusted) else ValueError)(f"{path}: {error}")


def merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `base`: tables key by key. A table of another `kind`, a list or a value replaces what was there."""
    result = dict(base)
    for key, value in own.items():
        before = result.get(key)
        if isinstance(before, str) and isinstance(value, dict):  # a kind without settings
            before = {"kind": before}
        if isinstance(value, dict) and isinstance(before, dict):
            same = value.get("kind", before.get("kind")) == before.get("kind")
            value = merged(before, value) if same else value
        result[key] = value
    return result


def write(value: Any) -> Any:
    """What `read` reads back to an equal object: every field (`identifying`), for the record. None is written as
    "none"."""
    if isinstance(value, Unresolved):
        return value.settings
    if isinstance(value, Norm):
        return value.name
    if isinstance(value, Tensor):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: write(getattr(value, item.name)) for item in identifying(value) if item.init}
        return fields if _plain(type(value)) else {"kind": spelt(type(value)), **fields}
    if isinstance(value, dict):
        return {key: write(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [write(item) for item in value]
    return NONE if value is None else value


def brief(value: Any) -> Any:
    """As `write`, without the fields that have their defaults."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type | Unresolved):
        return write(value)
    items = [item for item in dataclasses.fields(value) if item.init]
    own = {item.name: getattr(value, item.name) for item in items if not is_default(getattr(value, item.name), item)}
    fields = {name: [*map(brief, each)] if isinstance(each, tuple) else brief(each) for name, each in own.items()}
    return fields if _plain(type(value)) else {"kind": spelt(type(value)), **fields}


def _plain(kind: type) -> bool:
    """Whether a place for `kind` leaves no choice, so that its table needs no `kind`."""
    return not any(inspect.isabstract(base) for base in kind.__mro__)


def _read(kind: Any, value: Any, path: str, infinite: bool = False) -> Any:
    """infinite  whether a number may be so"""
    if kind is Any:
        check_finite(value, path, infinite)
        return None if value == NONE else value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(kind), value, path, infinite)
    if origin is tuple:
        return _read_tuple(get_args(kind), value, path, infinite)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{path}: needs a table; got {value!r}")
        return {key: _read(get_args(kind)[1], item, join(path, key)) for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, Norm):
        return _read_norm(value, path)
    if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or inspect.isabstract(kind)):
        return _read_object(kind, value, path)
    return _read_leaf(kind, value, path, infinite)


def _read_tuple(kinds: tuple[Any, ...], value: Any, path: str, infinite: bool) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{path}: needs a list; got {value!r}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{path}: needs {len(kinds)} values; got {len(value)}")
    return tuple(
        _read(kind, item, f"{path}[{place}]", infinite)
        for place, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _read_union(kinds: tuple[Any, ...], value: Any, path: str, infinite: bool) -> Any:
    if type(None) in kinds and (value is None or value == NONE):
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None) and not _is_tensor(kind))
    if len(kinds) == 1:
        return _read(kinds[0], value, path, infinite)
    problems = []
    for kind in kinds:
        try:
            return _read(kind, value, path, infinite)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError("; or ".join(dict.fromkeys(problems)))


def _is_tensor(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Tensor)


def _read_norm(value: Any, path: str) -> Norm:
    if isinstance(value, Norm):
        return value
    if not isinstance(value, str) or value not in NORMS:
        raise ValueError(f"{path}: there is no norm {value!r}; {nearest(str(value), NORMS)}")
    return NORMS[value]


def _read_object(kind: type, value: Any, path: str) -> Any:
    if isinstance(value, kind):
        return value
    settings = {"kind": value} if isinstance(value, str) else value
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: needs a table; got {value!r}")
    if _plain(kind) and not inspect.isabstract(kind):
        return _make(kind, settings, path)
    if "kind" not in settings:
        raise ValueError(f"{path}: needs a kind; {nearest('', concrete(kind))}")
    name = settings["kind"]
    try:
        made = class_of(kind, name, join(path, "kind"))
        return _make(made, {key: item for key, item in settings.items() if key != "kind"}, path)
    except Exception as error:  # a module of the user's own may raise anything
        if not (isinstance(name, str) and ":" in name):
            raise
        return unresolved(kind, settings, error)


def _make(kind: type, settings: dict[str, Any], path: str) -> Any:
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{path}: {spelt(kind)} is no dataclass, so nothing says which settings it has")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind) if item.init}
    for key in settings:
        if key not in fields:
            raise ValueError(f"{join(path, key)}: {kind.__name__} has no such setting; {nearest(key, fields)}")
    for key, item in fields.items():
        if key not in settings and item.default is item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{join(path, key)}: {kind.__name__} needs it")
    values = {
        key: _read(hints[key], item, join(path, key), may_be_infinite(kind, key)) for key, item in settings.items()
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if path else str(error)) from error


def _read_leaf(kind: Any, value: Any, path: str, infinite: bool) -> Any:
    require("a recipe", "pydantic")
    from pydantic import TypeAdapter, ValidationError

    check_finite(value, path, infinite)
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(f"{path}: {error.errors()[0]['msg']}; got {value!r}") from error


def join(path: str, key: str) -> str:
    """The path of a key in the table at `path`, as TOML and `--set` spell it."""
    spelt = key if re.fullmatch(r"[\w-]+", key, re.ASCII) else f'"{key}"'
    return f"{path}.{spelt}" if path else spelt


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """The paths at which two values of `write` differ."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return [] if ours == theirs else [path]
    return [
        found
        for key in dict.fromkeys([*ours, *theirs])
        for found in differences(ours.get(key), theirs.get(key), join(path, key))
    ]
