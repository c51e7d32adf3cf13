"""Minimal L2 perturbations by optimisation."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from steelman.attacks.core import Attack, Oracle
from steelman.attacks.minimal.carlini_wagner.descent import AdamState, Encoding, Variable, check_encoding
from steelman.attacks.minimal.carlini_wagner.objectives import ON_LOGITS, CWObjective, Name
from steelman.attacks.minimal.deepfool import DeepFool
from steelman.attacks.minimal.nearest import clip, halve
from steelman.attacks.minimal.searching import Remaining, Successes, search_remaining
from steelman.losses import Goal, Margin
from steelman.norms import L2, TINY, Norm, column
from steelman.randomness import Draws
from steelman.ranges import Count, Factor, Natural, OneOf, Positive
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
    judged by the classes for every f. Images that have the wanted margin to begin with, and those without a success,
    are returned unchanged.

    norm          L2, the only one; CarliniWagnerL0 and CarliniWagnerLinf have the others
    steps         most iterations per search step, default 10,000 (paper)
    search_steps  search over c, default 9 (paper); with 10 or more, the last uses the upper bound (code)
    step_size     Adam's learning rate, default .01 (paper and code; CleverHans: .005)
    c             first constant, default 1e-3 (paper; CleverHans: 1e-2), with distances in widths of the box; times 10
                  until the first success
    confidence    margin wanted in logits, default 0; f6 and f7 only
    abort_early   every steps / 10, an image whose objective has not fallen by 1e-4 of itself leaves (default True)
    objective     f1 to f7, default "f6" (paper)
    encoding      how x' stays in the box: "tanh" (default, paper), a change of variable, x' = (1 + tanh v) / 2;
                  "clipped", x' = clip(v), the distance that of x'; "projected", v clipped after every step
    warm_start    untargeted: begin at DeepFool's image and go on from the nearest success (default True; not in paper
                  or code)
    retry_target  untargeted, without `warm_start`: images that ended in another class than DeepFool's are searched
                  again towards that class, and the nearer of both is kept (default True; not in paper or code)
    polish        rounds of polish at the end, default 1, 0 for none (not in paper or code), as in DDN; only without
                  confidence

    Warm, a search step takes for c twice the constant at which its starting point would be stationary, 2 <x' - x, g> /
    |g|_2^2 with g = -grad f, and ten times the last one until the first success. Later search steps have half the
    step size of the one before; an image leaves a search step when a tenth of it has brought its nearest success less
    than 5e-4 nearer, and leaves the search after a search step that has. From the image itself, tanh takes 400 steps to
    move a pixel that is black or white at all, so warm perturbations of LeNet on MNIST are over a quarter shorter after
    5 times 200 steps, for about a quarter of the passes (docs/benchmarks.md).
    Cold, c is bisected as in paper and code. They differ: the code aborts on the batch's sum, which makes an image's
    result depend on its neighbours; we abort image by image. Two departures of ours, without which perturbations of
    affine models are up to twice the optimum where that is small: a constant is large enough only if it succeeds in the
    last tenth of its steps (by the first overshoot alone, the search settles on a constant that is too small), and ten
    bisections between the image and the nearest success take away the last overshoot (warm as well). What is left, up
    to half as much again for f1 and f5, the polish takes.
    As printed, f1 has the wrong sign of the cross-entropy, and f5 the logarithm of a negative number; we correct both.
    The slopes of f2 to f4 are about as small as the probabilities of the wrong classes, so that they need the larger a
    constant the surer the model is: nine search steps from 1e-3 end at 1e5, which is too small for many images. Begin
    at c=10 or more. Neither float32 nor Adam's 1e-8 is in the way.

    Cost: at most steps * search_steps forward and gradient passes, 11 forward passes more, and per round of polish 1
    gradient and up to 7 forward passes. Warm, DeepFool's too and one of each per search step. Cold with `retry_target`,
    DeepFool's too, and the same search again for the images that are searched again.
    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    sections V and VI-A.

    Raises:
        ValueError: box=None with tanh, which maps onto the box; confidence with f1 to f5.
    """

    norm: Annotated[Norm, OneOf((L2,), "CarliniWagnerL0 and CarliniWagnerLinf have the others")] = L2
    steps: Count = 10_000
    search_steps: Count = 9
    step_size: Positive = 0.01
    c: Positive = 1e-3
    confidence: Factor = 0.0
    abort_early: bool = True
    objective: Name = "f6"
    encoding: Encoding = "tanh"
    warm_start: bool = True
    retry_target: bool = True
    polish: Natural = 1

    def __post_init__(self) -> None:
        check_encoding(self.encoding, self.box)
        if self.confidence > 0 and self.objective not in ON_LOGITS:
            raise ValueError(f"confidence is in logits, so it is for f6 and f7 only; got objective={self.objective}")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        search, rounds = partial(self._search, draws), self.polish if self.confidence == 0 else 0
        return search_remaining(self, oracle, x, goal, search, rounds=rounds, reached=self._reached)

    def _search(self, draws: Draws, rest: Remaining) -> Images:
        deepfool = partial(rest.attacked, DeepFool(box=self.box), draws)
        if rest.goal.target is None and self.warm_start:
            return self._warm(replace(rest, start=deepfool()))
        best = self._cold(rest)
        return self._retry(rest, best, deepfool()) if rest.goal.target is None and self.retry_target else best

    def _retry(self, rest: Remaining, best: Images, other: Images) -> Images:
        """Where `other` is of another class than `best`, search towards that, and keep the nearer of both."""
        rival = rest.oracle.logits(other, rest.which).argmax(1)
        moved = (rival != rest.goal.labels) & (rival != rest.oracle.logits(best, rest.which).argmax(1))
        rows = torch.where(moved)[0]
        if len(rows) == 0:
            return best
        towards = Goal(rest.goal.labels[rows], rival[rows])
        image, x = self._cold(replace(rest[rows], goal=towards)), rest.x[rows]
        size, before = L2.size(image - x), L2.size(best[rows] - x)
        nearer = torch.where((size > 0) & ((before == 0) | (size < before)))[0]  # 0: no success
        return best.index_copy(0, rows[nearer], image[nearer])

    def _warm(self, rest: Remaining) -> Images:
        """From the start and then from the nearest success."""
        best = rest.best
        c = torch.full_like(best.size, self.c * self.box_width**2 / 10)
        place = torch.arange(len(c), device=c.device)
        for search_step in range(self.search_steps):
            part = rest[place]
            logits, _, pull = self._slope(part.oracle, part.start, part.goal, part.which)
            delta = part.start - part.x
            owed = 2 * (delta * pull).flatten(1).sum(1) / pull.flatten(1).square().sum(1).clamp(min=TINY)
            known = (owed > 0) & (best.size[place].isfinite() | (search_step == 0))
            c[place] = torch.where(known, 2 * owed, 10 * c[place])
            if search_step == 0:
                best.keep(part.start, delta.flatten(1).square().sum(1), self._reached(part.goal, logits))
            before = best.size[place]
            latest, _ = self._descend(part, part.start, c[place], 0.5**search_step, before)
            nearer = best.take(latest, place)
            rest.start[nearer] = best.x_adv[nearer]
            place = place[(latest.size < (1 - GAIN) * before) | best.size[place].isinf()]
            if len(place) == 0:
                break
        return self._shorten(rest, best.x_adv)

    def _cold(self, rest: Remaining) -> Images:
        """The binary search over c, each step from the images; they come back where there is no success."""
        best = Successes.none(rest.x)
        low, high = torch.zeros_like(best.size), best.size.clone()
        c = torch.full_like(low, self.c * self.box_width**2)
        for search_step in range(self.search_steps):
            if search_step == self.search_steps - 1 >= 9:
                c = torch.where(high.isfinite(), high, c)
            latest, hit = self._descend(rest, rest.x, c)
            best.take(latest)
            low, high = torch.where(hit, low, torch.maximum(low, c)), torch.where(hit, torch.minimum(high, c), high)
            c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)
        return self._shorten(rest, best.x_adv)

    def _reached(self, goal: Goal, logits: Logits) -> Flags:
        return (Margin()(logits, goal) > self.confidence) if self.confidence > 0 else goal.reached(logits)

    def _slope(self, oracle: Oracle, image: Images, goal: Goal, which: Indices) -> tuple[Logits, PerImage, Images]:
        """Logits, the objective before its hinge, and minus its gradient."""
        f = CWObjective(self.objective, self.confidence)
        logits, gain, pull = oracle.gradient(image, lambda logits: -f(logits, goal), which)
        return logits, -gain, pull

    def _descend(
        self, rest: Remaining, start: Images, c: PerImage, slower: float = 1.0, known: PerImage | None = None
    ) -> tuple[Successes, Flags]:
        """One search step: the nearest successes, their squared distances, and whether c is enough.

        `known`, the squared distance of the nearest success so far, is what a warm search step has to improve on.
        """
        variable, hinged = Variable(self.encoding, self.box), CWObjective(self.objective).hinged
        best, x, goal = Successes.none(rest.x), rest.x, rest.goal
        place = torch.arange(len(x), device=x.device)  # of the images that have not left
        w = variable.encode(start)
        adam = AdamState(w, self.step_size * slower * variable.scale)
        last, hit = best.size.clone(), torch.zeros_like(best.size, dtype=torch.bool)
        last_nearest = last.clone()
        tenth = max(self.steps // 10, 1)
        for step in range(self.steps):
            image, chain = variable.decode(w)
            logits, cost, pull = self._slope(rest.oracle, image, goal, rest.which[place])
            delta = image - x
            distance = delta.flatten(1).square().sum(1)
            reached = self._reached(goal, logits)
            best.keep(image, distance, reached, place)
            strength = torch.where(cost > 0, c, 0) if hinged else c
            adam.step(w, (2 * delta - column(strength, x) * pull) * chain)
            variable.settle(w)
            hit[place] |= reached
            if step % tenth:
                continue
            value = distance + c * (cost.clamp(min=0) if hinged else cost)
            stalled = value > last - 1e-4 * last.abs()
            if known is not None:
                so_far = torch.minimum(best.size, known)[place]
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
        return best, hit

    def _shorten(self, rest: Remaining, best: Images) -> Images:
        """The nearest success between `x` and `best`; a hair beyond it, since rounding differs with the batch."""
        x = rest.x

        def reached(share: Tensor) -> Flags:
            return self._reached(rest.goal, rest.oracle.logits(x + share * (best - x), rest.which))

        return clip(x + halve(reached, x, 10) * (1 + 1e-5) * (best - x), self.box)
