"""A minimal-norm attack as a bounded one."""

from dataclasses import dataclass, replace

import torch

from steelman.attacks.core.attack import Access, Attack, check_parts
from steelman.attacks.core.oracle import Oracle
from steelman.losses import Goal
from steelman.norms import Norm, column, per_image
from steelman.randomness import Draws
from steelman.types import Images, Radius, Share


@dataclass(frozen=True)
class Within(Attack):
    """A minimal-norm attack as a bounded one: what it finds outside the ball comes back clean.

    x' = x* where |x* - x| <= eps, and x elsewhere, with x* what the attack finds. An attack that can stop at a radius,
    such as `FAB(radius=eps)`, does well to be told that it is this one: a norm below it is never asked for.

    attack  minimal-norm attack with a norm (its box gives way to this one's)
    eps     radius in the attack's norm, one number or one per image (default 8/255)

    Cost: the attack's.
    Reference: Francesco Croce and Matthias Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020, section 6, who count FAB so.

    Raises:
        ValueError: an attack that has a radius itself, or no norm, or that finds a shared answer for all images.
    """

    attack: Attack
    eps: Radius = Share(8 / 255)

    def __post_init__(self) -> None:
        check_parts("Within", (self.attack,))
        if getattr(self.attack, "eps", None) is not None:
            raise ValueError(f"Within bounds a minimal-norm attack, and {self.attack} has a radius itself")
        if not isinstance(getattr(self.attack, "norm", None), Norm):
            raise ValueError(f"Within bounds the norm of an attack, and {self.attack} has none")

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attack.access

    @property
    def norm(self) -> Norm:
        return getattr(self.attack, "norm")  # noqa: B009  # an Attack as such has none

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found = replace(self.attack, box=self.box).search(oracle, x, goal, draws)
        inside = self.norm.size(found.double() - x.double()) <= per_image(self.eps, x.double()).flatten()
        return torch.where(column(inside, x), found, x)
