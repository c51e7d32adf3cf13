"""A bounded attack as a minimal-norm one."""

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch

from steelman.attacks.core import Attack, AttackWrapper, Draws, Goal, Images, Oracle, Share, check_parts
from steelman.attacks.minimal.searching import Remaining, search_remaining
from steelman.ranges import Count, Positive


@dataclass(frozen=True)
class SmallestRadius(AttackWrapper):
    """The smallest radius at which a bounded attack succeeds, image by image, by bisection.

    The attack is run at eps_max and, on the images on which it succeeds there, at the middle between the largest radius
    that failed and the smallest size that succeeded, `bisections` times. What comes back is the nearest success; images
    that reach the goal to begin with, and those without a success, come back unchanged. With PGD(random_start=False)
    this is Carlini and Wagner's "iterative gradient sign", whose eps they search for as well.

    attack      a bounded attack (eps_max and this attack's box replace its own). A step size that is given is kept at
                every radius; PGD's default is in proportion to it. stop_early saves time
    eps_max     largest radius, default 1 in units of the box
    bisections  default 10: to within eps_max / 1024, where a larger radius is never worse

    Cost: the attack's, times bisections + 1, and as many forward passes.
    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    section VII-B.

    Raises:
        ValueError: an attack without a radius of its own, or that finds a shared answer for all images.
    """

    attack: Attack
    eps_max: Positive = Share(1.0)
    bisections: Count = 10

    def __post_init__(self) -> None:
        check_parts("SmallestRadius", (self.attack,))
        if not any(item.name == "eps" for item in fields(self.attack)) or self.attack.measured_in is None:
            raise ValueError(f"SmallestRadius needs an attack with a radius of its own; {self.attack} has none")

    @property
    def eps(self) -> None:
        """It has no radius: it looks for one."""

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        return search_remaining(self, oracle, x, goal, partial(self._search, draws), rounds=0)

    def _search(self, draws: Draws, rest: Remaining) -> Images:
        norm, best = self.attack.measured_in, rest.best
        inner: Any = self.inner  # with a field eps
        assert norm is not None
        high = torch.full_like(best.size, self.eps_max)
        low, place = torch.zeros_like(high), torch.arange(len(high), device=high.device)
        for turn in range(self.bisections + 1):
            some = rest[place]
            radius = (low[place] + high[place]) / 2 if turn else high
            image = some.attacked(replace(inner, eps=radius), draws)
            reached = some.goal.reached(some.oracle.logits(image, some.which))
            size = norm.size(image - some.x)
            best.keep(image, size, reached, place)
            high[place] = torch.where(reached, torch.minimum(radius, size), high[place])
            low[place] = torch.minimum(torch.where(reached, low[place], radius), high[place])
            if turn == 0:
                place = place[reached]
            if len(place) == 0:
                break
        return best.x_adv
