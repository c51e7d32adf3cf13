"""One line of a check-up."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["fine", "note", "warning"]


@dataclass(frozen=True)
class Finding:
    """One line of a check-up: what was looked at, what was found, and, where it is not fine, what to do about it."""

    name: str
    found: str
    level: Level = "fine"
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:7}  {self.name}: {self.found}" + (f". {self.advice}" if self.advice else "")
