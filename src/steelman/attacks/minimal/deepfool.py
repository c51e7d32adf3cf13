"""Minimal perturbations by repeated linearisation."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt

from steelman.attacks.core import Attack, Oracle
from steelman.attacks.minimal.linearised import EXPONENT, Boundaries, rivals
from steelman.attacks.minimal.nearest import clip
from steelman.losses import Goal
from steelman.norms import L1, L2, Linf, Norm
from steelman.randomness import Draws
from steelman.ranges import INFINITE, Count, Factor, OneOf
from steelman.types import Images

BOXED = 1.5
"""Below this p, steps stay in the box: few entries carry them, and these would run into it and stay there."""


@dataclass(frozen=True)
class DeepFool(Attack):
    """DeepFool: step to the nearest linearised decision boundary until the label has changed.

    At x + r, with f_k = Z_k - Z_y, w_k = grad f_k and 1/p + 1/q = 1: l = argmin_k |f_k| / |w_k|_q, and r grows by the
    shortest step onto that boundary, |f_l| |w_l|^(q-1) sign(w_l) / |w_l|_q^q: |f_l| w_l / |w_l|_2^2 for L2, |f_l|
    sign(w_l) / |w_l|_1 for Linf, and the steepest entry alone for L1. An image is done when x + (1 + overshoot) r is
    misclassified, and that is returned. Images that are misclassified to begin with are returned unchanged; images not
    done after `steps` come back with what they have, and `success` False.

    norm       L2 (default), Linf or L1: p is 2, infinite or 1
    p          any other exponent above 1 (default None: the norm's own); others compare and report by `norm` then
    steps      most linearisations, default 50 (the authors' Python; their Matlab has 100)
    overshoot  default .02 (authors' code)
    classes    how many of the highest logits at x compete, the label among them; default 10 (authors' code)
    slack      from the second step on, a class takes part only if its boundary seems, by its last slope, nearer than
               `slack` times the nearest; default 1.5. With infinity all take part, as in paper and code

    With a target, the only boundary is that between the target and the highest other class of the moment.
    Paper and code differ: the paper linearises at x + r, as we do, the authors' Python at x + (1 + overshoot) r. They
    leave the box; we clip x + r after every step, as ART and CleverHans do, so that an image at the box takes more,
    smaller steps. `box=None` gives their unbounded form. Leaving entries that cannot move out of |w_k|_q would halve
    the steps, but made perturbations of LeNet on MNIST 8 % longer. Below p = 1.5 they are left out: there, few entries
    carry a step, and would run into the box and stay; in L1, the steepest go as far as the box lets them, in order.

    Cost: 1 forward pass, and per step 2 more and, at first, classes - 1 gradient passes, then mostly 1, and at most 1
    forward pass more for each further one. Gradients are taken one class at a time, so that memory does not grow with
    the classes: some 15 copies of the batch beside the model's graph.
    Reference: Seyed-Mohsen Moosavi-Dezfooli, Alhussein Fawzi and Pascal Frossard, "DeepFool: a simple and accurate
    method to fool deep neural networks", CVPR 2016, algorithm 2.
    """

    norm: Annotated[Norm, OneOf((Linf, L2, L1), "For L0 use JSMA or SigmaZero")] = L2
    p: Annotated[float | None, Gt(1), INFINITE] = None
    steps: Count = 50
    overshoot: Factor = 0.02
    classes: Annotated[int, Ge(2)] = 10
    slack: Annotated[float, Ge(1), INFINITE] = 1.5

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        x_adv, logits = x.clone(), oracle.logits(x)
        which = torch.where(~goal.reached(logits))[0]
        clean, goal, p = x[which], goal[which], EXPONENT[self.norm] if self.p is None else self.p
        others = rivals(logits[which], goal, self.classes)
        boundaries = Boundaries.around(others, x, p, self.box if p < BOXED else None, self.slack, outwards=True)
        raw = clean
        for _ in range(self.steps):
            if len(which) == 0:
                break
            _, _, step = boundaries.nearest(oracle, raw, goal, which)
            total = raw + step - clean
            raw = clip(clean + total, self.box)
            shot = clip(clean + (1 + self.overshoot) * total, self.box)
            x_adv[which] = shot
            going = torch.where(~goal.reached(oracle.logits(shot, which)))[0]
            if len(going) < len(which):
                which, goal, boundaries = which[going], goal[going], boundaries[going]
                clean, raw = clean[going], raw[going]
        return x_adv
