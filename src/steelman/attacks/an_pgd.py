"""AN-PGD, the minimal attack of max-margin adversarial training."""

from dataclasses import dataclass, field

import torch

from steelman.attacks.ascent import Ascent, Rows
from steelman.attacks.attack import Attack
from steelman.attacks.ball import Ball
from steelman.attacks.oracle import Oracle
from steelman.losses import Goal, Loss, SoftMargin
from steelman.norms import L0, TINY, Linf, Norm, column, per_image
from steelman.randomness import Draws
from steelman.types import Flags, Images, PerImage, Radius


@dataclass(frozen=True)
class ANPGD(Attack):
    """Adaptive-norm PGD: PGD in one ball for a direction, then a bisection along it for the length.

    d = PGD's perturbation in a ball of `radius`, u = d / |d|. Where x + d succeeds, the length is bisected in [0, |d|],
    and elsewhere in [|d|, eps_max], on whether clip(x + length u) succeeds. The nearest success is returned; images
    that are misclassified to begin with, and those for which nothing succeeds up to eps_max, come back as they are.

    radius        of the ball, one number or one per image (default 8/255). MMA keeps the last margin of each image
    eps_max       longest perturbation, default 1; MMA: 1.05 d_max
    steps         of PGD, default 10 (paper for CIFAR-10; MNIST: 40), of 2.5 radius / steps each
    bisections    default 10 (paper)
    norm          Linf (default), L2, L1
    loss          SoftMargin (default, the paper's), CrossEntropy, Margin
    random_start  default True (paper)

    The paper calls an image correct while SoftMargin < 0, we while it is classified as its label. The code divides by
    the radius instead of |d|, so that its u is shorter than 1 where the box clips, and returns the end of the bisection
    unclipped, whether or not it succeeds; we clip, and return only what has succeeded. Where nothing does within the
    bisection, we also look at eps_max itself.

    Cost: `steps` forward and gradient passes, bisections + 2 forward passes, 1 more where nothing succeeds.
    Reference: Gavin Weiguang Ding, Yash Sharma, Kry Yik Chau Lui and Ruitong Huang, "MMA training: direct input space
    margin maximization through adversarial training", ICLR 2020, algorithm 1.

    Raises:
        ValueError: L0, steps or bisections below 1, eps_max not above 0, KL.
    """

    radius: Radius = 8 / 255
    eps_max: float = 1.0
    steps: int = 10
    bisections: int = 10
    norm: Norm = Linf
    loss: Loss = field(default_factory=SoftMargin)
    random_start: bool = True

    def __post_init__(self) -> None:
        if self.norm is L0:
            raise ValueError("ANPGD needs a norm that grows along a direction, which L0 does not; use JSMA")
        if self.steps < 1 or self.bisections < 1 or not 0 < self.eps_max < float("inf"):
            raise ValueError(
                "ANPGD needs steps >= 1, bisections >= 1 and a finite eps_max > 0; "
                f"got {self.steps}, {self.bisections} and {self.eps_max}"
            )
        if self.loss.needs_reference:
            raise ValueError(f"{type(self.loss).__name__} compares with the clean logits; use SoftMargin()")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        radius = per_image(self.radius, x, "radius").expand(len(x), *[1] * (x.ndim - 1))
        found = x.clone()
        which = torch.where(~goal.reached(oracle.logits(x)))[0]
        if len(which) == 0:
            return found
        rows = Rows.of(Ball.around(x, radius, self.norm, self.box), 2.5 * radius / self.steps, goal)[which]
        start = rows.ball.sample(draws.split(0)[which]) if self.random_start else rows.ball.x
        far = Ascent(self.steps, self.loss).climb(oracle, rows, start).x
        found[which] = self._bisect(oracle, rows, far - rows.ball.x)
        return found

    def _bisect(self, oracle: Oracle, rows: Rows, delta: Images) -> Images:
        """The nearest success along `delta`; the clean image where there is none."""
        best = rows.ball.x.clone()
        high = self.norm.size(delta)
        unit = delta / column(high, delta).clamp(min=TINY)
        image, hit = self._at(oracle, rows, unit, high)
        best[hit] = image[hit]
        low, high = torch.where(hit, 0, high), torch.where(hit, high, high.clamp(min=self.eps_max))
        for _ in range(self.bisections):
            middle = (low + high) / 2
            image, now = self._at(oracle, rows, unit, middle)
            best[now] = image[now]
            hit |= now
            low, high = torch.where(now, low, middle), torch.where(now, middle, high)
        rest = torch.where(~hit)[0]
        if len(rest):
            image, now = self._at(oracle, rows[rest], unit[rest], high[rest])
            best[rest[now]] = image[now]
        return best

    def _at(self, oracle: Oracle, rows: Rows, unit: Images, length: PerImage) -> tuple[Images, Flags]:
        image = rows.ball.x + column(length, unit) * unit
        image = image if self.box is None else image.clamp_(*self.box)
        return image, rows.goal.reached(oracle.logits(image, rows.which))
