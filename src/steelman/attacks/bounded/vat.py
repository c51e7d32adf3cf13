"""The direction of virtual adversarial training."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from steelman.attacks.core import Attack, Ball, Draws, Images, Oracle, Radius, Share
from steelman.losses import KL, Goal
from steelman.norms import L2, Norm
from steelman.ranges import Count, OneOf, Positive


@dataclass(frozen=True)
class VirtualAdversarial(Attack):
    """The virtual adversarial direction: the step that changes the model's own prediction most, whatever the label.

    d from N(0, I), then `iterations` times d = grad_d KL(p(x) || p(x + xi d / |d|_2)), a power iteration with the
    Hessian of the divergence at x; x' = the image of ball and box that is furthest along d, which is x + eps d / |d|_2
    where the box does not bind.

    eps         radius in L2, one number or one per image (default 2, CleverHans)
    iterations  default 1 (paper, CleverHans); 5 in the code of "Efficient defenses against adversarial attacks"
    xi          length of the finite difference in L2, default .1
    norm        L2, the only one

    CleverHans has xi 1e-6, where the divergence is lost in the rounding of single precision: on two MNIST LeNets, one
    step of eps 2 reached a divergence of .44 and 1.2 with it, but 1.4 and 2.4 with .1, as 1e-6 in double precision.

    Cost: iterations + 1 forward and `iterations` gradient passes.
    Reference: Takeru Miyato, Shin-ichi Maeda, Masanori Koyama and Shin Ishii, "Virtual adversarial training: a
    regularization method for supervised and semi-supervised learning", TPAMI 2018, section 3.3.

    Raises:
        ValueError: a target, since labels play no part; another norm.
    """

    eps: Radius = Share(2.0)
    iterations: Count = 1
    xi: Positive = Share(0.1)
    norm: Annotated[Norm, OneOf((L2,), "Use PGD(loss=KL())")] = L2

    def check_input(self, x: Images, targeted: bool, classes: int | None) -> None:
        if targeted:
            raise ValueError("VirtualAdversarial only leaves the clean prediction; for a target use FGSM(norm=L2)")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        if goal.reference is None:
            goal = replace(goal, reference=oracle.logits(x))
        direction = draws.normal(x.shape[1:], x.dtype)
        for _ in range(self.iterations):
            near = x + self.xi * L2.steepest(direction)  # not clipped: it only measures the curvature
            _, _, direction = oracle.gradient(near, partial(KL(), goal=goal))
        return Ball.around(x, self.eps, L2, self.box).furthest(direction)
