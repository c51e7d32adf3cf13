"""Numbers that no setting may be, wherever it is given: in a file, by `--set`, or in a call."""

from typing import Any

import torch
from torch import Tensor

from steelman.types import Box

INFINITE = {"infinite": True}
"""Metadata of a field that may be infinite, such as the p of a norm; so may one whose default is."""

LENGTHS = ("eps", "radius", "step_size")
"""Settings that are a length in every method that has them: finite, and 0 or more."""


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


def check_ranges(method: object) -> None:
    """Raises ValueError where the box of a method is none, or one of its lengths is negative or not finite."""
    check_box(getattr(method, "box", None))
    for name in LENGTHS:
        length: Any = getattr(method, name, None)
        if isinstance(length, int | float | Tensor):
            found = torch.as_tensor(length)
            if not bool(((found >= 0) & found.isfinite()).all()):
                raise ValueError(f"{name} must be finite and at least 0; got {length}")


def check_box(box: Box | None) -> None:
    """Raises ValueError unless a box is two finite numbers, the lower one first, or None."""
    if box is not None and not float("-inf") < box[0] < box[1] < float("inf"):
        raise ValueError(f"box is the range of the images, two finite numbers, the lower one first; got {box}")


def check_amounts(kind: str, **amounts: Any) -> None:
    """Raises ValueError where a setting of `kind`, a number or several, is negative or not finite."""
    for name, amount in amounts.items():
        for each in (amount,) if isinstance(amount, int | float) else amount:
            if not 0 <= each < float("inf"):
                raise ValueError(f"{kind} needs a finite {name}, 0 or above; got {amount}")
