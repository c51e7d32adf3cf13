"""A look at a model before anything attacks it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from steelman.attacks.attack import Access

Level: TypeAlias = Literal["fine", "note", "warning"]


@dataclass(frozen=True)
class Finding:
    """One line of a check-up: what was looked at, what was found, and, where it is not fine, what to do about it."""

    name: str
    found: str
    level: Level = "fine"
    advice: str = ""


@dataclass(frozen=True)
class Checkup:
    """What was found of a model, and the most that attacks may ask of it."""

    findings: tuple[Finding, ...]
    access: Access
