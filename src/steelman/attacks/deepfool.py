"""Minimal perturbations by repeated linearisation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.attacks.attack import Attack
from steelman.attacks.oracle import Oracle
from steelman.losses import Goal
from steelman.norms import L2, TINY, Linf, Norm
from steelman.randomness import Draws
from steelman.types import Images, Indices, Labels, Logits


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

    With a target, the only boundary is that between the class of the moment and the target.
    Paper and code differ: the paper linearises at x + r, as we do, the authors' Python at x + (1 + overshoot) r. They
    leave the box; we clip the point, and entries that stand at the box and would leave it take no part in a step, so
    that a clipped image goes on moving. `box=None` gives their unbounded form.

    Cost per step: 2 forward passes (none for the test of the last one) and classes - 1 gradient passes.
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
        found = x.clone()
        which = torch.arange(len(x), device=x.device)
        clean, raw = x, x.clone()
        rivals: Tensor | None = None
        for step in range(self.steps):
            with torch.enable_grad():
                raw.requires_grad_()
                logits = oracle.logits(raw, which)
            if step == 0:
                rivals = self._rivals(logits.detach(), goal)
                going = torch.where(~goal.reached(logits))[0]
                if len(going) < len(which):
                    if len(going) == 0:
                        return found
                    which, goal, clean, rivals = which[going], goal[going], clean[going], rivals[going]
                    with torch.enable_grad():
                        raw = raw.detach()[going].requires_grad_()
                        logits = oracle.logits(raw, which)
            assert rivals is not None
            total = raw.detach() + self._shortest(oracle, raw, logits, rivals, goal, which) - clean
            raw = self._clip(clean + total)
            shot = self._clip(clean + (1 + self.overshoot) * total)
            found[which] = shot
            going = torch.where(~goal.reached(oracle.logits(shot, which)))[0]
            if len(going) == 0:
                break
            if len(going) < len(which):
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

    def _shortest(
        self, oracle: Oracle, x: Images, logits: Logits, rivals: Tensor, goal: Goal, which: Indices
    ) -> Images:
        """The shortest step from `x` onto a linearised boundary."""
        own: Labels = goal.labels if goal.target is None else logits.argmax(1)
        with torch.enable_grad():
            gaps = (logits.gather(1, rivals) - logits.gather(1, own[:, None])).unbind(1)
        distance = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        step = torch.zeros_like(x)
        for column, gap in enumerate(gaps):
            (slope,) = oracle.backward(gap, x, which, keep=column < len(gaps) - 1)
            if self.box is not None:
                slope = slope.masked_fill(((x <= self.box[0]) & (slope < 0)) | ((x >= self.box[1]) & (slope > 0)), 0)
            flat = slope.flatten(1)
            dual = flat.norm(dim=1) if self.norm is L2 else flat.abs().sum(1)
            length = gap.detach().abs() / dual.clamp(min=TINY)
            nearer = length < distance
            distance = torch.where(nearer, length, distance)
            step = torch.where(nearer.reshape(-1, *[1] * (x.ndim - 1)), slope, step)
        return self.norm.steepest(step) * distance.reshape(-1, *[1] * (x.ndim - 1))
