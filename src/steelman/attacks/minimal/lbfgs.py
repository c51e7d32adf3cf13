"""Szegedy's attack: the box-constrained quasi-Newton minimum of distance and loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from steelman.attacks.core import Attack, Oracle
from steelman.attacks.minimal.searching import Remaining, search_remaining
from steelman.losses import Goal, other_logits
from steelman.norms import L2, TINY, Norm, column
from steelman.randomness import Draws
from steelman.ranges import Count, Natural, OneOf, Positive
from steelman.types import Box, Images, Indices, Logits, PerImage

Slope = Callable[[Images, Indices], tuple[PerImage, Images]]
"""Value and gradient at images, those of the named rows."""


@dataclass(frozen=True)
class LBFGS(Attack):
    """Szegedy's L-BFGS attack.

    Minimise |x' - x|_2^2 + c loss(x') in the box by projected L-BFGS, with a binary search for the least c that
    succeeds; the nearest success is kept. The loss is the target's cross-entropy; without a target, -log(1 - p_y), the
    cross-entropy of "any other class". Images at the goal to begin with, and those without a success, are returned
    unchanged.

    norm          L2, the only one
    steps         most L-BFGS steps per search step, default 50 (CleverHans: 1,000)
    search_steps  binary search over c, default 9 (CleverHans: 5)
    c             first constant, default 1 (CleverHans: .01), with distances in widths of the box; times 10 until the
                  first success
    memory        pairs of steps and gradient changes that approximate the curvature, default 10 (SciPy)
    polish        rounds of polish at the end, default 1, 0 for none (not in the paper), as in DDN

    The paper weighs the other way round, c |r| + loss with the largest c, and its |r| is not squared; Foolbox and
    CleverHans square it, as we do: it is smooth at 0. All images of a batch take their steps together, each with
    its own curvature and step length, instead of one by one through Fortran. Entries at the box that would leave it
    take no part in a step. The search begins on the nearest of the boundaries linearised at x, which together with the
    polish finds every affine optimum within 1.02.

    Cost: a forward and gradient pass per step and per shortening of it (most steps need none); 1 forward and at most 9
    gradient passes for the start, 1 gradient and up to 7 forward passes per round of polish.
    Reference: Christian Szegedy, Wojciech Zaremba, Ilya Sutskever, Joan Bruna, Dumitru Erhan, Ian Goodfellow and Rob
    Fergus, "Intriguing properties of neural networks", ICLR 2014, section 4.1.
    """

    norm: Annotated[Norm, OneOf((L2,), "CarliniWagnerLinf and CarliniWagnerL0 have others")] = L2
    steps: Count = 50
    search_steps: Count = 9
    c: Positive = 1.0
    memory: Count = 10
    polish: Natural = 1

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        return search_remaining(self, oracle, x, goal, self._search, classes=10, rounds=self.polish)

    def _search(self, rest: Remaining) -> Images:
        """The binary search over c."""
        low, high, c = (torch.full_like(rest.best.size, first) for first in (0, torch.inf, self.c))
        for _ in range(self.search_steps):
            hit = torch.zeros_like(c, dtype=torch.bool)
            minimise(partial(self._slope, rest, c, hit), rest.start, self.box, self.steps, self.memory)
            low, high = torch.where(hit, low, torch.maximum(low, c)), torch.where(hit, torch.minimum(high, c), high)
            c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)
        return rest.best.x_adv

    def _slope(self, rest: Remaining, c: Tensor, hit: Tensor, image: Images, rows: Indices) -> tuple[PerImage, Images]:
        """Value and gradient of |x' - x|_2^2 + c loss(x'); `hit` becomes whether it is at the goal."""
        goal, area = rest.goal[rows], self.box_width**2
        logits, gain, pull = rest.oracle.gradient(image, lambda logits: -_loss(logits, goal), rest.which[rows])
        delta = image - rest.x[rows]
        distance = delta.flatten(1).square().sum(1) / area
        hit[rows] = reached = goal.reached(logits)
        rest.best.keep(image, distance, reached, rows)
        return distance - c[rows] * gain, 2 * delta / area - column(c[rows], image) * pull


def _loss(logits: Logits, goal: Goal) -> PerImage:
    shares = logits.log_softmax(1)
    if goal.target is not None:
        return -shares.gather(1, goal.target[:, None])[:, 0]
    return -other_logits(shares, goal.labels).logsumexp(1)


def minimise(slope: Slope, x: Images, box: Box | None, steps: int, memory: int) -> Images:
    """Projected L-BFGS from `x`, every image for itself: where each ended.

    The direction is that of the two loops over the last `memory` pairs, on the entries that the box lets move; its
    length is halved until Armijo's condition holds. An image leaves when that fails or its objective has fallen by less
    than 1e-6 of itself.
    """
    x, place = x.clone(), torch.arange(len(x), device=x.device)
    width = 1.0 if box is None else box[1] - box[0]
    value, gradient = slope(x, place)
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(steps):
        here = x[place]
        free = _free(here, gradient, box)
        direction = -_two_loops(gradient * free, pairs) * free
        uphill = (direction * gradient).flatten(1).sum(1) >= 0
        direction = torch.where(column(uphill, here), -gradient * free, direction)
        # With no curvature known, a step of the gradient is no longer than the width of the box.
        if not pairs:
            direction = direction * width**2 / column((width * direction.flatten(1).norm(dim=1)).clamp(min=1), here)
        moved, new, there = _shortened(slope, here, direction, value, gradient, box, place)
        progress = value - new
        step, change = moved - here, there - gradient
        x[place] = moved
        going = torch.where(progress > 1e-6 * value.abs())[0]
        place, value, gradient = place[going], new[going], there[going]
        if len(place) == 0:
            break
        pairs = [(s[going], y[going]) for s, y in [*pairs, (step, change)][-memory:]]
    return x


def _free(x: Images, gradient: Images, box: Box | None) -> Tensor:
    """1 for entries that may follow minus the gradient, 0 for those at the box that would leave it."""
    if box is None:
        return torch.ones_like(x)
    return 1 - (((x <= box[0]) & (gradient > 0)) | ((x >= box[1]) & (gradient < 0))).to(x.dtype)


def _two_loops(gradient: Images, pairs: list[tuple[Tensor, Tensor]]) -> Images:
    """The inverse Hessian that the pairs stand for, times `gradient`; pairs without positive curvature are left out."""
    direction, kept = gradient.flatten(1), []
    for step, change in reversed(pairs):
        s, y = step.flatten(1), change.flatten(1)
        curve = (s * y).sum(1, keepdim=True)
        good = curve > 1e-10 * y.square().sum(1, keepdim=True)
        rho = torch.where(good, 1 / curve.clamp(min=TINY), 0)
        share = rho * (s * direction).sum(1, keepdim=True)
        direction = direction - share * y
        kept.append((s, y, rho, share, curve))
    scaled = torch.zeros_like(direction[:, :1], dtype=torch.bool)
    for _, y, rho, _, curve in kept:  # by the newest good pair
        now = ~scaled & (rho > 0)
        direction = torch.where(now, direction * curve / y.square().sum(1, keepdim=True).clamp(min=TINY), direction)
        scaled = scaled | now
    for s, y, rho, share, _ in reversed(kept):
        direction = direction + s * (share - rho * (y * direction).sum(1, keepdim=True))
    return direction.reshape(gradient.shape)


def _shortened(
    slope: Slope, x: Images, direction: Images, value: PerImage, gradient: Images, box: Box | None, place: Indices
) -> tuple[Images, PerImage, Images]:
    """The first of ten halvings of a step that satisfies Armijo's condition, with value and gradient; `x` if none."""
    moved, new, there = x.clone(), value.clone(), gradient.clone()
    rest, length = torch.arange(len(x), device=x.device), 1.0
    for _ in range(10):
        image = x[rest] + length * direction[rest]
        image = image if box is None else image.clamp(*box)
        now, pull = slope(image, place[rest])
        gained = (gradient[rest] * (image - x[rest])).flatten(1).sum(1)
        good = now <= value[rest] + 1e-4 * gained
        moved[rest[good]], new[rest[good]], there[rest[good]] = image[good], now[good], pull[good]
        rest, length = rest[~good], length / 2
        if len(rest) == 0:
            break
    return moved, new, there
