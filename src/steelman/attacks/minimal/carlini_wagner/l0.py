"""Few pixels, by freezing those of least effect in turn."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from steelman.attacks.core import Oracle
from steelman.attacks.minimal.carlini_wagner.descent import Encoding, InRounds
from steelman.attacks.minimal.nearest import polish
from steelman.attacks.minimal.searching import Remaining, search_remaining
from steelman.losses import Goal, Margin
from steelman.norms import L0, Norm, column
from steelman.randomness import Draws
from steelman.ranges import Count, Natural, OneOf, Positive
from steelman.types import Flags, Images, Indices, PerImage


@dataclass(frozen=True)
class CarliniWagnerL0(InRounds):
    """Carlini and Wagner's L0 attack.

    All pixels may move at first. A round is an L2 attack on those that may: Adam decreases |x' - x|_2^2 + c f6(x'),
    f6 as in CarliniWagner, until x' is at the goal; where that fails, c grows by c_factor. Then the pixels of least
    effect are frozen where they were in x, by the score |sum d| sum |g|, both sums over the channels of a pixel, d
    = x' - x and g the margin's gradient at x': the unchanged ones, and freeze * sqrt(changed pixels) more, at least
    one. The next round goes on from x'. When c is above c_max, the image with the fewest changed pixels is
    returned. Each image has its own c and pixels, and leaves a round when it is at the goal.

    norm         L0, the only one. It counts entries, the attack pixels: all channels of a pixel are free or frozen
    steps        most iterations per round, default 1,000 (code)
    step_size    Adam's, default .01 (code)
    c            first constant, default 1e-3 (code); distances are in widths of the box
    c_max        last constant, default 2e6 (code)
    c_factor     default 2 (code)
    freeze       default .3 (code)
    encoding     how x' stays in the box, as in CarliniWagner; default "projected" (paper and code: "tanh", in which
                 pixels hardly come to the ends of the box)
    abort_early  every steps / 10, an image whose objective has not fallen by 1e-4 of itself leaves its round (default
                 True; not in the code)
    polish       rounds of polish at the end, default 2, 0 for none (not in paper or code): linearise the boundary at
                 the best image and try the fewest entries that reach it, then put entries back by halving

    The procedure is greedy, and which pixels an L2 attack changes need not be the few that would do. So the polish also
    begins on the nearest of the boundaries linearised at x, and the better of both is kept: untargeted, every affine
    optimum is found within one. The code's margin of .01 and its stop at a score above .01 depend on the scale of the
    logits; we have neither.

    Cost: a forward and gradient pass per iteration, and `steps` bounds a round, of which there are about 2 / freeze
    times the square root of the pixels; 1 of each for the linearised start and classes - 2 gradient passes more.
    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    section VI-B.

    Raises:
        ValueError: box=None, without which one entry would do; c above c_max.
    """

    norm: Annotated[Norm, OneOf((L0,), "CarliniWagner has L2, CarliniWagnerLinf has Linf")] = L0
    steps: Count = 1000
    step_size: Positive = 0.01
    c: Positive = 1e-3
    c_max: Positive = 2e6
    c_factor: Annotated[float, Gt(1)] = 2.0
    freeze: Positive = 0.3
    encoding: Encoding = "projected"
    abort_early: bool = True
    polish: Natural = 2

    def __post_init__(self) -> None:
        if self.box is None:
            raise ValueError("without a box, one pixel that goes far enough would do: give one, such as (0, 1)")
        super().__post_init__()

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        return search_remaining(self, oracle, x, goal, self._search, classes=10 if self.polish else 0, rounds=0)

    def _search(self, rest: Remaining) -> Images:
        candidates = [self._greedy(rest)]
        if self.polish:
            there = rest.goal.reached(rest.oracle.logits(rest.start, rest.which))
            candidates.append(torch.where(column(there, rest.x), rest.start, rest.x))
        for image in candidates:
            image = polish(rest.oracle, rest.x, image, rest.goal, L0, self.box, self.polish, rest.which)
            size = L0.size(image - rest.x)
            rest.best.keep(image, size, size > 0)  # 0: no success
        return rest.best.x_adv

    def _greedy(self, rest: Remaining) -> Images:
        x = rest.x
        best, start, free = x.clone(), x.clone(), torch.ones_like(x, dtype=torch.bool)
        area = self.box_width**2  # of which squared distances are parts
        c = torch.full((len(x),), self.c * area, dtype=x.dtype, device=x.device)
        place = torch.arange(len(x), device=x.device)
        while len(place):
            image, done = self._round(rest[place], start[place], free[place], c[place])
            first = ~(best[place] != x[place]).flatten(1).any(1)  # no success yet: go on from here
            start[place[first]] = image[first]
            here, image = place[done], image[done]
            if len(here):
                best[here] = image
                free[here] &= self._worth(rest[here], image, free[here])
                start[here] = torch.where(free[here], image, x[here])
            c[place] = torch.where(done, c[place], self.c_factor * c[place])
            place = place[(c[place] <= self.c_max * area) & free[place].flatten(1).any(1)]
        return best

    def _round(self, rest: Remaining, start: Images, free: Tensor, c: PerImage) -> tuple[Images, Flags]:
        def squared(image: Images, place: Indices) -> tuple[PerImage, Images, Flags]:
            delta = image - rest.x[place]
            total = delta.flatten(1).square().sum(1)
            return total, 2 * delta, torch.ones_like(total, dtype=torch.bool)

        return self.until_reached(rest, start, c, squared, free)

    def _worth(self, rest: Remaining, image: Images, free: Tensor) -> Tensor:
        """Which entries stay free: whole pixels, without the unchanged ones and some of least effect."""
        x = rest.x
        _, _, slope = rest.oracle.gradient(image, partial(Margin(), goal=rest.goal), rest.which)
        channels = x.shape[1] if x.ndim > 2 else 1
        delta, slope = ((each.reshape(len(x), channels, -1)) for each in (image - x, slope))
        score = (delta.sum(1).abs() * slope.abs().sum(1)).masked_fill(~free.reshape(delta.shape).any(1), -1.0)
        changed = (delta != 0).any(1)
        number = (self.freeze * changed.sum(1).to(x.dtype).sqrt()).floor().clamp(min=1)
        order = score.masked_fill(~changed, -1.0).sort(dim=1, stable=True).indices
        rank = torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1], device=x.device).expand_as(order))
        stays = rank >= (~changed).sum(1, keepdim=True) + number[:, None]
        return stays[:, None].expand_as(delta).reshape(x.shape)
