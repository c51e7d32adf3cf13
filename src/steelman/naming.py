"""Names: the call that makes a method, and the name that was probably meant."""

import difflib
from collections.abc import Iterable
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
    """The call that makes a method, with only the fields that differ from their defaults."""
    changed = (
        f"{item.name}={_short(getattr(method, item.name))}"
        for item in sorted(fields(method), key=lambda item: bool(item.kw_only))  # the method's own first
        if item.init and not _is_default(getattr(method, item.name), item)
    )
    return f"{type(method).__name__}({', '.join(changed)})"


def _is_default(value: object, item: Field) -> bool:
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
