"""One wrong class as the target of each image, by its distance from the label."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from steelman.attacks.core import Attack, AttackWrapper, Draws, Goal, Images, Oracle, check_parts
from steelman.ranges import Count
from steelman.types import Labels


@dataclass(frozen=True)
class Towards(AttackWrapper):
    """A targeted attack without a given target: that of each image follows from its label.

    The target is t = (y + offset) mod classes, and success is to be classified as t. Offsets 1 to classes - 1 are all
    wrong classes of every image: `every_target` makes these attacks. Measures of a table that holds them are the best
    case (the easiest target of each image), the average case (all pairs of an image and a target, so a target drawn at
    random) and the worst case (the hardest target), as in Carlini and Wagner's tables.

    attack   any attack that takes targets (this attack's box replaces its own)
    offset   of the target from the label, from 1 to classes - 1
    classes  of the model, default 10

    Cost: the attack's.
    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    section III-D.

    Raises:
        ValueError: an offset that is no wrong class, a model of another number of classes, an attack that has targets
            of its own or finds a shared answer for all images; a target that is given besides.
    """

    attack: Attack
    offset: Count = 1
    classes: Count = 10

    def __post_init__(self) -> None:
        check_parts("Towards", (self.attack,))
        if self.offset >= self.classes:
            raise ValueError(f"Towards needs offset < classes; got {self.offset} and {self.classes}")
        if self.attack.aim(torch.zeros(1, dtype=torch.int64)) is not None:
            raise ValueError(f"{type(self.attack).__name__} in Towards has targets of its own")

    def aim(self, y: Labels) -> Labels:
        return (y + self.offset) % self.classes

    def check_input(self, x: Images, targeted: bool, classes: int | None) -> None:
        if classes not in (None, self.classes):
            raise ValueError(f"Towards has classes={self.classes}, and the model has {classes}")
        super().check_input(x, True, classes)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        every = torch.arange(len(x), device=x.device)
        with oracle.part(every, Goal(goal.labels, self.aim(goal.labels))) as part:
            return self.inner.search(part, x, part.goal, draws)


def every_target(attacks: Mapping[str, Attack], classes: int) -> dict[str, Attack]:
    """The attacks at each wrong class of every image: "NAME, target +1", "NAME, target +2" and so on."""
    return {
        f"{name}, target +{offset}": Towards(attack, offset, classes)
        for name, attack in attacks.items()
        for offset in range(1, classes)
    }
