"""The seven objectives of Carlini and Wagner."""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from steelman.losses import Goal, other_logits
from steelman.types import Labels, Logits, PerImage

Name = Literal["f1", "f2", "f3", "f4", "f5", "f6", "f7"]

ON_LOGITS = ("f6", "f7")
HINGED = ("f2", "f4", "f6")


def sides(logits: Logits, goal: Goal) -> tuple[Labels, Labels]:
    """The class w that is wanted and the one o against it.

    With a target, the target and the highest other; without, the highest wrong class and the label.
    """
    moving = other_logits(logits.detach(), goal.named).argmax(1)
    return (moving, goal.labels) if goal.target is None else (goal.target, moving)


@dataclass(frozen=True)
class CWObjective:
    """A number per image to be decreased, before the hinge max(., 0) that f2, f4 and f6 have.

    With w and o as `sides` gives them, F = softmax(Z) and k the confidence: f1 = -log F_w - 1; f2 = F_o - F_w;
    f3 = softplus(F_o - F_w) - log 2; f4 = 1/2 - F_w; f5 = -log(2 F_w); f6 = Z_o - Z_w + k;
    f7 = softplus(Z_o - Z_w + k) - log 2. f2, f3, f6 and f7 are at most 0 exactly where w has won by k; f4 and f5 only
    where F_w has half of all; f1 does not tell.
    """

    name: Name = "f6"
    confidence: float = 0.0

    @property
    def hinged(self) -> bool:
        return self.name in HINGED

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        wanted, other = sides(logits, goal)
        if self.name in ("f1", "f5"):
            return -_at(F.log_softmax(logits, 1), wanted) - (1 if self.name == "f1" else math.log(2))
        values = logits if self.name in ON_LOGITS else logits.softmax(1)
        if self.name == "f4":
            return 0.5 - _at(values, wanted)
        gap = _at(values, other) - _at(values, wanted) + (self.confidence if self.name in ON_LOGITS else 0)
        return gap if self.hinged else F.softplus(gap) - math.log(2)


def _at(values: Tensor, classes: Labels) -> PerImage:
    return values.gather(1, classes[:, None])[:, 0]
