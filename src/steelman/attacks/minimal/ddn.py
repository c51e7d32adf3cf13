"""Minimal L2 perturbations whose direction and norm are steered apart."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Interval

from steelman.attacks.core import Attack, Oracle
from steelman.attacks.minimal.nearest import clearly, cosine, off_plateaus, pace
from steelman.attacks.minimal.searching import Remaining, search_remaining
from steelman.losses import CrossEntropy, Goal
from steelman.norms import L2, TINY, Norm, column
from steelman.randomness import Draws
from steelman.ranges import Count, Natural, OneOf, Positive
from steelman.types import Images, Share


@dataclass(frozen=True)
class DDN(Attack):
    """Decoupled direction and norm: step along the gradient, then set the norm, smaller after a success.

    d <- d + a_t g / |g|_2 with g the gradient of the cross-entropy at x + d and a_t = .01 + .99 (1 + cos(pi t / steps))
    / 2; e <- (1 - gamma) e where x + d was a success, else (1 + gamma) e; x + d <- clip(x + e d / |d|_2). The nearest
    success is kept. Images at the goal to begin with, and those without a success, are returned unchanged.

    norm       L2, the only one
    steps      gradient passes of start, search and polish, at least half of them for the search; default 100 (paper:
               100, 300 and 1,000)
    gamma      change of the norm per step, default .05 (paper)
    init_norm  first e; default 1 in units of the box (paper)
    levels     number of grey levels of the returned images, as 256; default None, any value (paper and code: 256)
    classes    how many of the highest logits compete in the start, the label among them; default 10, 0 for none
    polish     rounds of polish at the end, default 1, 0 for none; none with `levels`

    Start and polish are ours; classes=0 and polish=0 is the paper's form, which on affine models ends at up to 56 times
    the optimum. The start is the nearest of the boundaries linearised at x, kept where it is a success: the gradient
    follows the highest rival, which need not be the nearest. (To search from there made perturbations of a robust
    LeNet 3 % longer after 100 steps; to try it only where the search fails changed medians by -.4 to .7 %.) Where start
    and search fail, there is one more search, with the passes of the start. The polish linearises the boundary at the
    best image, tries its nearest point, and halves the way back from there.
    Where the gradient is 0, the step is along a random direction, as in adv-lib; the paper does not say.
    Paper and code differ: the code bounds e by the distance of the farthest corner of the box, which changes no image;
    we do not.

    Cost: `steps` gradient passes: classes - 1 for the start, 1 per round of polish, the rest with a forward pass each;
    2 forward passes more for the start, up to 7 per round. Where start and search fail, up to `steps` of both more.
    Reference: Jerome Rony, Luiz G. Hafemann, Luiz S. Oliveira, Ismail Ben Ayed, Robert Sabourin and Eric Granger,
    "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses", CVPR 2019,
    algorithm 1.

    Raises:
        ValueError: `levels` without a box, since grey levels divide the box.
    """

    norm: Annotated[Norm, OneOf((L2,), "FMN has the others")] = L2
    steps: Count = 100
    gamma: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    init_norm: Positive = Share(1.0)
    levels: Annotated[int | None, Ge(2)] = None
    classes: Natural = 10
    polish: Natural = 1

    def __post_init__(self) -> None:
        if self.levels is not None and self.box is None:
            raise ValueError(f"DDN needs a box to divide into levels={self.levels}; give one, such as (0, 1)")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        rounds = self.polish if self.levels is None else 0

        def search(rest: Remaining) -> Images:
            if rest.spent:
                there = self._place(rest.start)
                rest.best.keep(there, L2.size(there - rest.x), rest.clearly(there))
            return rest.descend(partial(self._descend, draws), rest.x, self.steps, rounds)

        return search_remaining(self, oracle, x, goal, search, classes=self.classes, rounds=rounds)

    def _descend(self, draws: Draws, rest: Remaining, start: Images, steps: int) -> None:
        image, delta = start.clone(), torch.zeros_like(start)
        size = torch.zeros_like(rest.best.size)
        radius = torch.full_like(size, self.init_norm)
        for step in range(steps):
            logits, _, gradient = rest.oracle.ascent(image, CrossEntropy(), rest.goal, rest.which)
            reached = clearly(rest.goal, logits)
            rest.best.keep(image, size, reached)
            gradient = off_plateaus(gradient, draws[rest.which], step)
            delta.addcmul_(gradient, pace(gradient, cosine(step, steps, self.box_width, 0.01 * self.box_width)))
            radius = torch.where(reached, (1 - self.gamma) * radius, (1 + self.gamma) * radius)
            delta.mul_(column(radius / L2.size(delta).clamp(min=TINY), delta))
            image = self._place(delta.add_(rest.x))
            delta = image - rest.x
            size = L2.size(delta)

    def _place(self, image: Images) -> Images:
        """Onto the box and the grey levels, in place."""
        if self.box is None:
            return image
        low, high = self.box
        if self.levels is None:
            return image.clamp_(low, high)
        scale = (self.levels - 1) / (high - low)
        return image.sub_(low).mul_(scale).round_().div_(scale).add_(low).clamp_(low, high)
