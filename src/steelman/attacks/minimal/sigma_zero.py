"""Perturbations of few entries by descent on a smooth count."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch

from steelman.attacks.core import Attack, Oracle
from steelman.attacks.minimal.nearest import clearly, clip, cosine
from steelman.attacks.minimal.searching import Remaining, left_over, search_remaining
from steelman.losses import Goal, Margin
from steelman.norms import L0, Norm, column
from steelman.randomness import Draws
from steelman.ranges import Count, Fraction, Natural, OneOf, Positive
from steelman.types import Images, Share


@dataclass(frozen=True)
class SigmaZero(Attack):
    """sigma-zero: descend on the margin plus a smooth count of changed entries, and set small changes to zero.

    Minimise max(Z_y - max_{k != y} Z_k, 0) + 1/n sum_i d_i^2 / (d_i^2 + sigma) by Adam on the gradient divided by its
    largest entry, its rate falling along half a cosine to a tenth. After every step, d is cut to the box, tau moves by
    .01 of the rate, up after a success and down elsewhere, and entries below tau become 0. The success with the fewest
    changed entries is kept. L0 counts entries, so a changed RGB pixel may count three. Images at the goal to begin
    with, and those without a success, are returned unchanged.

    norm       L0, the only one
    steps      gradient passes of start, search and polish, at least half of them for the search; default 1,000 (paper;
               code: 100)
    step_size  Adam's first rate, default 1 in units of the box (paper)
    sigma      how sharp the count is, in squares of the width of the box, default 1e-3 (paper)
    threshold  first tau, default .3 (paper)
    classes    how many of the highest logits compete in the start, the label among them; default 10, 0 for none
    polish     rounds of polish at the end, default 1, 0 for none

    With a target, the margin is the highest other logit minus the target's. Start and polish are ours: the fewest
    entries that reach the nearest boundary linearised at x, kept where that is a success; and at last those that reach
    the boundary linearised at the best image, then fewer and fewer of its own.
    As in the code, tau moves by the rate of the step to come. The code is untargeted.

    Cost: `steps` gradient passes: classes - 1 for the start, 1 per round of polish, the rest with a forward pass each;
    2 forward passes more for the start, up to 12 per round.
    Reference: Antonio Emanuele Cina, Francesco Villani, Maura Pintor, Lea Schonherr, Battista Biggio and Marcello
    Pelillo, "Sigma-zero: gradient-based optimization of l0-norm adversarial examples", ICLR 2025, algorithm 1.
    """

    norm: Annotated[Norm, OneOf((L0,), "FMN has other norms")] = L0
    steps: Count = 1000
    step_size: Positive = Share(1.0)
    sigma: Positive = 1e-3
    threshold: Fraction = 0.3
    classes: Natural = 10
    polish: Natural = 1

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        def search(rest: Remaining) -> Images:
            if rest.spent:
                rest.best.keep(rest.start, L0.size(rest.start - rest.x), rest.clearly(rest.start))
            self._descend(rest, left_over(self.steps, rest.spent + self.polish))
            return rest.best.x_adv

        return search_remaining(self, oracle, x, goal, search, classes=self.classes, rounds=self.polish)

    def _descend(self, rest: Remaining, steps: int) -> None:
        x = rest.x
        image, delta = x, torch.zeros_like(x)
        mean, spread, tau = torch.zeros_like(x), torch.zeros_like(x), torch.full_like(rest.best.size, self.threshold)
        objective, count = partial(Margin(), goal=rest.goal), x[0].numel()
        sigma = self.sigma * self.box_width**2
        for step in range(steps):
            logits, _, gradient = rest.oracle.gradient(image, objective, rest.which)
            reached = clearly(rest.goal, logits)
            rest.best.keep(image, L0.size(delta), reached)
            # Downhill: a success feels the count alone.
            gradient.mul_(column(~reached, x)).neg_()
            square = delta * delta
            square.add_(sigma).square_()
            gradient.addcdiv_(delta, square, value=2 * sigma / count)
            top = torch.linalg.vector_norm(gradient.flatten(1), ord=torch.inf, dim=1)
            gradient.div_(column(top.clamp(min=torch.finfo(x.dtype).tiny), x))
            mean.lerp_(gradient, 0.1)
            spread.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            rate = cosine(step, steps, self.step_size, self.step_size / 10)
            width = (spread / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
            delta.addcdiv_(mean, width, value=-rate / (1 - 0.9 ** (step + 1)))
            image = clip(delta.add_(x), self.box)
            following = cosine(step + 1, steps, self.step_size, self.step_size / 10) / self.box_width
            tau = torch.where(reached, tau + 0.01 * following, tau - 0.01 * following).clamp_(0, 1)
            delta = image - x
            small = delta.abs() < column(tau * self.box_width, x)
            image, delta = torch.where(small, x, image), delta.masked_fill_(small, 0)
