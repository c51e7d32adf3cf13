"""Minimal perturbations in any of the four norms by a ball that shrinks and grows."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from annotated_types import Interval

from steelman.attacks.core import Attack, Oracle
from steelman.attacks.minimal.nearest import beyond, clearly, clip, cosine, off_plateaus, pace
from steelman.attacks.minimal.searching import Remaining, search_remaining
from steelman.losses import Goal, Margin
from steelman.norms import L0, L1, L2, TINY, Linf, Norm, column
from steelman.randomness import Draws
from steelman.ranges import Count, Natural, Positive
from steelman.types import Images, Share

_DUAL = {Linf: 1, L2: 2, L1: math.inf}


@dataclass(frozen=True)
class FMN(Attack):
    """Fast minimum norm: gradient steps inside a ball that shrinks after a success and grows otherwise.

    d <- d + a_t g / |g|_2 with g the gradient of the margin (max_{k != y} Z_k - Z_y; with a target, Z_t minus the
    highest other) at x + d, then to the box and onto the ball of radius e. After a success, e <- min((1 - gamma_t) e,
    norm of the best); elsewhere (1 + gamma_t) e, but before the first success |d|_p + |margin| / |g|_q, the distance of
    the linearised boundary (q the dual norm), and a hair. L0 has whole radii: (1 -+ gamma_t) e rounded down, by at
    least 1. a_t and gamma_t fall along half a cosine. The nearest success is kept. Images at the goal to begin with,
    and those without a success, are returned unchanged.

    norm       L2 (default), Linf, L1 or L0, which counts entries
    steps      gradient passes of start, search and polish, at least half of them for the search; default 100 (paper: up
               to 1,000)
    step_size  first a_t, the last being 1/100 of it; default 1 in units of the box (paper: 1, and 10 for
               some Linf models)
    gamma      first gamma_t, default .05 (paper and code); the last is .001 (code)
    classes    how many of the highest logits compete in the start, the label among them; default 10, 0 for none
    polish     rounds of polish at the end, default 1, 0 for none

    Start and polish are ours, as in DDN, but the search begins at the start, in L0 only where that is a success. Where
    the search fails, because the start is too far away, it begins once more at x. In L0, the polish halves the number
    of entries. On small networks and random images, 10 to 20 steps in Linf or L2 then fail on less than half as many
    images.
    Where the gradient is 0, the step is along a random direction, as in DDN.
    Paper and code differ from us: both go onto the ball, then to the box, which leaves a perturbation inside the ball.
    With L2 on MNIST, where half of each step leaves the box, the estimate of the boundary then stalls short of it and 8
    in 10 images fail. We go to the box first; the ball's projection stays in it. Their start from an image of another
    class is left out.

    Cost: `steps` gradient passes: classes - 1 for the start, 1 per round of polish, the rest with a forward pass each;
    1 forward pass more for the start (L0: 2), up to 7 per round (L0: 12). Where the first search fails, up to `steps`
    of both more, or 20 where that is more.
    Reference: Maura Pintor, Fabio Roli, Wieland Brendel and Battista Biggio, "Fast minimum-norm adversarial attacks
    through adaptive norm constraints", NeurIPS 2021, algorithm 1.
    """

    norm: Norm = L2
    steps: Count = 100
    step_size: Positive = Share(1.0)
    gamma: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    classes: Natural = 10
    polish: Natural = 1

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        def search(rest: Remaining) -> Images:
            start = rest.start
            if self.norm is L0 and rest.spent:
                start = torch.where(column(rest.clearly(start), start), start, rest.x)
            return rest.descend(partial(self._descend, draws), start, self.steps, self.polish)

        return search_remaining(self, oracle, x, goal, search, classes=self.classes, rounds=self.polish)

    def _descend(self, draws: Draws, rest: Remaining, image: Images, steps: int) -> None:
        x, best = rest.x, rest.best
        delta = image - x
        size = self.norm.size(delta)
        radius = size.clamp(min=1) if self.norm is L0 else torch.full_like(size, torch.inf)
        for step in range(steps):
            logits, value, gradient = rest.oracle.gradient(image, partial(Margin(), goal=rest.goal), rest.which)
            reached = clearly(rest.goal, logits)
            best.keep(image, size, reached)
            gamma = cosine(step, steps, self.gamma, 0.001)
            smaller, larger = (1 - gamma) * radius, (1 + gamma) * radius
            if self.norm is L0:
                smaller, larger = torch.minimum(radius - 1, smaller.floor()), torch.maximum(radius + 1, larger.floor())
            else:
                slope = torch.linalg.vector_norm(gradient.flatten(1), ord=_DUAL[self.norm], dim=1)
                boundary = size + beyond(value.abs(), logits) / slope.clamp(min=TINY)
                larger = torch.where(best.size.isfinite(), larger, boundary)
            radius = torch.where(reached, torch.minimum(smaller, best.size), larger)
            gradient = off_plateaus(gradient, draws[rest.which], step)
            delta.addcmul_(gradient, pace(gradient, cosine(step, steps, self.step_size, self.step_size / 100)))
            image = clip(delta.add_(x), self.box)
            delta = self.norm.project(image - x, radius)
            image = clip(x + delta, self.box)  # which rounding may leave
            size = self.norm.size(delta)
