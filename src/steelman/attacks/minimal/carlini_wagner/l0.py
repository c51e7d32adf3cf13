"""Few pixels, by freezing those of least effect one after the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.attacks.core.attack import Attack
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.minimal.carlini_wagner.descent import Encoding, Variable, until_reached
from steelman.attacks.minimal.nearest import first_look, polish
from steelman.losses import Goal, Margin
from steelman.norms import L0, Norm
from steelman.randomness import Draws
from steelman.types import Flags, Images, Indices, PerImage


@dataclass(frozen=True)
class CarliniWagnerL0(Attack):
    """Carlini and Wagner's L0 attack.

    All pixels may move at first. A round is an L2 attack on those that may: Adam decreases |x' - x|_2^2 + c f6(x'),
    f6 as in CarliniWagner, until x' is at the goal; where that fails, c grows by c_factor. Then the pixels of least
    effect are frozen where they were in x, by the score |sum d| sum |g|, both sums over the channels of a pixel, d
    = x' - x and g the margin's gradient at x': the unchanged ones, and freeze * sqrt(changed pixels) more, at least
    one. The next round goes on from x'. When c is above c_max, the image with the fewest changed pixels is
    returned. Each image has its own c and pixels, and leaves a round when its work is done.

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
    polish       rounds of a last polish, default 2, 0 for none (not in paper or code): linearise the boundary where the
                 best image is and try the fewest entries that reach it, then put entries back by halving

    The procedure is greedy, and which pixels an L2 attack changes need not be the few that would do. So the polish also
    has a first look at the boundaries linearised at x, and the better of both is kept: untargeted, every affine optimum
    is found within one. The code's margin of .01 and its stop at a score above .01 depend on the scale of the logits;
    we have neither.

    Cost: a forward and gradient pass per iteration, and `steps` bounds a round, of which there are about 2 / freeze
    times the square root of the pixels; 1 of each for the first look and classes - 2 gradient passes more.
    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    section VI-B.

    Raises:
        ValueError: another norm; box=None, without which one entry would do.
    """

    norm: Norm = L0
    steps: int = 1000
    step_size: float = 0.01
    c: float = 1e-3
    c_max: float = 2e6
    c_factor: float = 2.0
    freeze: float = 0.3
    encoding: Encoding = "projected"
    abort_early: bool = True
    polish: int = 2

    def __post_init__(self) -> None:
        if self.norm is not L0:
            raise ValueError(f"CarliniWagnerL0 is the L0 attack; got {self.norm}")
        if self.box is None:
            raise ValueError("without a box, one pixel that goes far enough would do: give one, such as (0, 1)")
        if self.steps < 1 or self.step_size <= 0 or not 0 < self.c <= self.c_max or self.c_factor <= 1:
            raise ValueError(
                "CarliniWagnerL0 needs positive steps and step_size, 0 < c <= c_max and c_factor > 1; got "
                f"{self.steps}, {self.step_size}, {self.c}, {self.c_max} and {self.c_factor}"
            )
        if self.freeze <= 0 or self.polish < 0:
            raise ValueError(f"CarliniWagnerL0 needs freeze > 0, polish >= 0; got {self.freeze} and {self.polish}")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found = x.clone()
        look, which, _ = first_look(oracle, x, goal, L0, self.box, 10 if self.polish else 0)
        if len(which) == 0:
            return found
        x, goal, look = x[which], goal[which], look[which]
        best = self._polish(oracle, x, self._greedy(oracle, x, goal, which), goal, which)
        if self.polish:
            there = torch.where(goal.reached(oracle.logits(look, which)))[0]
            other = x.clone()
            other[there] = look[there]
            other = self._polish(oracle, x, other, goal, which)
            few, fewer = L0.size(best - x), L0.size(other - x)
            better = (fewer > 0) & ((few == 0) | (fewer < few))  # 0: nothing was found
            best[better] = other[better]
        found[which] = best
        return found

    def _greedy(self, oracle: Oracle, x: Images, goal: Goal, which: Indices) -> Images:
        best, start, free = x.clone(), x.clone(), torch.ones_like(x, dtype=torch.bool)
        area = self.box_width**2  # of which squared distances are parts
        c = torch.full((len(x),), self.c * area, dtype=x.dtype, device=x.device)
        place = torch.arange(len(x), device=x.device)
        while len(place):
            image, done = self._round(oracle, x[place], start[place], free[place], goal[place], c[place], which[place])
            first = ~(best[place] != x[place]).flatten(1).any(1)  # nothing found yet: go on from here
            start[place[first]] = image[first]
            here, image = place[done], image[done]
            if len(here):
                best[here] = image
                free[here] &= self._worth(oracle, x[here], image, free[here], goal[here], which[here])
                start[here] = torch.where(free[here], image, x[here])
            c[place] = torch.where(done, c[place], self.c_factor * c[place])
            place = place[(c[place] <= self.c_max * area) & free[place].flatten(1).any(1)]
        return best

    def _worth(self, oracle: Oracle, x: Images, image: Images, free: Tensor, goal: Goal, which: Indices) -> Tensor:
        """Which entries stay free: whole pixels, without the unchanged ones and some of least effect."""
        _, _, slope = oracle.gradient(image, lambda logits: Margin()(logits, goal), which)
        channels = x.shape[1] if x.ndim > 2 else 1
        delta, slope = ((each.reshape(len(x), channels, -1)) for each in (image - x, slope))
        score = (delta.sum(1).abs() * slope.abs().sum(1)).masked_fill(~free.reshape(delta.shape).any(1), -1.0)
        changed = (delta != 0).any(1)
        number = (self.freeze * changed.sum(1).to(x.dtype).sqrt()).floor().clamp(min=1)
        order = score.masked_fill(~changed, -1.0).sort(dim=1, stable=True).indices
        rank = torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1], device=x.device).expand_as(order))
        stays = rank >= (~changed).sum(1, keepdim=True) + number[:, None]
        return stays[:, None].expand_as(delta).reshape(x.shape)

    def _polish(self, oracle: Oracle, x: Images, image: Images, goal: Goal, which: Indices) -> Images:
        won = torch.where((image != x).flatten(1).any(1))[0]
        image[won] = polish(oracle, x[won], image[won], goal[won], L0, self.box, self.polish, which[won])
        return image

    def _round(
        self, oracle: Oracle, x: Images, start: Images, free: Tensor, goal: Goal, c: PerImage, which: Indices
    ) -> tuple[Images, Flags]:
        def squared(image: Images, place: Indices) -> tuple[PerImage, Images, Flags]:
            delta = image - x[place]
            total = delta.flatten(1).square().sum(1)
            return total, 2 * delta, torch.ones_like(total, dtype=torch.bool)

        return until_reached(
            oracle,
            start,
            goal,
            c,
            which,
            penalty=squared,
            variable=Variable(self.encoding, self.box),
            steps=self.steps,
            step_size=self.step_size,
            abort_early=self.abort_early,
            free=free,
        )
