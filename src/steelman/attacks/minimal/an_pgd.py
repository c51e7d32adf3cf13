"""AN-PGD, the minimal attack of max-margin adversarial training."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import torch

from steelman.attacks.bounded.ascent import Ascent, AscentState
from steelman.attacks.core import Attack, Ball, Oracle, check_images, check_labels
from steelman.losses import CrossEntropy, Goal, Loss, SoftMargin
from steelman.norms import L1, L2, TINY, Linf, Norm, column, per_image
from steelman.randomness import Draws
from steelman.ranges import Count, OneOf, Positive
from steelman.types import Flags, Images, Labels, Logits, Model, PerImage, Radius, Randomness, Share

_Over: TypeAlias = Callable[[Logits, Goal], Flags]
"""Which images are over the boundary, by their logits."""


@dataclass(frozen=True)
class ANPGD(Attack):
    """Adaptive-norm PGD: PGD in one ball for a direction, then a bisection along it for the length.

    d = PGD's perturbation in a ball of `radius`, u = d / |d|. Where x + d succeeds, the length is bisected in [0, |d|],
    and elsewhere in [|d|, eps_max], on whether clip(x + length u) succeeds. The nearest success is returned; images
    that are misclassified to begin with, and those without a success up to eps_max, come back unchanged.

    radius        of the ball, one number or one per image (default 8/255). MMA keeps the last margin of each image
    eps_max       longest perturbation, default 1 in units of the box; MMA: 1.05 d_max
    steps         of PGD, default 10 (paper for CIFAR-10; MNIST: 40), of 2.5 radius / steps each
    bisections    default 10 (paper)
    norm          Linf (default), L2, L1
    loss          SoftMargin (default, the paper's), CrossEntropy, Margin
    random_start  default True (paper)

    The paper calls an image correct while SoftMargin < 0, we while it is classified as its label. The code divides by
    the radius instead of |d|, so that its u is shorter than 1 where the box clips, and returns the end of the bisection
    unclipped, whether or not it succeeds; we clip, return only successes, and try eps_max itself where the bisection
    has none. MMA trains on `crossing`, which is the paper's in all of this.

    Cost: `steps` forward and gradient passes, bisections + 2 forward passes, 1 more where nothing succeeds.
    Reference: Gavin Weiguang Ding, Yash Sharma, Kry Yik Chau Lui and Ruitong Huang, "MMA training: direct input space
    margin maximization through adversarial training", ICLR 2020, algorithm 1.

    Raises:
        ValueError: KL, which has no gradient at x.
    """

    radius: Radius = Share(8 / 255)
    eps_max: Positive = Share(1.0)
    steps: Count = 10
    bisections: Count = 10
    norm: Annotated[Norm, OneOf((Linf, L2, L1), "For L0 use JSMA")] = Linf
    loss: Loss = field(default_factory=SoftMargin)
    random_start: bool = True

    def __post_init__(self) -> None:
        if self.loss.needs_reference:
            raise ValueError(f"{type(self.loss).__name__} compares with the clean logits; use SoftMargin()")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        x_adv = x.clone()
        which = torch.where(~goal.reached(oracle.logits(x)))[0]
        if len(which) == 0:
            return x_adv
        rows = self._rows(x, goal)[which]

        def over(logits: Logits, goal: Goal) -> Flags:
            return goal.reached(logits)

        unit, _, high, hit = self._bracket(oracle, rows, draws[which], over, self.bisections)
        rest = torch.where(~hit)[0]
        if len(rest):
            hit[rest] = self._ask(oracle, rows[rest], unit[rest], high[rest], over)
        x_adv[which[hit]] = self._at(rows, unit, high)[hit]
        return x_adv

    def crossing(
        self, model: Model, x: Images, y: Labels, *, target: Labels | None = None, generator: Randomness = None
    ) -> tuple[Images, PerImage]:
        """Where the line along u leaves the label's side, as in the paper: x + length u, not clipped, and length.

        The sides are those of the loss, which is below 0 where an image is right; images must be right to begin with.
        The length is the middle of the last interval, whose halvings are the bisections. Where there is no crossing up
        to eps_max, it comes out that near eps_max.

        Cost: `steps` forward and gradient passes, `bisections` forward passes.

        Raises:
            ValueError: CrossEntropy, which has no sides; images or labels that cannot be right.
        """
        if isinstance(self.loss, CrossEntropy):
            raise ValueError("CrossEntropy is never 0, so it does not say where a boundary is; use SoftMargin()")
        check_images(x, self.box)
        check_labels("y", y, x)
        x, goal = x.detach(), Goal(y, target)
        if len(x) == 0:
            return x, x.new_zeros(0)

        def over(logits: Logits, goal: Goal) -> Flags:
            return self.loss(logits, goal) >= 0

        draws = Draws.start(generator, len(x), x.device)
        with torch.inference_mode(False), Oracle(model, goal) as oracle:
            unit, low, high, _ = self._bracket(oracle, self._rows(x, goal), draws, over, self.bisections - 1)
        length = (low + high) / 2
        return x + column(length, x) * unit, length

    def _rows(self, x: Images, goal: Goal) -> AscentState:
        radius = per_image(self.radius, x, "radius").expand(len(x), *[1] * (x.ndim - 1))
        return AscentState.of(Ball.around(x, radius, self.norm, self.box), 2.5 * radius / self.steps, goal)

    def _bracket(
        self, oracle: Oracle, rows: AscentState, draws: Draws, over: _Over, halvings: int
    ) -> tuple[Images, PerImage, PerImage, Flags]:
        """PGD's direction, the ends of the interval along it, and whether the higher one is known to be over."""
        start = rows.ball.sample(draws.split(0)) if self.random_start else rows.ball.x
        delta = Ascent(self.steps, self.loss).climb(oracle, rows, start).x - rows.ball.x
        high = self.norm.size(delta)
        unit = delta / column(high, delta).clamp(min=TINY)
        hit = self._ask(oracle, rows, unit, high, over)
        low, high = torch.where(hit, 0, high), torch.where(hit, high, high.clamp(min=self.eps_max))
        for _ in range(halvings):
            middle = (low + high) / 2
            now = self._ask(oracle, rows, unit, middle, over)
            hit = hit | now
            low, high = torch.where(now, low, middle), torch.where(now, middle, high)
        return unit, low, high, hit

    def _ask(self, oracle: Oracle, rows: AscentState, unit: Images, length: PerImage, over: _Over) -> Flags:
        return over(oracle.logits(self._at(rows, unit, length), rows.which), rows.goal)

    def _at(self, rows: AscentState, unit: Images, length: PerImage) -> Images:
        image = rows.ball.x + column(length, unit) * unit
        return image if self.box is None else image.clamp_(*self.box)
