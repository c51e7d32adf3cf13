"""Minimal perturbations by projection onto linearised boundaries within the box."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from steelman.attacks.core import Attack, Oracle
from steelman.attacks.minimal.linearised import EXPONENT, Boundaries, rivals, shortest_step, size
from steelman.attacks.minimal.nearest import clip
from steelman.attacks.minimal.searching import Successes
from steelman.losses import Goal, Margin
from steelman.norms import L1, L2, TINY, Linf, Norm, column, per_image
from steelman.randomness import Draws
from steelman.ranges import INFINITE, Count, Fraction, OneOf
from steelman.types import Images, Indices, Logits, PerImage, Radius

START = {Linf: 0.3, L2: 1.0, L1: 5.0}
"""The largest radius of a random start, as in the authors' code."""


@dataclass(frozen=True)
class FAB(Attack):
    """Fast adaptive boundary attack: walk along the decision boundary, drawn towards the image.

    With pi the projection onto the nearest linearised boundary within the box, d_t = pi(x_t) - x_t and d = pi(x) - x:
    x_{t+1} = clip((1 - a)(x_t + eta d_t) + a (x + eta d)), a = min(|d_t| / (|d_t| + |d|), alpha_max). Where that is
    adversarial, it is kept if it is the nearest so far, and the walk goes back to x + beta (x_{t+1} - x). A final
    search on the line from x takes away what is left of the overshoot. Images that are misclassified to begin with, and
    those without a success, are returned unchanged.

    norm       Linf (default), L2 or L1
    steps      default 100 (authors' code)
    restarts   default 1; later ones start uniformly in a ball of half the smallest norm so far, at most `radius` or
               else .3, 1 and 5 in Linf, L2 and L1 (authors' code)
    targets    None (default): the nearest boundary of all. A number: that many runs, each towards one of the highest
               other classes at x, with one gradient a step; AutoAttack has 9
    alpha_max  most weight of the pull towards the image, default .1 (paper)
    eta        overshoot, default 1.05 (paper)
    beta       share of the perturbation that a backward step leaves, default .9 (paper)
    classes    how many of the highest logits at x compete, the label among them; default 10
    slack      as in DeepFool: from the second step on, a class takes part only if its boundary seems nearer than
               `slack` times the nearest; default 1.5. With infinity all take part, as in paper and code
    radius     images with a success of at most this norm leave at once, and without the final search: for measuring
               accuracy. One number, one per image, or None (default)

    With a target, there is one run; the boundary is that between the target and the highest other class of the moment,
    and the pull begins when the target has been reached. Paper and code differ: AutoAttack's code has no final search;
    we do the paper's, three steps of the secant method. Which boundary is nearest is measured within the box, by the
    step itself, and not by |f_k| / |w_k|_q, so that affine models are solved exactly at the box too.

    Cost: per restart and step 2 forward passes and, without targets, 1 to classes - 1 gradient passes and 0 to 1
    forward passes more; with `targets`, that many times 2 forward and 1 gradient passes. At most 5 forward passes more.
    Reference: Francesco Croce and Matthias Hein, "Minimally distorted adversarial examples with a fast adaptive
    boundary attack", ICML 2020, section 3.
    """

    norm: Annotated[Norm, OneOf((Linf, L2, L1), "L0 has no projection onto a plane")] = Linf
    steps: Count = 100
    restarts: Count = 1
    targets: Annotated[int | None, Ge(1)] = None
    alpha_max: Fraction = 0.1
    eta: Annotated[float, Ge(1)] = 1.05
    beta: Annotated[float, Interval(gt=0, lt=1)] = 0.9
    classes: Annotated[int, Ge(2)] = 10
    slack: Annotated[float, Ge(1), INFINITE] = 1.5
    radius: Radius | None = None

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        logits = oracle.logits(x)
        best = Successes(x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device))
        enough = per_image(0.0 if self.radius is None else self.radius, x.double(), "radius").flatten().expand(len(x))
        todo = ~goal.reached(logits)
        for restart in range(self.restarts):
            for some in self._runs(logits, goal):
                which = torch.where(todo & (best.size > enough))[0]
                if len(which) == 0:
                    break
                start = self._start(x, best.size, enough, draws.split(restart)) if restart else x
                self._walk(oracle, x, start[which], goal[which], some[which], which, enough, best)
        which = torch.where(best.size.isfinite() & (best.size > enough))[0]
        if len(which):
            x_adv = self._shorten(oracle, x[which], best.x_adv[which], logits[which], goal[which], which)
            best.x_adv[which] = x_adv
        return best.x_adv

    def _runs(self, logits: Logits, goal: Goal) -> tuple[Tensor, ...]:
        """The rivals of each run."""
        if self.targets is None or goal.target is not None:
            return (rivals(logits, goal, self.classes),)
        return rivals(logits, goal, self.targets + 1).split(1, dim=1)

    def _start(self, x: Images, nearest: PerImage, enough: PerImage, draws: Draws) -> Images:
        most = torch.full_like(nearest, START[self.norm] * self.box_width) if self.radius is None else enough
        return clip(x + self.norm.sample(x, torch.minimum(most, nearest) / 2, draws), self.box)

    def _walk(
        self,
        oracle: Oracle,
        x: Images,
        image: Tensor,
        goal: Goal,
        rivals: Tensor,
        which: Indices,
        enough: PerImage,
        best: Successes,
    ) -> None:
        """One run for the images `which`; what is nearer than before goes into `best`."""
        p, clean = EXPONENT[self.norm], x[which]
        boundaries = Boundaries.around(rivals, x, p, self.box, self.slack)
        for _ in range(self.steps):
            gap, slope, step = boundaries.nearest(oracle, image, goal, which)
            gap = gap + ((clean - image) * slope).flatten(1).sum(1)
            straight = shortest_step(clean, slope, gap, p, self.box)
            here, there = size(step, p), size(straight, p)
            pull = (here / (here + there).clamp(min=TINY)).clamp(max=self.alpha_max)
            if goal.target is not None:  # else the pull holds some images back from their target for ever
                pull = torch.where(best.size[which].isfinite(), pull, 0)
            image = clip(torch.lerp(image + self.eta * step, clean + self.eta * straight, column(pull, x)), self.box)
            hit = goal.reached(oracle.logits(image, which))
            best.keep(image, size(image.double() - clean.double(), p), hit, which)
            image = torch.where(column(hit, x), torch.lerp(clean, image, self.beta), image)
            if self.radius is not None:
                stay = torch.where(best.size[which] > enough[which])[0]
                if len(stay) == 0:
                    break
                which, goal, boundaries = which[stay], goal[stay], boundaries[stay]
                clean, image = clean[stay], image[stay]

    def _shorten(self, oracle: Oracle, x: Images, far: Images, logits: Logits, goal: Goal, which: Indices) -> Images:
        """The final search: the secant method on the margin along the line, aiming a little beyond the boundary."""
        margin = Margin()
        short, below = x.new_zeros(len(x)), margin(logits, goal)
        enough, above = x.new_ones(len(x)), margin(oracle.logits(far, which), goal)
        best = far
        for _ in range(3):
            crossing = short + (enough - short) * below / (below - above).clamp(max=-TINY)
            t = torch.minimum(crossing + 0.05 * (enough - crossing) + 1e-5, enough)
            image = torch.lerp(x, far, column(t, x))
            there = oracle.logits(image, which)
            hit, value = goal.reached(there), margin(there, goal)
            best = torch.where(column(hit, x), image, best)
            short, below = torch.where(hit, short, t), torch.where(hit, below, value)
            enough, above = torch.where(hit, t, enough), torch.where(hit, value, above)
        return best
