"""Minimal perturbations by repeated linearisation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.attacks.attack import Attack
from steelman.attacks.oracle import Oracle
from steelman.losses import Goal
from steelman.norms import L2, TINY, Linf, Norm
from steelman.randomness import Draws
from steelman.types import Images, Indices, Logits


@dataclass(frozen=True)
class DeepFool(Attack):
    """DeepFool: step to the nearest linearised decision boundary until the label has changed.

    At x + r, with f_k = Z_k - Z_y and w_k = grad f_k: l = argmin_k |f_k| / |w_k|_q, and r grows by the shortest step
    onto that boundary, |f_l| w_l / |w_l|_2^2 for L2 and |f_l| sign(w_l) / |w_l|_1 for Linf. An image is done when
    x + (1 + overshoot) r is misclassified, and that is returned. Images that are misclassified to begin with are
    returned as they are; images not done after `steps` come back with what they have, and `success` False.

    norm       L2 (default) or Linf; q is the dual norm
    steps      most linearisations, default 50 (the authors' Python; their Matlab has 100)
    overshoot  default .02 (authors' code)
    classes    how many of the highest logits at x compete, the label among them; default 10 (authors' code)

    With a target, the only boundary is that between the target and the highest other class of the moment.
    Paper and code differ: the paper linearises at x + r, as we do, the authors' Python at x + (1 + overshoot) r. They
    leave the box; we clip x + r after every step, as ART and CleverHans do, so that an image at the box takes more,
    smaller steps. `box=None` gives their unbounded form. Leaving entries that cannot move out of |w_k|_q would halve
    the steps, but made perturbations of LeNet on MNIST 8 % longer.

    Cost: 1 forward pass, and per step 2 more and classes - 1 gradient passes.
    Reference: Seyed-Mohsen Moosavi-Dezfooli, Alhussein Fawzi and Pascal Frossard, "DeepFool: a simple and accurate
    method to fool deep neural networks", CVPR 2016, algorithm 2.
    """

    norm: Norm = L2
    steps: int = 50
    overshoot: float = 0.02
    classes: int = 10

    def __post_init__(self) -> None:
        if self.norm is not L2 and self.norm is not Linf:
            raise ValueError(f"DeepFool has a closed-form step for L2 and Linf only; got {self.norm}")
        if self.steps < 1 or self.classes < 2 or self.overshoot < 0:
            raise ValueError(
                "DeepFool needs steps >= 1, classes >= 2 and overshoot >= 0; "
                f"got {self.steps}, {self.classes} and {self.overshoot}"
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found, logits = x.clone(), oracle.logits(x)
        which = torch.where(~goal.reached(logits))[0]
        clean, goal, rivals = x[which], goal[which], self._rivals(logits, goal)[which]
        raw = clean
        for _ in range(self.steps):
            if len(which) == 0:
                break
            total = raw + self._shortest(oracle, raw, rivals, goal, which) - clean
            raw = self._clip(clean + total)
            shot = self._clip(clean + (1 + self.overshoot) * total)
            found[which] = shot
            going = torch.where(~goal.reached(oracle.logits(shot, which)))[0]
            which, goal, clean, raw, rivals = which[going], goal[going], clean[going], raw[going], rivals[going]
        return found

    def _clip(self, x: Images) -> Images:
        return x if self.box is None else x.clamp(*self.box)

    def _rivals(self, logits: Logits, goal: Goal) -> Tensor:
        """The classes whose boundaries are looked at, shape (batch, rivals)."""
        if goal.target is not None:
            return goal.target[:, None]
        others = logits.scatter(1, goal.labels[:, None], -torch.inf)
        return others.topk(min(self.classes, logits.shape[1]) - 1, dim=1).indices

    def _shortest(self, oracle: Oracle, x: Images, rivals: Tensor, goal: Goal, which: Indices) -> Images:
        """The shortest step from `x` onto a linearised boundary."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = oracle.logits(x, which)
            own = goal.labels if goal.target is None else logits.scatter(1, rivals, -torch.inf).argmax(1)
            gaps = (logits.gather(1, rivals) - logits.gather(1, own[:, None])).unbind(1)
        distance = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        nearest = torch.zeros_like(x)
        # One gradient at a time: on LeNet, one batched backward pass takes 1.2 times as long, and stacked copies of the
        # batch take 2 to 4 times as long.
        for rest, gap in zip(reversed(range(len(gaps))), gaps, strict=True):
            slope = oracle.backward(gap, x, which, keep=rest > 0)
            dual = slope.flatten(1).norm(dim=1) if self.norm is L2 else slope.flatten(1).abs().sum(1)
            length = gap.detach().abs() / dual.clamp(min=TINY)
            nearer = length < distance
            distance = torch.where(nearer, length, distance)
            nearest = torch.where(nearer.reshape(-1, *[1] * (x.ndim - 1)), slope, nearest)
        return self.norm.steepest(nearest) * distance.reshape(-1, *[1] * (x.ndim - 1))
