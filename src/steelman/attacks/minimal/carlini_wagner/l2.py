"""Minimal L2 perturbations by optimisation."""

from dataclasses import dataclass

import torch

from steelman.attacks.core.attack import Attack
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.minimal.carlini_wagner.descent import AdamState, Encoding, Variable
from steelman.attacks.minimal.carlini_wagner.objectives import ON_LOGITS, CWObjective, Name
from steelman.attacks.minimal.deepfool import DeepFool
from steelman.attacks.minimal.nearest import polish
from steelman.losses import Goal, Margin
from steelman.norms import L2, TINY, Norm, column
from steelman.randomness import Draws
from steelman.types import Flags, Images, Indices, Logits, PerImage

GAIN = 1e-3
"""A warm search goes on while squared distances fall by this share."""


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """Carlini and Wagner's L2 attack.

    Minimise |x' - x|_2^2 + c f(x') by Adam, with a search over c per image; the nearest success is kept. Let w be the
    target and o the highest other class, or without a target w the highest wrong class and o the label; F = softmax(Z).
    f1 = -log F_w - 1; f2 = max(F_o - F_w, 0); f3 = softplus(F_o - F_w) - log 2; f4 = max(1/2 - F_w, 0);
    f5 = -log(2 F_w); f6 = max(Z_o - Z_w + confidence, 0); f7 = softplus(Z_o - Z_w + confidence) - log 2. Success is
    told by the classes, whatever f is. Images that have the wanted margin to begin with are returned as they are, and
    so are images for which nothing was found (`success` tells the two apart).

    norm          L2, the only one; CarliniWagnerL0 and CarliniWagnerLinf have the others
    steps         most iterations per search step, default 10,000 (paper)
    search_steps  search over c, default 9 (paper); with 10 or more, the last uses the upper bound (code)
    step_size     Adam's learning rate, default .01 (paper and code; CleverHans: .005)
    c             first constant, default 1e-3 (paper; CleverHans: 1e-2), with distances in widths of
                  the box; times 10 while nothing is found
    confidence    margin wanted in logits, default 0; f6 and f7 only
    abort_early   every steps / 10, an image whose objective has not fallen by 1e-4 of itself leaves (default True)
    objective     f1 to f7, default "f6" (paper)
    encoding      how x' stays in the box: "tanh" (default, paper), a change of variable, x' = (1 + tanh v) / 2;
                  "clipped", x' = clip(v), the distance that of x'; "projected", v clipped after every step
    warm_start    untargeted: begin at DeepFool's answer and go on from the nearest success (default True; not in paper
                  or code). Towards a target, DeepFool's answer is no good start
    retry_target   untargeted, without `warm_start`: images that ended in another class than DeepFool does are searched
                  again towards DeepFool's, and the nearer of both is kept (default True; not in paper or code)
    polish        rounds of a last polish, default 1, 0 for none (not in paper or code); only without confidence:
                  linearise the boundary where the best image is and try its nearest point, then halve the way back

    Warm, a search step takes for c twice the constant at which its starting point would be stationary, 2 <x' - x, g> /
    |g|_2^2 with g = -grad f, and ten times the last one while nothing has been found. Later search steps have half the
    step size of the one before; an image leaves a search step when a tenth of it has brought its nearest success less
    than 5e-4 nearer, and leaves the search after a search step that has. From the image itself, tanh takes 400 steps to
    move a pixel that is black or white at all, so warm perturbations of LeNet on MNIST are over a quarter shorter after
    5 times 200 steps, for about a quarter of the passes (docs/benchmarks.md).
    Cold, c is bisected as in paper and code. They differ: the code aborts on the batch's sum, which makes an image's
    answer depend on its neighbours; we abort image by image. Two departures of ours, without which perturbations of
    affine models are up to twice the optimum where that is small: a constant is large enough only if it succeeds in the
    last tenth of its steps (by the first overshoot alone, the search settles on a constant that is too small), and ten
    bisections between the image and what was found take away the last overshoot (warm as well). What is left, up to
    half as much again for f1 and f5, the polish takes.
    As printed, f1 has the wrong sign of the cross-entropy, and f5 the logarithm of a negative number: both are righted.

    Cost: at most steps * search_steps forward and gradient passes, 11 forward passes more, and per round of polish 1
    gradient and up to 7 forward passes; warm, DeepFool's too and
    one of each per search step. The second look costs DeepFool's passes, and the same again for the images that are
    searched again.
    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    sections V and VI-A.

    Raises:
        ValueError: another norm; box=None with tanh, which maps onto the box; confidence with f1 to f5.
    """

    norm: Norm = L2
    steps: int = 10_000
    search_steps: int = 9
    step_size: float = 0.01
    c: float = 1e-3
    confidence: float = 0.0
    abort_early: bool = True
    objective: Name = "f6"
    encoding: Encoding = "tanh"
    warm_start: bool = True
    retry_target: bool = True
    polish: int = 1

    @property
    def _first(self) -> float:
        """The first constant, for squared distances in units of the images."""
        return self.c * self.box_width**2

    def __post_init__(self) -> None:
        if self.norm is not L2:
            raise ValueError(
                f"CarliniWagner is the L2 attack; for {self.norm}, see CarliniWagnerL0 and CarliniWagnerLinf"
            )
        if self.box is None and self.encoding == "tanh":
            raise ValueError('tanh maps onto the box: give one, such as (0, 1), or encoding="projected"')
        if self.steps < 1 or self.search_steps < 1 or self.c <= 0 or self.step_size <= 0 or self.polish < 0:
            raise ValueError(
                f"CarliniWagner needs positive steps, search_steps, c and step_size, and polish >= 0; got {self}"
            )
        if self.confidence < 0 or (self.confidence > 0 and self.objective not in ON_LOGITS):
            raise ValueError(
                f"CarliniWagner needs confidence >= 0, which is in logits and so for f6 and f7 only; "
                f"got {self.confidence} with {self.objective}"
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found = x.clone()
        which = torch.where(~self._reached(oracle.logits(x), goal))[0]
        if len(which) == 0:
            return found
        x, goal, draws = x[which], goal[which], draws[which]
        if goal.target is None and self.warm_start:
            best = self._warm(oracle, x, goal, draws, which)
        else:
            best = self._cold(oracle, x, goal, which)
            if goal.target is None and self.retry_target:
                best = self._look_again(oracle, x, best, goal, draws, which)
        won = torch.where((best != x).flatten(1).any(1))[0]
        if self.confidence == 0 and len(won):
            best[won] = polish(oracle, x[won], best[won], goal[won], L2, self.box, self.polish, which[won])
        found[which] = best
        return found

    def _deepfool(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws, which: Indices) -> Images:
        with oracle.part(which, goal) as part:
            return DeepFool(box=self.box).search(part, x, goal, draws)

    def _look_again(self, oracle: Oracle, x: Images, best: Images, goal: Goal, draws: Draws, which: Indices) -> Images:
        """Where DeepFool ends in another class, search towards that, and keep the nearer of both."""
        rival = oracle.logits(self._deepfool(oracle, x, goal, draws, which), which).argmax(1)
        other = torch.where((rival != goal.labels) & (rival != oracle.logits(best, which).argmax(1)))[0]
        if len(other) == 0:
            return best
        towards = Goal(goal.labels[other], rival[other])
        image = self._cold(oracle, x[other], towards, which[other])
        size, before = L2.size(image - x[other]), L2.size(best[other] - x[other])
        # Of size 0: nothing was found.
        better = torch.where((size > 0) & ((before == 0) | (size < before)))[0]
        return best.index_copy(0, other[better], image[better])

    def _warm(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws, which: Indices) -> Images:
        """From DeepFool's answer and then from the nearest success."""
        start = self._deepfool(oracle, x, goal, draws, which)
        best, nearest = x.clone(), self._far(x)
        c = torch.full_like(nearest, self._first / 10)
        place = torch.arange(len(x), device=x.device)
        for search_step in range(self.search_steps):
            logits, _, pull = self._slope(oracle, start[place], goal[place], which[place])
            delta = start[place] - x[place]
            owed = 2 * (delta * pull).flatten(1).sum(1) / pull.flatten(1).square().sum(1).clamp(min=TINY)
            known = (owed > 0) & (nearest[place].isfinite() | (search_step == 0))
            c[place] = torch.where(known, 2 * owed, 10 * c[place])
            if search_step == 0:
                there = torch.where(self._reached(logits, goal))[0]
                best[there], nearest[there] = start[there], delta[there].flatten(1).square().sum(1)
            image, distance, _ = self._descend(
                oracle, x[place], start[place], goal[place], c[place], which[place], 0.5**search_step, nearest[place]
            )
            closer, before = torch.where(distance < nearest[place])[0], nearest[place]
            best[place[closer]], nearest[place[closer]] = image[closer], distance[closer]
            start[place[closer]] = image[closer]
            going = torch.where((distance < (1 - GAIN) * before) | nearest[place].isinf())[0]
            place = place[going]
            if len(place) == 0:
                break
        return self._shorten(oracle, x, best, goal, which)

    def _cold(self, oracle: Oracle, x: Images, goal: Goal, which: Indices) -> Images:
        """The binary search over c, each from the image; images for which nothing is found come back as they are."""
        best, nearest = x.clone(), self._far(x)
        low, high, c = torch.zeros_like(nearest), nearest.clone(), torch.full_like(nearest, self._first)
        for search_step in range(self.search_steps):
            if search_step == self.search_steps - 1 >= 9:
                c = torch.where(high.isfinite(), high, c)
            image, distance, hit = self._descend(oracle, x, x, goal, c, which)
            closer = distance < nearest
            best[closer], nearest[closer] = image[closer], distance[closer]
            low, high = torch.where(hit, low, torch.maximum(low, c)), torch.where(hit, torch.minimum(high, c), high)
            c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)
        return self._shorten(oracle, x, best, goal, which)

    @staticmethod
    def _far(x: Images) -> PerImage:
        return torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)

    def _reached(self, logits: Logits, goal: Goal) -> Flags:
        return (Margin()(logits, goal) > self.confidence) if self.confidence > 0 else goal.reached(logits)

    def _slope(self, oracle: Oracle, image: Images, goal: Goal, which: Indices) -> tuple[Logits, PerImage, Images]:
        """Logits, the objective before its hinge, and minus its gradient."""
        f = CWObjective(self.objective, self.confidence)
        logits, gain, pull = oracle.gradient(image, lambda logits: -f(logits, goal), which)
        return logits, -gain, pull

    def _descend(
        self,
        oracle: Oracle,
        x: Images,
        start: Images,
        goal: Goal,
        c: PerImage,
        which: Indices,
        slower: float = 1.0,
        known: PerImage | None = None,
    ) -> tuple[Images, PerImage, Flags]:
        """One search step: the nearest successes, their squared distances (infinite if none), whether c is enough.

        `known`, the squared distance of the nearest success so far, is what a warm search step has to improve on.
        """
        variable, hinged = Variable(self.encoding, self.box), CWObjective(self.objective).hinged
        best, nearest = x.clone(), self._far(x)
        place = torch.arange(len(x), device=x.device)  # of the images that have not left
        w = variable.encode(start)
        adam = AdamState(w, self.step_size * slower * variable.scale)
        last, hit = nearest.clone(), torch.zeros_like(nearest, dtype=torch.bool)
        last_nearest = last.clone()
        tenth = max(self.steps // 10, 1)
        for step in range(self.steps):
            image, chain = variable.decode(w)
            logits, cost, pull = self._slope(oracle, image, goal, which[place])
            delta = image - x
            distance = delta.flatten(1).square().sum(1)
            reached = self._reached(logits, goal)
            better = torch.where(reached & (distance < nearest[place]))[0]
            best[place[better]], nearest[place[better]] = image[better], distance[better]
            strength = torch.where(cost > 0, c, 0) if hinged else c
            adam.step(w, (2 * delta - column(strength, x) * pull) * chain)
            variable.settle(w)
            hit[place] |= reached
            if step % tenth:
                continue
            value = distance + c * (cost.clamp(min=0) if hinged else cost)
            stalled = value > last - 1e-4 * last.abs()
            if known is not None:
                so_far = torch.minimum(nearest, known)[place]
                stalled = torch.where(so_far.isfinite(), so_far > (1 - GAIN) * last_nearest, stalled)
                last_nearest = so_far
            going = torch.where(~stalled | (not self.abort_early))[0]
            if step + tenth <= self.steps:
                hit[place[going]] = reached[going]
            place, x, w, goal, c = place[going], x[going], w[going], goal[going], c[going]
            last, last_nearest = value[going], last_nearest[going]
            adam.keep(going)
            if len(place) == 0:
                break
        return best, nearest, hit

    def _shorten(self, oracle: Oracle, x: Images, best: Images, goal: Goal, which: Indices) -> Images:
        """The nearest success between `x` and `best`; a hair beyond it, since rounding differs with the batch."""
        short, enough = x.new_zeros(len(x)), x.new_ones(len(x))
        for _ in range(10):
            middle = (short + enough) / 2
            reached = self._reached(oracle.logits(x + column(middle, x) * (best - x), which), goal)
            short, enough = torch.where(reached, short, middle), torch.where(reached, middle, enough)
        image = x + column(enough * (1 + 1e-5), x) * (best - x)
        return image if self.box is None else image.clamp(*self.box)
