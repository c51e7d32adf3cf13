"""Minimal perturbations by repeated linearisation."""

from dataclasses import dataclass
from typing import Annotated

import torch

from steelman.attacks.core.attack import Attack
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.minimal.linearised import Boundaries, exponent, rivals
from steelman.losses import Goal
from steelman.norms import L2, Norm
from steelman.randomness import Draws
from steelman.ranges import INFINITE
from steelman.types import Images

BOXED = 1.5
"""Below this p, steps stay in the box: few entries carry them, and these would run into it and stay there."""


@dataclass(frozen=True)
class DeepFool(Attack):
    """DeepFool: step to the nearest linearised decision boundary until the label has changed.

    At x + r, with f_k = Z_k - Z_y, w_k = grad f_k and 1/p + 1/q = 1: l = argmin_k |f_k| / |w_k|_q, and r grows by the
    shortest step onto that boundary, |f_l| |w_l|^(q-1) sign(w_l) / |w_l|_q^q: that is |f_l| w_l / |w_l|_2^2 for L2,
    |f_l| sign(w_l) / |w_l|_1 for Linf, and the steepest entry alone for L1. An image is done when x + (1 + overshoot)
    r is misclassified, and that is returned. Images that are misclassified to begin with are returned as they are;
    images not done after `steps` come back with what they have, and `success` False.

    norm       L2 (default), Linf or L1: p is 2, infinite or 1
    p          any other exponent above 1 (default None: the norm's own); others compare and report by `norm` then
    steps      most linearisations, default 50 (the authors' Python; their Matlab has 100)
    overshoot  default .02 (authors' code)
    classes    how many of the highest logits at x compete, the label among them; default 10 (authors' code)
    slack      from the second step on, a class is looked at only if its boundary seems, by the slope last seen, nearer
               than `slack` times the nearest found; default 1.5. Infinity looks at all, as paper and code do

    With a target, the only boundary is that between the target and the highest other class of the moment.
    Paper and code differ: the paper linearises at x + r, as we do, the authors' Python at x + (1 + overshoot) r. They
    leave the box; we clip x + r after every step, as ART and CleverHans do, so that an image at the box takes more,
    smaller steps. `box=None` gives their unbounded form. Leaving entries that cannot move out of |w_k|_q would halve
    the steps, but made perturbations of LeNet on MNIST 8 % longer. Below p = 1.5 it is done: there, few entries carry a
    step, and would run into the box and stay; in L1, the steepest go as far as the box lets them, one after the other.

    Cost: 1 forward pass, and per step 2 more and, at first, classes - 1 gradient passes, then mostly 1, and at most 1
    forward pass more for each further one. Gradients are taken one class at a time, so that memory does not grow with
    the classes: beside the model's graph, some 15 copies of the batch.
    Reference: Seyed-Mohsen Moosavi-Dezfooli, Alhussein Fawzi and Pascal Frossard, "DeepFool: a simple and accurate
    method to fool deep neural networks", CVPR 2016, algorithm 2.
    """

    norm: Norm = L2
    p: Annotated[float | None, INFINITE] = None
    steps: int = 50
    overshoot: float = 0.02
    classes: int = 10
    slack: float = 1.5

    def __post_init__(self) -> None:
        exponent(self.norm)
        if self.p is not None and not self.p > 1:
            raise ValueError(f"DeepFool steps in L_p with p > 1, or in L1 by norm=L1; got p={self.p}")
        if self.steps < 1 or self.classes < 2 or not self.overshoot >= 0 or not self.slack >= 1:
            raise ValueError(
                "DeepFool needs steps >= 1, classes >= 2, overshoot >= 0 and slack >= 1; "
                f"got {self.steps}, {self.classes}, {self.overshoot} and {self.slack}"
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found, logits = x.clone(), oracle.logits(x)
        which = torch.where(~goal.reached(logits))[0]
        clean, goal, p = x[which], goal[which], exponent(self.norm) if self.p is None else self.p
        others = rivals(logits[which], goal, self.classes)
        box = self.box if p < BOXED else None
        boundaries = Boundaries.around(others, x, p, box, self.slack, outwards=True)
        raw = clean
        for _ in range(self.steps):
            if len(which) == 0:
                break
            _, _, step = boundaries.nearest(oracle, raw, goal, which)
            total = raw + step - clean
            raw = self._clip(clean + total)
            shot = self._clip(clean + (1 + self.overshoot) * total)
            found[which] = shot
            going = torch.where(~goal.reached(oracle.logits(shot, which)))[0]
            if len(going) < len(which):
                which, goal, boundaries = which[going], goal[going], boundaries[going]
                clean, raw = clean[going], raw[going]
        return found

    def _clip(self, x: Images) -> Images:
        return x if self.box is None else x.clamp(*self.box)
