"""The signs of masked gradients, read from the table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sign:
    """One sign: what is asked, the numbers that answer it, and whether it is there; None where nothing was measured."""

    question: str
    numbers: str
    found: bool | None
