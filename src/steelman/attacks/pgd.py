"""Projected gradient ascent of a loss inside a ball."""

from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from steelman.attacks.attack import Attack
from steelman.attacks.ball import Ball
from steelman.attacks.oracle import Oracle
from steelman.losses import CrossEntropy, Goal, Loss
from steelman.norms import Linf, Norm, per_image
from steelman.randomness import Draws
from steelman.types import Flags, Images, Indices, PerImage, Radius


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent on the negative loss.

    x_0 = clip(x + uniform sample of the ball), x_{t+1} = clip(project(x_t + step_size * steepest(grad L(x_t)))): ball
    first, then box, then both once more to the last bit. Entries that stand at the box and would leave it take no part
    in a step (this matters for L2 and L1 only).

    eps           radius, one number or one per image (default 8/255)
    steps         default 10, as Madry's CIFAR-10 code
    step_size     default 2.5 eps / steps, which is Madry's 2/255 at 8/255 and 10 steps; their MNIST: .01 at 40 steps
    norm          Linf (default), L2, L1, L0
    loss          cross-entropy (default), Margin(50) is their "CW+", DLR, KL
    random_start  default True
    restarts      default 1; later ones keep, per image, a success, and otherwise the higher loss
    keep_best     return the iterate of the highest loss instead of the last one (default False)
    early_leave   images that reach the goal leave at once and return that iterate (default False). It changes no
                  success into a failure; use it to measure accuracy, not to train

    Cost: `steps` forward and gradient passes per restart; one forward more when the last iterate has to be judged
    (restarts > 1 or keep_best).
    Reference: Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras and Adrian Vladu, "Towards deep
    learning models resistant to adversarial attacks", ICLR 2018, section 2.
    """

    eps: Radius = 8 / 255
    steps: int = 10
    step_size: Radius | None = None
    norm: Norm = Linf
    loss: Loss = field(default_factory=CrossEntropy)
    random_start: bool = True
    restarts: int = 1
    keep_best: bool = False
    early_leave: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 1:
            raise ValueError(f"PGD needs steps >= 0 and restarts >= 1; got {self.steps} and {self.restarts}")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        if self.loss.needs_reference:
            goal = replace(goal, reference=oracle.logits(x))
        ball = Ball.around(x, self.eps, self.norm, self.box)
        given = 2.5 * self.eps / max(self.steps, 1) if self.step_size is None else self.step_size
        step_size = per_image(given, x, "step_size").expand_as(ball.eps)
        best = _Found.nothing(x)
        for restart in range(self.restarts):
            which = torch.where(~(best.success & self.early_leave))[0]
            if len(which) == 0:
                break
            found = self._climb(oracle, which, ball[which], step_size[which], goal[which], draws.split(restart)[which])
            higher = found.loss > best.loss[which]
            better = torch.where(found.success == best.success[which], higher, found.success)
            best.put(which, found, better if self._judges else torch.ones_like(better))
        return ball.contain(best.x)

    @property
    def _judges(self) -> bool:
        """Whether the last iterate is compared with others, which takes one forward pass more."""
        return self.keep_best or self.restarts > 1

    def _climb(
        self, oracle: Oracle, which: Indices, ball: Ball, step_size: Tensor, goal: Goal, draws: Draws
    ) -> "_Found":
        """One restart for the images `which`."""
        x = ball.sample(draws) if self.random_start else ball.x
        found = _Found.nothing(x)
        place = torch.arange(len(x), device=x.device)  # of the images that have not left, in `which`
        for step in range(self.steps + self._judges):
            objective = partial(self.loss, goal=goal)
            if step < self.steps:
                logits, loss, gradient = oracle.gradient(x, objective, which[place])
            else:
                logits = oracle.logits(x, which[place])
                loss, gradient = objective(logits), x
            here = _Found(x, goal.reached(logits), loss)
            if self.keep_best:
                found.put(place, here, loss > found.loss[place])
            elif step == self.steps:
                found.put(place, here, torch.ones_like(here.success))
            if self.early_leave and bool(here.success.any()):
                found.put(place, here, here.success)
                stay = torch.where(~here.success)[0]
                if len(stay) == 0:
                    return found
                place, ball, goal, x, gradient = place[stay], ball[stay], goal[stay], x[stay], gradient[stay]
                step_size = step_size[stay]
            if step < self.steps:
                x = ball.climb(x, gradient, step_size)
        if not self._judges:
            found.x[place] = x
        return found


@dataclass(frozen=True)
class _Found:
    """Images, whether they reach the goal, and their loss."""

    x: Images
    success: Flags
    loss: PerImage

    @staticmethod
    def nothing(x: Images) -> "_Found":
        loss = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        return _Found(x.clone(), torch.zeros_like(loss, dtype=torch.bool), loss)

    def put(self, place: Indices, other: "_Found", better: Flags) -> None:
        """Take over from `other`, whose images belong at `place`, those that are better."""
        place = place[better]
        self.x[place], self.success[place], self.loss[place] = (
            other.x[better],
            other.success[better],
            other.loss[better],
        )
