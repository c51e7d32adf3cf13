"""Names: the call that makes a method, and the name that was probably meant."""

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from steelman.types import Share

MANY, FEW = 60, 12
"""Names that an error message lists at most, and how many it lists where there are more."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error message: the name that was probably meant, or the known names."""
    folded = {each.lower(): each for each in sorted(names)}
    close = difflib.get_close_matches(name.lower(), folded)
    close.sort(key=lambda other: sorted(other) != sorted(name.lower()))  # transposed letters come first
    if close:
        return f"did you mean {folded[close[0]]}?"
    there = list(folded.values())
    if len(there) > MANY:  # a line of all names could not be read
        some = sorted(difflib.get_close_matches(name.lower(), folded, n=FEW, cutoff=0.0))
        return f"there are {', '.join(folded[each] for each in some)} and {len(there) - FEW} others"
    return f"there are {', '.join(there) or 'none'}"


def call(method: Any) -> str:
    """The call that makes a method, with only the fields that differ from their defaults, and four digits of numbers.

    Tables name attacks by it. `python` is for the eye and for Python.
    """
    inner = (f"{name}={_short(value)}" for name, value in changed(method))
    return f"{type(method).__name__}({', '.join(inner)})"


def changed(method: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass that differ from their defaults, with their values, its own first."""
    for item in sorted(fields(method) if is_dataclass(method) else (), key=lambda item: bool(item.kw_only)):
        if item.init and not is_default(value := getattr(method, item.name), item):
            yield item.name, value


def python(method: Any) -> str:
    """The Python that makes a method, with only the fields that differ from their defaults.

    What Python could not make of one line, such as a network, is shown as its class and dots.
    """
    return f"{type(method).__name__}({', '.join(f'{name}={_python(value)}' for name, value in changed(method))})"


def _python(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_python, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float):
        level = round(value * 255) if math.isfinite(value) else 0
        exact = 0 < level < 255 and level / 255 == value and len(repr(value)) > 6
        return f"{level}/255" if exact else repr(float(value))
    text = repr(value)
    return text if "\n" not in text and not text.startswith("<") else f"{type(value).__name__}(...)"


_COMPLETE: ContextVar[bool] = ContextVar("complete", default=False)


@contextmanager
def complete() -> Iterator[None]:
    """Within it, the repr of a method has all of its fields: the text that runs and folders are identified by."""
    before = _COMPLETE.set(True)
    try:
        yield
    finally:
        _COMPLETE.reset(before)


def repr_of(method: Any) -> str:
    """The repr of a method: `python`, or within `complete` what Python writes of a dataclass."""
    if not is_dataclass(method):
        return object.__repr__(method)
    if not _COMPLETE.get():
        return python(method)
    inner = (f"{item.name}={getattr(method, item.name)!r}" for item in identifying(method) if item.repr)
    return f"{type(method).__qualname__}({', '.join(inner)})"


LATER = {"later": True}
"""Metadata of a field that was added to a method in use: with its default, texts and digests leave it out, so that
tables, runs and folders of before are found again."""


def identifying(method: Any) -> list[Field]:
    """The fields of a dataclass by which it is identified: all but those added later that have their defaults."""

    def later(item: Field) -> bool:
        return "later" in item.metadata and is_default(getattr(method, item.name), item)

    return [item for item in fields(method) if not later(item)]


def is_default(value: object, item: Field) -> bool:
    """Whether a field of a dataclass has its default."""
    default = item.default if item.default_factory is MISSING else item.default_factory()
    if isinstance(value, Share):  # in units of another box
        return value.share == default
    return value is default or (not isinstance(value, Tensor) and value == default)


def _short(value: object) -> str:
    if isinstance(value, tuple) and any(is_dataclass(each) for each in value):
        return f"({', '.join(map(_short, value))})"
    if isinstance(value, nn.Module):
        return type(value).__name__
    return f"{value:.4g}" if isinstance(value, float) else str(value)
