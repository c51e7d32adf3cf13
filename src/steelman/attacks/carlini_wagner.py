"""Minimal L2 perturbations by optimisation."""

from dataclasses import dataclass

import torch

from steelman.attacks.attack import Attack
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

    Paper and code differ: the code aborts on the batch's sum, which makes an image's answer depend on its neighbours;
    we abort image by image.

    Cost: at most steps * search_steps forward and gradient passes, and one forward pass more.
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

    def __post_init__(self) -> None:
        if self.norm is not L2:
            raise ValueError(f"CarliniWagner is the L2 attack; {self.norm} is not there")
        if self.box is None:
            raise ValueError("CarliniWagner maps w onto the box by tanh: give it one, such as (0, 1)")
        if self.steps < 1 or self.search_steps < 1 or self.c <= 0 or self.step_size <= 0 or self.confidence < 0:
            raise ValueError(
                f"CarliniWagner needs positive steps, search_steps, c and step_size, confidence >= 0; got {self}"
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found = x.clone()
        nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        low, high = torch.zeros_like(nearest), torch.full_like(nearest, 1e10)
        c = torch.full_like(nearest, self.c)
        which = torch.where(~self._reached(oracle.logits(x), goal))[0]
        for round_ in range(self.search_steps):
            if len(which) == 0:
                break
            if self.search_steps >= 10 and round_ == self.search_steps - 1:
                c = torch.where(high < 1e9, high, c)
            best, distance = self._descend(oracle, x[which], goal[which], c[which], which)
            hit = distance < torch.inf
            closer = distance < nearest[which]
            found[which[closer]], nearest[which[closer]] = best[closer], distance[closer]
            high[which] = torch.where(hit, torch.minimum(high[which], c[which]), high[which])
            low[which] = torch.where(hit, low[which], torch.maximum(low[which], c[which]))
            middle = (low[which] + high[which]) / 2
            c[which] = torch.where(high[which] < 1e9, middle, torch.where(hit, middle, c[which] * 10))
        return self._settle(oracle, x, found, goal, which)

    def _reached(self, logits: Logits, goal: Goal) -> Flags:
        value = Margin()(logits, goal)
        return (value > self.confidence) if self.confidence > 0 else goal.reached(logits)

    def _descend(self, oracle: Oracle, x: Images, goal: Goal, c: PerImage, which: Indices) -> tuple[Images, PerImage]:
        """One search step: the nearest success of each image and its squared distance, infinite if there is none."""
        assert self.box is not None
        centre, reach = (self.box[1] + self.box[0]) / 2, (self.box[1] - self.box[0]) / 2
        f6 = Margin(self.confidence)
        best, nearest = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        place = torch.arange(len(x), device=x.device)
        w = torch.atanh((x - centre) / reach * 0.999999)
        moment, spread = torch.zeros_like(w), torch.zeros_like(w)
        last = torch.full_like(nearest, torch.inf)
        check = max(self.steps // 10, 1)
        for step in range(self.steps):
            unit = torch.tanh(w)
            image = centre + reach * unit
            delta = image - x
            # Bound now: the images of this step, not of the next.
            hinge = lambda logits, goal=goal, c=c: c * f6(logits, goal)  # noqa: E731
            logits, gain, pull = oracle.gradient(image, hinge, which[place])
            distance = delta.flatten(1).square().sum(1)
            better = self._reached(logits, goal) & (distance < nearest[place])
            if bool(better.any()):
                best[place[better]], nearest[place[better]] = image[better], distance[better]
            if self.abort_early and step % check == 0:
                value = distance - gain
                stalled = value > 0.9999 * last
                if bool(stalled.any()):
                    stay = torch.where(~stalled)[0]
                    if len(stay) == 0:
                        break
                    place, x, w, goal, c = place[stay], x[stay], w[stay], goal[stay], c[stay]
                    moment, spread, unit, delta, pull = moment[stay], spread[stay], unit[stay], delta[stay], pull[stay]
                    value = value[stay]
                last = value
            gradient = (2 * delta - pull) * (reach * (1 - unit * unit))
            moment.lerp_(gradient, 0.1)
            spread.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            rate = self.step_size / (1 - 0.9 ** (step + 1))
            w = w.addcdiv(moment, (spread / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8), value=-rate)
        return best, nearest

    def _settle(self, oracle: Oracle, x: Images, found: Images, goal: Goal, which: Indices) -> Images:
        """Push the few images that lie on the boundary to within rounding a hair further out."""
        for stretch in (1.0, 1e-5, 1e-4, 1e-3):
            if len(which) == 0:
                break
            moved = (found[which] != x[which]).flatten(1).any(1)
            which = which[moved]
            if stretch < 1:
                longer = x[which] + (1 + stretch) * (found[which] - x[which])
                found[which] = longer.clamp(*self.box) if self.box is not None else longer
            which = which[~self._reached(oracle.logits(found[which], which), goal[which])] if len(which) else which
        return found
