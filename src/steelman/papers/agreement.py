"""Whether a number of ours agrees with the printed one."""

import math
from typing import Literal, TypeAlias

from steelman.papers.paper import Printed
from steelman.papers.results import Value

Agreement: TypeAlias = Literal["agrees", "differs", "not comparable", "measured", "missing"]

ALLOWANCE = 0.03
"""Of the printed number, for a training that differs in nothing but chance."""

RULE = (
    "A number **agrees** where it differs from the printed one by no more than the width of both intervals together, "
    "√2 times half of our 95 % interval (the paper prints none, so its own is taken to be as wide), and 3 % of the "
    "printed number besides (of an accuracy: of the smaller of it and the error). Otherwise it **differs**. At a "
    "reduced scale the two are **not comparable**, nor are times on different machines."
)


def agreement(printed: Printed, ours: Value | None) -> Agreement:
    """By `RULE`; "measured" where the paper prints no number."""
    if ours is None:
        return "missing"
    if printed is None or isinstance(printed, str):
        return "measured"
    if ours.reduced or ours.kind == "time":
        return "not comparable"
    scale = 100.0 if ours.kind == "share" else 1.0
    nearest = min(printed, 100.0 - printed) if ours.kind == "share" else abs(printed)
    half = scale * (ours.high - ours.low) / 2
    return "agrees" if abs(scale * ours.value - printed) <= math.sqrt(2) * half + ALLOWANCE * nearest else "differs"
