"""Projected gradient ascent of a loss inside a ball."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steelman.attacks.attack import Attack
from steelman.attacks.oracle import Oracle
from steelman.losses import CrossEntropy, Goal, Loss
from steelman.norms import Linf, Norm, per_image
from steelman.randomness import Draws
from steelman.types import Box, Flags, Images, Indices, PerImage, Radius


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
        ball = _Ball(x, self.norm, self.eps, self.box)
        best = _Best(x)
        for restart in range(self.restarts):
            which = torch.where(~best.success)[0] if self.early_leave else torch.arange(len(x), device=x.device)
            if len(which) == 0:
                break
            self._climb(oracle, ball, which, goal, draws.split(restart), best)
        return self.norm.contain(x, best.x, self.eps, self.box)

    def _climb(self, oracle: Oracle, ball: "_Ball", which: Indices, goal: Goal, draws: Draws, best: "_Best") -> None:
        """One restart for the images `which`; what it finds goes into `best`."""
        size = self.step_size if self.step_size is not None else 2.5 * self.eps / max(self.steps, 1)
        if len(which) < len(ball.x):
            ball, goal, draws = ball[which], goal[which], draws[which]
            size = size[which] if isinstance(size, Tensor) and size.ndim else size
        step = per_image(size, ball.x)
        x = ball.random(draws) if self.random_start else ball.x.clone()
        judged = self.keep_best or self.early_leave or self.restarts > 1
        peak = _Best(x)
        for _ in range(self.steps):
            logits, value, gradient = oracle.gradient(x, lambda logits, goal=goal: self.loss(logits, goal), which)
            if judged:
                success = goal.reached(logits)
                if self.keep_best:
                    peak.offer(slice(None), x, success, value, by_loss=True)
                if self.early_leave and bool(success.any()):
                    best.offer(which[success], x[success], success[success], value[success])
                    stay = torch.where(~success)[0]
                    if len(stay) == 0:
                        return
                    which, goal, ball, x, gradient = which[stay], goal[stay], ball[stay], x[stay], gradient[stay]
                    step = step[stay] if step.ndim else step
                    peak = peak[stay]
            x = ball.climb(x, gradient, step)
        if not judged or (self.early_leave and self.restarts == 1 and not self.keep_best):
            best.x[which] = x
            return
        logits = oracle.logits(x, which)
        success, value = goal.reached(logits), self.loss(logits, goal)
        if self.keep_best:
            peak.offer(slice(None), x, success, value, by_loss=True)
            x, success, value = peak.x, peak.success, peak.value
        best.offer(which, x, success, value)


class _Ball:
    """Ball and box around a batch, and a step within them."""

    def __init__(self, x: Images, norm: Norm, eps: Radius, box: Box | None) -> None:
        self.x, self.norm, self.eps, self.box = x, norm, eps, box
        self.bounds = Linf.bounds(x, eps, box) if norm is Linf else None

    def __getitem__(self, which: Indices) -> "_Ball":
        part = object.__new__(_Ball)
        part.x, part.norm, part.box = self.x[which], self.norm, self.box
        part.eps = self.eps[which] if isinstance(self.eps, Tensor) and self.eps.ndim else self.eps
        part.bounds = None if self.bounds is None else (self.bounds[0][which], self.bounds[1][which])
        return part

    def random(self, draws: Draws) -> Images:
        start = self.x + self.norm.sample(self.x, self.eps, draws)
        return start if self.box is None else start.clamp(*self.box)

    def climb(self, x: Images, gradient: Images, step: Tensor) -> Images:
        if self.bounds is not None:  # ball and box are one clamp
            return torch.clamp(x + step * gradient.sign_(), *self.bounds)
        if self.box is not None:
            stuck = ((x <= self.box[0]) & (gradient < 0)) | ((x >= self.box[1]) & (gradient > 0))
            gradient = gradient.masked_fill(stuck, 0)
        x = self.x + self.norm.project(x + step * self.norm.steepest(gradient) - self.x, self.eps)
        return x if self.box is None else x.clamp(*self.box)


class _Best:
    """The best image found so far for each of a batch: success first, then loss."""

    def __init__(self, x: Images) -> None:
        self.x = x.clone()
        self.success: Flags = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.value: PerImage = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)

    def __getitem__(self, which: Indices) -> "_Best":
        part = object.__new__(_Best)
        part.x, part.success, part.value = self.x[which], self.success[which], self.value[which]
        return part

    def offer(
        self, which: Indices | slice, x: Images, success: Flags, value: PerImage, *, by_loss: bool = False
    ) -> None:
        kept_success, kept_value = self.success[which], self.value[which]
        better = value > kept_value
        if not by_loss:
            better = torch.where(success == kept_success, better, success)
        self.x[which] = torch.where(better.reshape(-1, *[1] * (x.ndim - 1)), x, self.x[which])
        self.success[which] = torch.where(better, success, kept_success)
        self.value[which] = torch.where(better, value, kept_value)
