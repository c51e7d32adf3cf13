"""An attack for some of a batch's images."""

from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from torch import Tensor

from steelman.types import Indices

T = TypeVar("T")


def cut(attack: T, which: Indices) -> T:
    """`attack`, and the attacks in it, with those of its fields that have one number per image cut to `which`."""
    if isinstance(attack, Tensor):
        return attack[which] if attack.ndim == 1 else attack
    if isinstance(attack, tuple):
        return tuple(cut(each, which) for each in attack)  # pyright: ignore[reportReturnType]
    if not is_dataclass(attack) or isinstance(attack, type):
        return attack
    parts = {item.name: cut(getattr(attack, item.name), which) for item in fields(attack)}
    return replace(attack, **parts)
