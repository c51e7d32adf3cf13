"""Classes by name: those of this package, and 'module:Class' of a user's own, imported only where it is trusted."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import is_dataclass
from typing import Any

from steelman.naming import nearest
from steelman.trust import Untrusted, imported, named_in

_kept: ContextVar[bool] = ContextVar("kept", default=False)


class NotImported(ValueError, AttributeError):
    """An object is used whose class was not imported."""


class Unresolved:
    """In place of an object whose class was not imported: its settings, and the reason. Any use raises `NotImported`.

    A run of which only the network is needed is read with these in place of a defence that is gone, or not trusted.
    """

    settings: dict[str, Any]
    problem: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImported(self.problem)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unresolved) and self.settings == other.settings

    def __hash__(self) -> int:
        return hash(self.settings["kind"])

    def __str__(self) -> str:
        return f"{self.settings['kind']} (not imported)"

    __repr__ = __str__


@contextmanager
def unresolved_kept() -> Iterator[None]:
    """While the block runs, objects whose classes cannot be imported are read as `Unresolved`."""
    token = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(token)


def concrete(base: type) -> dict[str, type]:
    """The classes of a kind that can be made, by name; in doubt this package's own."""
    found = {} if inspect.isabstract(base) else {base.__name__: base}
    for part in base.__subclasses__():
        more = concrete(part)
        found |= more if _is_ours(part) else {name: each for name, each in more.items() if name not in found}
    return {name: part for name, part in found.items() if not name.startswith("_")}


def spelt(kind: type) -> str:
    """What `kind` in TOML calls a class: its name, or 'module:Class' outside of this package."""
    return kind.__name__ if _is_ours(kind) else f"{kind.__module__}:{kind.__qualname__}"


def class_of(base: type, name: object, path: str) -> type:
    """The class of this kind that a text at `path` names.

    Raises:
        ValueError: there is none, or it is not of this kind.
        Untrusted: it is not trusted.
    """
    known = concrete(base)
    if not (isinstance(name, str) and ":" in name):
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"{path}: there is no {base.__name__} {name!r}; {nearest(str(name), known)}")
        return known[name]
    loaded = {spelt(each): each for each in known.values()}
    if name in loaded:  # which this program has imported by itself
        return loaded[name]
    try:
        with named_in(""):  # the caller names the file
            found = imported(name, from_file=True)
    except Untrusted as error:
        raise Untrusted(f"{path} names {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base) and is_dataclass(found)) or inspect.isabstract(found):
        raise ValueError(
            f"{path}: {name!r} is not a {base.__name__} that can be made: name a dataclass derived from {base.__name__}"
        )
    return found


def unresolved(base: type, settings: dict[str, Any], error: Exception) -> Any:
    """An `Unresolved` that takes the place of a `base`, where such are kept; otherwise raises the error."""
    if not _kept.get():
        raise error

    def refuse(self: Unresolved, *given: Any, **options: Any) -> Any:
        raise NotImported(self.problem)

    abstract: dict[str, Any] = dict.fromkeys(getattr(base, "__abstractmethods__", ()), refuse)
    made = object.__new__(type(f"_Unresolved{base.__name__}", (Unresolved, base), abstract))
    vars(made).update(settings=settings, problem=str(error))
    return made


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __package__
