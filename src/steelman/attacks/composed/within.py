"""A minimal-norm attack as a bounded one."""

from dataclasses import dataclass

import torch

from steelman.attacks.core import Attack, AttackWrapper, Draws, Goal, Images, Oracle, Radius, Share, check_parts
from steelman.norms import column, per_image


@dataclass(frozen=True)
class Within(AttackWrapper):
    """A minimal-norm attack as a bounded one: images that it moves out of the ball come back clean.

    x' = x* where |x* - x| <= eps, and x elsewhere, with x* the attack's answer. An attack that can stop at a radius
    should have this one, as in `Within(FAB(radius=eps), eps)`: it then spends nothing on smaller norms.

    attack  minimal-norm attack with a norm (this attack's box replaces its own)
    eps     radius in the attack's norm, one number or one per image (default 8/255)

    Cost: the attack's.
    Reference: Francesco Croce and Matthias Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020, section 6, who count FAB so.

    Raises:
        ValueError: an attack that has a radius itself, or no norm, or that finds a shared answer for all images.
    """

    attack: Attack
    eps: Radius = Share(8 / 255)  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        check_parts("Within", (self.attack,))
        if self.attack.budget is not None:
            raise ValueError(f"Within bounds a minimal-norm attack, and {self.attack} has a radius itself")
        if self.attack.measured_in is None:
            raise ValueError(f"Within bounds the norm of an attack, and {self.attack} has none")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        assert self.norm is not None
        x_adv = self.inner.search(oracle, x, goal, draws)
        inside = self.norm.size(x_adv.double() - x.double()) <= per_image(self.eps, x.double()).flatten()
        return torch.where(column(inside, x), x_adv, x)
