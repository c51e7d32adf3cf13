"""The values that a setting may have: declared with it, as in `steps: Annotated[int, Ge(1)]`, and checked here."""

import operator
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from inspect import get_annotations
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt
from torch import Tensor

from steelman.naming import changed, complete, repr_of
from steelman.norms import Norm
from steelman.types import Box

INFINITE = "may be infinite"
"""Metadata of a number that may be infinite, such as the p of a norm. Others have to be finite."""

Fraction: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
FractionAbove0: TypeAlias = Annotated[float, Interval(gt=0, le=1)]
FractionBelow1: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]
Factor: TypeAlias = Annotated[float, Ge(0)]
Positive: TypeAlias = Annotated[float, Gt(0)]
Count: TypeAlias = Annotated[int, Ge(1)]
Natural: TypeAlias = Annotated[int, Ge(0)]

_SIGNS = {"ge": (">=", operator.ge), "gt": (">", operator.gt), "le": ("<=", operator.le), "lt": ("<", operator.lt)}


@dataclass(frozen=True)
class OneOf:
    """Metadata of a norm: the norms of a method, and the remedy for others."""

    norms: tuple[Norm, ...]
    instead: str = ""


class Checked:
    """A dataclass whose fields declare their values, which are checked before its own `__post_init__`.

    Its repr has the fields that differ from their defaults (`naming.python`); a class of the user's keeps the one that
    Python makes, which is part of the class's identity. Its `str` is the whole text, unless its kind has another:
    names and identities are made of it.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith("steelman.") and "__repr__" not in cls.__dict__:
            cls.__repr__ = Checked.__repr__
        own = cls.__dict__.get("__post_init__")
        if own is not None:

            def checked(self: Checked) -> None:
                self._prepare()
                check_settings(self)
                own(self)

            cls.__post_init__ = checked

    def __post_init__(self) -> None:
        self._prepare()
        check_settings(self)

    def _prepare(self) -> None:
        """Changes settings before they are checked."""

    def __repr__(self) -> str:
        return repr_of(self)

    def __str__(self) -> str:
        with complete():
            return repr(self)

    def __rich_repr__(self) -> Iterator[tuple[str, Any]]:
        return changed(self)


def check_settings(method: Any) -> None:
    """Raises ValueError that names every setting of a dataclass that is outside its declared range, and the range."""
    kind, wrong = type(method).__name__, []
    check_box(getattr(method, "box", None))
    for name, (limits, options) in _declared(type(method)).items():
        value = getattr(method, name)
        for each in limits:
            if isinstance(each, OneOf) and value is not None and value not in each.norms:
                which = " or ".join(map(str, each.norms))
                raise ValueError(f"{kind} needs norm={which}; got {value}" + (f". {each.instead}" * bool(each.instead)))
        if options and value is not None and not _is_one_of(value, options):
            raise ValueError(f"{kind} needs {name} to be {_or(options)}; got {value!r}")
        infinite = may_be_infinite(type(method), name)
        if any(not _within(number, limits, infinite) for number in _numbers(value)):
            finite = all(_within(number, (), False) for number in _numbers(value))
            wrong.append((name, "finite and " * (not finite and not infinite) + _words(limits), value))
    if wrong:
        needs = " and ".join(f"{name} {words}" for name, words, _ in wrong)
        raise ValueError(f"{kind} needs {needs}; got {' and '.join(str(value) for *_, value in wrong)}")


@cache
def _declared(kind: type) -> dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """By field, the limits of its numbers, and the words that it may be."""
    if not is_dataclass(kind):
        return {}
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        hints |= get_annotations(base)
    declared = {
        item.name: (tuple(_limits(hints[item.name])), tuple(_options(hints[item.name]))) for item in fields(kind)
    }
    return {name: each for name, each in declared.items() if any(each)}


def _limits(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Annotated:
        yield from (each for each in hint.__metadata__ if isinstance(each, Ge | Gt | Le | Lt | Interval | OneOf | str))
    for part in get_args(hint):
        if get_origin(hint) is not Literal:
            yield from _limits(part)


def _options(hint: Any) -> Iterator[Any]:
    """The words of a `Literal`, where None is the only alternative."""
    hint = hint.__origin__ if get_origin(hint) is Annotated else hint
    parts = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_origin(hint) in (typing.Union, type(int | str)) and len(parts) == 1:
        yield from _options(parts[0])


@cache
def may_be_infinite(kind: type, name: str) -> bool:
    """Whether a field may be infinite: its default is, or its metadata allow it."""
    default = next(item.default for item in fields(kind) if item.name == name)
    return default in (float("inf"), float("-inf")) or INFINITE in _declared(kind).get(name, ((), ()))[0]


def _is_one_of(value: Any, options: tuple[Any, ...]) -> bool:
    return any(type(value) is type(each) and value == each for each in options)


def _numbers(value: Any) -> Iterator[Any]:
    """The numbers in a setting: itself, or those of a tuple or list; a tensor is one."""
    if isinstance(value, int | float | Tensor) and not isinstance(value, bool):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _numbers(each)


def _within(value: Any, limits: tuple[Any, ...], infinite: bool) -> bool:
    tests = [value == value if infinite else value - value == 0]
    tests += [_SIGNS[name][1](value, bound) for name, bound in _bounds(limits)]
    return all(bool(each.all()) if isinstance(each, Tensor) else each for each in tests)


def _bounds(limits: tuple[Any, ...]) -> list[tuple[str, int | float]]:
    bounds = [(name, getattr(each, name, None)) for each in limits for name in _SIGNS]
    return list(dict.fromkeys((name, bound) for name, bound in bounds if bound is not None))  # a tuple repeats its own


def _words(limits: tuple[Any, ...]) -> str:
    """A range in words: ">= 1", "in (0, 1]", or "finite"."""
    bounds = _bounds(limits)
    if len(bounds) == 2:
        (low, below), (high, above) = sorted(bounds)  # "ge" and "gt" come before "le" and "lt"
        return f"in {'[' if low == 'ge' else '('}{below:g}, {above:g}{']' if high == 'le' else ')'}"
    return f"{_SIGNS[bounds[0][0]][0]} {bounds[0][1]:g}" if bounds else "finite"


def _or(options: tuple[Any, ...]) -> str:
    words = [f'"{each}"' if isinstance(each, str) else str(each) for each in options]
    return ", ".join(words[:-1]) + f" or {words[-1]}" if len(words) > 1 else words[0]


def check_finite(value: Any, path: str, infinite: bool = False) -> None:
    """Raises ValueError where a number is NaN, or infinite and may not be; of a list or table, any number in it."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_finite(item, f"{path}.{key}", infinite)
    elif isinstance(value, list | tuple):
        for item in value:
            check_finite(item, path, infinite)
    elif isinstance(value, float) and (value != value or (value - value != 0 and not infinite)):
        raise ValueError(f"{path}: needs a finite number; got {value}")


def check_box(box: Box | None) -> None:
    """Raises ValueError unless a box is two finite numbers, the lower one first, or None."""
    if box is not None and not float("-inf") < box[0] < box[1] < float("inf"):
        raise ValueError(f"box is the range of the images, two finite numbers, the lower one first; got {box}")
