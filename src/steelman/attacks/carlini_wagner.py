"""Minimal L2 perturbations by optimisation."""

from dataclasses import dataclass
from functools import partial

import torch

from steelman.attacks.attack import Attack
from steelman.attacks.deepfool import DeepFool
from steelman.attacks.oracle import Oracle
from steelman.losses import Goal, Margin
from steelman.norms import L2, Norm
from steelman.randomness import Draws
from steelman.types import Flags, Images, Indices, Logits, PerImage


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """Carlini and Wagner's L2 attack.

    Minimise |x' - x|_2^2 + c max(0, Z_y - max_{k != y} Z_k + confidence) over w, where x' = (tanh w + 1) / 2 stays in
    the box by itself (objective f6); Adam on w, a binary search over c per image, the nearest success kept. Images that
    have the wanted margin to begin with are returned as they are, and so are images for which nothing was found
    (`success` tells the two apart).

    norm          L2, the only one so far
    steps         most iterations per search step, default 10,000 (paper)
    search_steps  binary search over c, default 9 (paper); with 10 or more, the last uses the upper bound (code)
    step_size     Adam's learning rate, default .01 (paper and code; CleverHans: .005)
    c             first constant, default 1e-3 (paper; CleverHans: 1e-2); times 10 while nothing is found
    confidence    margin wanted in logits, default 0
    abort_early   every steps / 10, an image whose objective has not fallen by 1e-4 of itself leaves (default True)
    second_look   untargeted: f6 follows the highest rival, which need not be the nearest; images that ended in another
                  class than DeepFool does are searched again towards DeepFool's, and the nearer of both is kept
                  (default True; not in paper or code)

    Paper and code differ: the code aborts on the batch's sum, which makes an image's answer depend on its neighbours;
    we abort image by image. Two departures of ours, without which perturbations of affine models are up to twice the
    optimum where that is small: a constant is large enough only if it succeeds in the last tenth of its steps (by the
    first overshoot alone, the search settles on a constant that is too small), and ten bisections between the image and
    what was found take away the last overshoot.

    Cost: at most steps * search_steps forward and gradient passes, and 11 forward passes more; the second look costs
    DeepFool's passes, and the same again for the images that are searched again.
    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    section VI-A.

    Raises:
        ValueError: box=None, since the change of variable is onto the box.
    """

    norm: Norm = L2
    steps: int = 10_000
    search_steps: int = 9
    step_size: float = 0.01
    c: float = 1e-3
    confidence: float = 0.0
    abort_early: bool = True
    second_look: bool = True

    def __post_init__(self) -> None:
        if self.norm is not L2:
            raise ValueError(f"CarliniWagner is the L2 attack; {self.norm} is not there")
        if self.box is None:
            raise ValueError("CarliniWagner maps w onto the box by tanh: give it one, such as (0, 1)")
        if self.steps < 1 or self.search_steps < 1 or self.c <= 0 or self.step_size <= 0:
            raise ValueError(f"CarliniWagner needs positive steps, search_steps, c and step_size; got {self}")
        if self.confidence < 0:
            raise ValueError(f"CarliniWagner needs confidence >= 0; got {self.confidence}")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found = x.clone()
        which = torch.where(~self._reached(oracle.logits(x), goal))[0]
        if len(which) == 0:
            return found
        found[which] = self._bisect(oracle, x[which], goal[which], which)
        if self.second_look and goal.target is None:
            self._look_again(oracle, x, found, goal, draws, which)
        return found

    def _look_again(self, oracle: Oracle, x: Images, found: Images, goal: Goal, draws: Draws, which: Indices) -> None:
        """Where DeepFool ends in another class, search towards that, and put the nearer of both into `found`."""
        near = DeepFool(box=self.box).search(oracle, x, goal, draws)[which]
        rival = oracle.logits(near, which).argmax(1)
        other = (rival != goal.labels[which]) & (rival != oracle.logits(found[which], which).argmax(1))
        which, towards = which[other], Goal(goal.labels[which][other], rival[other])
        if len(which) == 0:
            return
        image = self._bisect(oracle, x[which], towards, which)
        size = L2.size(found[which] - x[which])
        nearer = (size == 0) | (L2.size(image - x[which]) < size)  # size 0: nothing had been found
        better = nearer & self._reached(oracle.logits(image, which), towards)
        found[which[better]] = image[better]

    def _bisect(self, oracle: Oracle, x: Images, goal: Goal, which: Indices) -> Images:
        """The binary search over c; images for which nothing is found come back as they are."""
        best = x.clone()
        nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        low, high, c = torch.zeros_like(nearest), nearest.clone(), torch.full_like(nearest, self.c)
        for search_step in range(self.search_steps):
            if search_step == self.search_steps - 1 >= 9:
                c = torch.where(high.isfinite(), high, c)
            image, distance, hit = self._descend(oracle, x, goal, c, which)
            closer = distance < nearest
            best[closer], nearest[closer] = image[closer], distance[closer]
            low, high = torch.where(hit, low, torch.maximum(low, c)), torch.where(hit, torch.minimum(high, c), high)
            c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)
        return self._shorten(oracle, x, best, goal, which)

    def _reached(self, logits: Logits, goal: Goal) -> Flags:
        value = Margin()(logits, goal)
        return (value > self.confidence) if self.confidence > 0 else goal.reached(logits)

    def _descend(
        self, oracle: Oracle, x: Images, goal: Goal, c: PerImage, which: Indices
    ) -> tuple[Images, PerImage, Flags]:
        """One search step: the nearest successes, their squared distances (infinite if none), whether c is enough."""
        assert self.box is not None
        centre, reach = (self.box[1] + self.box[0]) / 2, (self.box[1] - self.box[0]) / 2
        f6 = Margin(self.confidence)
        best, nearest = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        place = torch.arange(len(x), device=x.device)  # of the images that have not left
        w = torch.atanh((x - centre) / reach * 0.999999)
        momentum, spread = torch.zeros_like(w), torch.zeros_like(w)
        last, hit = nearest.clone(), torch.zeros_like(nearest, dtype=torch.bool)
        tenth = max(self.steps // 10, 1)
        for step in range(self.steps):
            unit = torch.tanh(w)
            image = (centre + reach * unit).clamp_(*self.box)
            logits, gain, pull = oracle.gradient(image, partial(f6, goal=goal), which[place])
            delta = image - x
            distance = delta.flatten(1).square().sum(1)
            reached = self._reached(logits, goal)
            better = torch.where(reached & (distance < nearest[place]))[0]
            best[place[better]], nearest[place[better]] = image[better], distance[better]
            gradient = (2 * delta - c.reshape(-1, *[1] * (x.ndim - 1)) * pull) * (reach * (1 - unit * unit))
            momentum.lerp_(gradient, 0.1)
            spread.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            rate = self.step_size / (1 - 0.9 ** (step + 1))
            w.addcdiv_(momentum, (spread / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8), value=-rate)
            hit[place] |= reached
            if step % tenth:
                continue
            value = distance - c * gain
            going = torch.where(~(value > 0.9999 * last) | (not self.abort_early))[0]
            if step + tenth <= self.steps:
                hit[place[going]] = reached[going]
            place, x, w, goal, c = place[going], x[going], w[going], goal[going], c[going]
            momentum, spread, last = momentum[going], spread[going], value[going]
            if len(place) == 0:
                break
        return best, nearest, hit

    def _shorten(self, oracle: Oracle, x: Images, best: Images, goal: Goal, which: Indices) -> Images:
        """The nearest success between `x` and `best`; a hair beyond it, since rounding differs with the batch."""
        assert self.box is not None
        shape = (-1, *[1] * (x.ndim - 1))
        short, enough = x.new_zeros(len(x)), x.new_ones(len(x))
        for _ in range(10):
            middle = (short + enough) / 2
            reached = self._reached(oracle.logits(x + middle.reshape(shape) * (best - x), which), goal)
            short, enough = torch.where(reached, short, middle), torch.where(reached, middle, enough)
        return (x + (enough * (1 + 1e-5)).reshape(shape) * (best - x)).clamp(*self.box)
