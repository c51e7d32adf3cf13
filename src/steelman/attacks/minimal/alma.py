"""Minimal perturbations by an augmented Lagrangian."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Interval

from steelman.attacks.core import Attack, Oracle
from steelman.attacks.minimal.nearest import clearly, clip
from steelman.attacks.minimal.searching import Remaining, search_remaining
from steelman.losses import Goal, Margin
from steelman.norms import L1, L2, TINY, Norm, column
from steelman.randomness import Draws
from steelman.ranges import Count, Natural, OneOf, Positive
from steelman.types import Images, Logits, PerImage, Share


@dataclass(frozen=True)
class ALMA(Attack):
    """Augmented Lagrangian method: descend on the norm plus a penalty with a weight per image.

    With v = (Z_y - max_{k != y} Z_k) / (Z_(1) - Z_(3)) at x + d, Z sorted descending as Z_(1), Z_(2), ..., minimise
    |d|_p + P(v), where P is P2: mu v + mu rho v^2 + rho^2 v^3 / 6 for v >= 0 and mu v / (1 - rho v) below. Each step
    moves the multiplier, mu <- alpha mu + (1 - alpha) P'(v). Every `check` steps, rho grows by `growth` where there is
    no success yet and v has not fallen to `improvement` of what it was. Steps are RMSprop's with momentum, at a rate
    that falls exponentially, from the first success to the end, to 1/100. The nearest success is kept. Images at the
    goal to begin with, and those without a success, are returned unchanged.

    norm         L2 (default) or L1
    steps        gradient passes of start, search and polish, at least half of them for the search; default 1,000
                 (paper: 100 and 1,000)
    step_size    first rate of RMSprop, default .1 in units of the box
    alpha        what is kept, from step to step, of the multiplier, the squared gradients and the momentum, default .9
    check        default 10
    improvement  default .95
    growth       default 1.2
    classes      how many of the highest logits compete in the start, the label among them; default 10, 0 for none
    polish       rounds of polish at the end, default 1, 0 for none

    With a target, v is the highest other logit minus the target's over the same spread; with two classes, v is not
    divided. Start and polish are ours, as in FMN. Defaults without another source are those of the code, whose fixed
    first rate we follow; the paper's covers a given distance, and found longer perturbations on LeNet.

    Cost: `steps` gradient passes: classes - 1 for the start, 1 per round of polish, the rest with a forward pass each;
    1 forward pass more for the start, up to 7 per round. Where the first search fails, up to `steps` of both more,
    or 20 where that is more.
    Reference: Jerome Rony, Eric Granger, Marco Pedersoli and Ismail Ben Ayed, "Augmented Lagrangian adversarial
    attacks", ICCV 2021, algorithm 1.
    """

    norm: Annotated[Norm, OneOf((L2, L1), "FMN has the others")] = L2
    steps: Count = 1000
    step_size: Positive = Share(0.1)
    alpha: Annotated[float, Interval(gt=0, lt=1)] = 0.9
    check: Count = 10
    improvement: Annotated[float, Interval(gt=0, le=1)] = 0.95
    growth: Annotated[float, Ge(1)] = 1.2
    classes: Natural = 10
    polish: Natural = 1

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        def search(rest: Remaining) -> Images:
            return rest.descend(self._descend, rest.start, self.steps, self.polish)

        return search_remaining(self, oracle, x, goal, search, classes=self.classes, rounds=self.polish)

    def _descend(self, rest: Remaining, image: Images, steps: int) -> None:
        x, best = rest.x, rest.best
        delta = image - x
        size = self.norm.size(delta)
        mu, rho = torch.ones_like(size), torch.ones_like(size)
        checked = torch.full_like(size, torch.inf)
        since = torch.full_like(size, steps + 1)  # the step of the first success
        spread, momentum = torch.ones_like(x), torch.zeros_like(x)
        for step in range(steps):
            logits, lead, gradient = rest.oracle.gradient(image, partial(_lead, goal=rest.goal), rest.which)
            reached = clearly(rest.goal, logits)
            best.keep(image, size, reached)
            since = torch.where(reached & (since > steps), step, since)
            if step == 0:
                checked = lead
            elif (step + 1) % self.check == 0:
                stuck = best.size.isinf() & (lead >= self.improvement * checked)
                rho, checked = torch.where(stuck, self.growth * rho, rho), lead
            if step:
                mu = torch.lerp(_slope(lead, rho, mu), mu, self.alpha).clamp(1e-6, 1e12)
            gradient.mul_(column(self.box_width * _slope(lead, rho, mu), x))
            if step:
                gradient.add_(delta / column(size.clamp(min=TINY), x) if self.norm is L2 else delta.sign())
            spread.mul_(self.alpha).addcmul_(gradient, gradient, value=1 - self.alpha)
            momentum.mul_(self.alpha).addcdiv_(gradient, spread.sqrt().add_(1e-8))
            decay = 0.01 ** ((step - since).clamp(min=0) / (steps - since))
            image = clip(delta.addcmul_(momentum, column(self.step_size * decay, x), value=-1).add_(x), self.box)
            delta = image - x
            size = self.norm.size(delta)


def _lead(logits: Logits, goal: Goal) -> PerImage:
    """By how much the goal is missed, over the spread of the highest three logits."""
    if logits.shape[1] < 3:
        return -Margin()(logits, goal)
    top = logits.topk(3, dim=1).values
    return -Margin()(logits, goal) / (top[:, 0] - top[:, 2] + 1e-8)


def _slope(v: PerImage, rho: PerImage, mu: PerImage) -> PerImage:
    """P'(v) of the penalty P2."""
    above = mu + 2 * mu * rho * v + rho.square() * v.square() / 2
    return torch.where(v >= 0, above, mu / (1 - rho * v.clamp(max=0)).square())
