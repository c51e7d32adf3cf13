"""Minimal Linf perturbations by a ball that shrinks."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from annotated_types import Gt, Interval

from steelman.attacks.core import Oracle
from steelman.attacks.minimal.carlini_wagner.descent import Encoding, InRounds
from steelman.attacks.minimal.deepfool import DeepFool
from steelman.attacks.minimal.searching import Remaining, search_remaining
from steelman.losses import Goal
from steelman.norms import Linf, Norm, column
from steelman.randomness import Draws
from steelman.ranges import Count, Natural, OneOf, Positive
from steelman.types import Flags, Images, Indices, PerImage


@dataclass(frozen=True)
class CarliniWagnerLinf(InRounds):
    """Carlini and Wagner's Linf attack.

    Adam decreases sum_i max(|x'_i - x_i| - t, 0) + c f6(x'), f6 as in CarliniWagner, until x' is at the goal and
    the sum below 1e-4 c. Then t becomes shrink * min(t, |x' - x|_inf), and the next round goes on from x'. A round
    that fails is done again with c times c_factor; when c is above c_max or t below 1/256 of the box, the image is
    done. Each image has its own t and c, and leaves a round when it is at the goal.

    norm         Linf, the only one
    steps        most iterations per round, default 1,000 (code)
    step_size    Adam's, default .005 (code)
    c            first constant, default 1e-5 (code); distances are in widths of the box
    c_max        last constant, default 20 (code)
    c_factor     default 2 (code)
    shrink       of t, default .9 (code)
    encoding     how x' stays in the box, as in CarliniWagner; default "projected" (paper and code: "tanh", in which
                 pixels that are black or white hardly move)
    abort_early  every steps / 10, an image whose objective has not fallen by 1e-4 of itself leaves its round (default
                 True; not in the code)
    warm_start   untargeted: begin at DeepFool's Linf image, with t at shrink times its size (default True; not in
                 paper or code, which begin at the image with t = 1)
    polish       rounds of polish at the end, default 2, 0 for none (not in paper or code), as in DDN

    The paper's slide minimises |x' - x|_inf itself, of which one entry at a time has a gradient; the sum is what the
    paper settles on and the code has. t falls by tenths and rounds give up, so that most affine optima are missed by a
    tenth and some by a factor of two; with the polish, every one is found within 1.02.

    Cost: a forward and gradient pass per iteration, and `steps` bounds a round, of which there are at most 53 +
    log(c_max / c) / log(c_factor); DeepFool's and the polish's besides.
    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    section VI-C.

    Raises:
        ValueError: box=None with tanh, which maps onto the box; c above c_max.
    """

    norm: Annotated[Norm, OneOf((Linf,), "CarliniWagner has L2, CarliniWagnerL0 has L0")] = Linf
    steps: Count = 1000
    step_size: Positive = 0.005
    c: Positive = 1e-5
    c_max: Positive = 20.0
    c_factor: Annotated[float, Gt(1)] = 2.0
    shrink: Annotated[float, Interval(gt=0, lt=1)] = 0.9
    encoding: Encoding = "projected"
    abort_early: bool = True
    warm_start: bool = True
    polish: Natural = 2

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        return search_remaining(self, oracle, x, goal, partial(self._search, draws), rounds=self.polish)

    def _search(self, draws: Draws, rest: Remaining) -> Images:
        x, best, width = rest.x, rest.best, self.box_width
        start, tau, c = x.clone(), torch.full_like(best.size, width), torch.full_like(best.size, self.c * width)
        if self.warm_start and rest.goal.target is None:
            start = rest.attacked(DeepFool(norm=Linf, box=self.box), draws)
            there = rest.goal.reached(rest.oracle.logits(start, rest.which))
            best.keep(start, Linf.size(start - x), there)
            tau = torch.where(there, self.shrink * best.size, tau)
        place = torch.arange(len(x), device=x.device)
        while len(place):
            image, done = self._round(rest[place], start[place], tau[place], c[place])
            reach = Linf.size(image - x[place])
            best.keep(image, reach, done, place)
            going = done | best.size[place].isinf()
            start[place[going]] = image[going]
            tau[place] = torch.where(done, self.shrink * torch.minimum(tau[place], reach), tau[place])
            c[place] = torch.where(done, c[place], self.c_factor * c[place])
            place = place[(c[place] <= self.c_max * width) & (tau[place] >= width / 256)]
        return best.x_adv

    def _round(self, rest: Remaining, start: Images, tau: PerImage, c: PerImage) -> tuple[Images, Flags]:
        x, bound = rest.x, column(tau, rest.x)

        def excess(image: Images, place: Indices) -> tuple[PerImage, Images, Flags]:
            delta = image - x[place]
            over = delta.abs() - bound[place]
            total = over.clamp(min=0).flatten(1).sum(1)
            return total, delta.sign() * (over > 0), total < 1e-4 * c[place]

        return self.until_reached(rest, x + (start - x).clamp(-bound, bound), c, excess)
