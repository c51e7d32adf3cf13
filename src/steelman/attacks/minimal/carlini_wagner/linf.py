"""Minimal Linf perturbations by a ball that shrinks."""

from dataclasses import dataclass

import torch

from steelman.attacks.core.attack import Attack
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.minimal.carlini_wagner.descent import Encoding, Variable, until_reached
from steelman.attacks.minimal.deepfool import DeepFool
from steelman.attacks.minimal.nearest import polish
from steelman.losses import Goal
from steelman.norms import Linf, Norm, column
from steelman.randomness import Draws
from steelman.types import Flags, Images, Indices, PerImage


@dataclass(frozen=True)
class CarliniWagnerLinf(Attack):
    """Carlini and Wagner's Linf attack.

    Adam decreases sum_i max(|x'_i - x_i| - t, 0) + c f6(x'), f6 as in CarliniWagner, until x' is at the goal and
    the sum below 1e-4 c. Then t becomes shrink * min(t, |x' - x|_inf), and the next round goes on from x'. A round
    that fails is done again with c times c_factor; when c is above c_max or t below 1/256 of the box, the image is
    done. Each image has its own t and c, and leaves a round when its work is done.

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
    warm_start   untargeted: begin at DeepFool's Linf answer, with t at shrink times its size (default True; not in
                 paper or code, which begin at the image with t = 1)
    polish       rounds of a last polish, default 2, 0 for none (not in paper or code): linearise the boundary where the
                 best image is and try its nearest point, then halve the way back

    The paper's slide minimises |x' - x|_inf itself, of which one entry at a time has a gradient; the sum is what the
    paper settles on and the code has. t falls by tenths and rounds give up, so that most affine optima are missed by a
    tenth and some by a factor of two; the polish takes that away: every one within 1.02.

    Cost: a forward and gradient pass per iteration, and `steps` bounds a round, of which there are at most 53 +
    log(c_max / c) / log(c_factor); DeepFool's and the polish's besides.
    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    section VI-C.

    Raises:
        ValueError: another norm; box=None with tanh, which maps onto the box.
    """

    norm: Norm = Linf
    steps: int = 1000
    step_size: float = 0.005
    c: float = 1e-5
    c_max: float = 20.0
    c_factor: float = 2.0
    shrink: float = 0.9
    encoding: Encoding = "projected"
    abort_early: bool = True
    warm_start: bool = True
    polish: int = 2

    def __post_init__(self) -> None:
        if self.norm is not Linf:
            raise ValueError(f"CarliniWagnerLinf is the Linf attack; got {self.norm}")
        if self.box is None and self.encoding == "tanh":
            raise ValueError('tanh maps onto the box: give one, such as (0, 1), or encoding="projected"')
        if self.steps < 1 or self.step_size <= 0 or not 0 < self.c <= self.c_max or self.c_factor <= 1:
            raise ValueError(
                "CarliniWagnerLinf needs positive steps and step_size, 0 < c <= c_max and c_factor > 1; got "
                f"{self.steps}, {self.step_size}, {self.c}, {self.c_max} and {self.c_factor}"
            )
        if not 0 < self.shrink < 1 or self.polish < 0:
            raise ValueError(
                f"CarliniWagnerLinf needs shrink between 0 and 1, polish >= 0; got {self.shrink} and {self.polish}"
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found = x.clone()
        which = torch.where(~goal.reached(oracle.logits(x)))[0]
        if len(which) == 0:
            return found
        x, goal = x[which], goal[which]
        start = x
        width = self.box_width
        best, size = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        tau = torch.full_like(size, width)
        if self.warm_start and goal.target is None:
            with oracle.part(which, goal) as part:
                start = DeepFool(norm=Linf, box=self.box).search(part, x, goal, draws[which])
            there = goal.reached(oracle.logits(start, which))
            best[there], size[there] = start[there], Linf.size(start - x)[there]
            tau = torch.where(there, self.shrink * size, tau)
        start = start.clone()
        c = torch.full_like(size, self.c * width)
        place = torch.arange(len(x), device=x.device)
        while len(place):
            image, done = self._round(oracle, x[place], start[place], tau[place], goal[place], c[place], which[place])
            reach = Linf.size(image - x[place])
            closer = torch.where(done & (reach < size[place]))[0]
            best[place[closer]], size[place[closer]] = image[closer], reach[closer]
            on = done | size[place].isinf()
            start[place[on]] = image[on]
            tau[place] = torch.where(done, self.shrink * torch.minimum(tau[place], reach), tau[place])
            c[place] = torch.where(done, c[place], self.c_factor * c[place])
            place = place[(c[place] <= self.c_max * width) & (tau[place] >= width / 256)]
        won = torch.where(size.isfinite())[0]
        best[won] = polish(oracle, x[won], best[won], goal[won], Linf, self.box, self.polish, which[won])
        found[which] = best
        return found

    def _round(
        self, oracle: Oracle, x: Images, start: Images, tau: PerImage, goal: Goal, c: PerImage, which: Indices
    ) -> tuple[Images, Flags]:
        def excess(image: Images, place: Indices) -> tuple[PerImage, Images, Flags]:
            delta = image - x[place]
            over = delta.abs() - column(tau[place], x)
            total = over.clamp(min=0).flatten(1).sum(1)
            return total, delta.sign() * (over > 0), total < 1e-4 * c[place]

        bound = column(tau, x)
        return until_reached(
            oracle,
            x + (start - x).clamp(-bound, bound),
            goal,
            c,
            which,
            penalty=excess,
            variable=Variable(self.encoding, self.box),
            steps=self.steps,
            step_size=self.step_size,
            abort_early=self.abort_early,
        )
