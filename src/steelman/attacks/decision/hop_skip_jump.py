"""Hard-label descent along the decision boundary, its normal estimated from many decisions."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from steelman.attacks.core import Access, Attack, Goal, Oracle
from steelman.attacks.decision.starting import Flat, Side, Starts, finished, to_boundary
from steelman.norms import L2, TINY, Linf, Norm
from steelman.randomness import Draws, combine
from steelman.ranges import Count, Natural, OneOf, Positive
from steelman.types import Images, PerImage

NUMBERS = 2**24
"""Most numbers in the noise of a pass: 111 images of 3 x 224 x 224, which take some 700 MB with what makes them."""


@dataclass(frozen=True)
class HopSkipJump(Attack):
    """HopSkipJump: from a misclassified image to the boundary, along its estimated normal, back to it, and so on.

    From x_t on the boundary, at distance r_t of x, with s_b = 1 where x_t + probe u_b is misclassified and -1 where
    not: v = mean_b (s_b - mean s) u_b, which is a Monte-Carlo estimate of the normal (without the mean where all s_b
    agree); u_b is on the unit sphere, evenly for L2 and from a cube for Linf. The step is v / |v|_2 for L2, sign(v) for
    Linf, of length r_t / sqrt(t), halved until it is misclassified; then the way to x is bisected to
    gamma pixels^-1.5 (L2) or gamma pixels^-2 (Linf) of itself, for Linf by clipping to smaller balls. The nearest point
    is kept and bisected once more to 1e-6. Misclassified images, and those for which no start is found, are returned as
    they are. Needs the model's decisions alone. The targeted form starts from a random image of the target's class.

    Starts: black, white, grey, then uniform noise of four grains, plain or in black and white.

    norm             L2 (default) or Linf
    steps            default 40 (authors' code)
    evaluations      decisions for the first normal, default 100 (paper); the t-th has sqrt(t) times as many
    max_evaluations  but at most these, default 10000 (authors' code)
    gamma            probe = gamma r_t / pixels, but a tenth of the box's width at first; default 1 (authors' code)
    starts           points on the boundary of which the nearest is the start, default 10; the paper's is 1
    tries            most random images tried to find these, default 1000; the authors' code has 10000
    batch            queries at once for normals, of all images together, default 512; fewer where these would have more
                     than 2^24 pixels

    Paper and code return the last point; we return the nearest.

    Cost: about 2/3 evaluations steps^1.5 forward passes for the normals, per step log2(pixels^1.5 / gamma) and a few
    halvings; 20 for the end, 4 `starts` and at most `tries` (as a rule `starts`, for rare targets many) for the start.
    Reference: Jianbo Chen, Michael I. Jordan and Martin J. Wainwright, "HopSkipJumpAttack: a query-efficient
    decision-based attack", IEEE S&P 2020, algorithm 2.

    Raises:
        ValueError: another norm.
    """

    access: ClassVar[Access] = "decisions"

    norm: Annotated[Norm, OneOf((L2, Linf))] = L2
    steps: Natural = 40
    evaluations: Count = 100
    max_evaluations: Count = 10_000
    gamma: Positive = 1.0
    starts: Count = 10
    tries: Natural = 1000
    batch: Count = 512

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        side, clean, start = Starts(self.norm, self.box, self.starts, self.tries).find(oracle, x, goal, draws)
        nearest = self._descend(side, clean, start, draws[side.which])
        return finished(side, x, clean, nearest, self.norm)

    def _descend(self, side: Side, clean: Flat, start: Flat, draws: Draws) -> Flat:
        pixels = clean.shape[1]
        precision = self.gamma * pixels ** (-1.5 if self.norm is L2 else -2)
        at = nearest = to_boundary(side, clean, start, self.norm, precision)
        distance = shortest = self.norm.size(at - clean)
        for step in range(1, self.steps + 1 if len(clean) else 1):
            probe = self.gamma * distance / pixels if step > 1 else torch.full_like(distance, 0.1 * self.box_width)
            queries = int(min(self.evaluations * math.sqrt(step), self.max_evaluations))
            normal = self._normal(side, at, probe, queries, draws.split(step))
            at = self._jump(side, at, self.norm.steepest(normal), distance / math.sqrt(step))
            at = to_boundary(side, clean, at, self.norm, precision)
            distance = self.norm.size(at - clean)
            nearest = torch.where((distance < shortest)[:, None], at, nearest)
            shortest = torch.minimum(distance, shortest)
        return nearest

    def _normal(self, side: Side, at: Flat, probe: PerImage, queries: int, draws: Draws) -> Flat:
        """The boundary's normal, times a number, from `queries` decisions per image.

        Only two sums are kept per image, so that memory holds no more than `batch` points at a time; in double
        precision, so that it does not matter in which order they are taken.
        """
        signed, plain = torch.zeros_like(at, dtype=torch.float64), torch.zeros_like(at, dtype=torch.float64)
        balance = torch.zeros_like(probe)
        most = max(min(self.batch, NUMBERS // at.shape[1]), 1)
        for images in torch.arange(len(at), device=at.device).split(most):
            base, length = at[images, None], probe[images, None, None]
            for part in torch.arange(queries, device=at.device).split(max(most // len(images), 1)):
                unit = self._units(Draws(combine(draws.seeds[images, None], part).flatten()), at)
                unit = unit.reshape(len(images), len(part), -1)
                point = torch.addcmul(base, unit, length)
                if self.box is not None:
                    point.clamp_(*self.box)
                    unit = (point - base).div_(length.clamp(min=TINY))
                wrong = side[images.repeat_interleave(len(part))](point.flatten(0, 1)).reshape(len(images), -1)
                sign, wide = wrong.to(at.dtype) * 2 - 1, unit.double()
                signed[images] += (sign.double()[:, None] @ wide)[:, 0]
                plain[images] += wide.sum(1)
                balance[images] += sign.sum(1)
        mean = (balance / queries)[:, None]
        return torch.where(mean.abs() == 1, signed, signed - mean * plain).to(at.dtype)

    def _units(self, draws: Draws, like: Flat) -> Flat:
        shape = like.shape[1:]
        unit = draws.normal(shape, like.dtype) if self.norm is L2 else draws.uniform(shape, like.dtype).mul_(2).sub_(1)
        return unit.div_(unit.norm(dim=1, keepdim=True).clamp(min=TINY))

    def _jump(self, side: Side, at: Flat, direction: Flat, length: PerImage) -> Flat:
        """A step of `length`, halved until it is misclassified; at most 30 times, since it may round to none."""
        moved, going = at.clone(), torch.arange(len(at), device=at.device)
        for _ in range(30):
            if len(going) == 0:
                break
            candidate = at[going] + length[going, None] * direction[going]
            candidate = candidate if self.box is None else candidate.clamp_(*self.box)
            wrong = side[going](candidate)
            moved[going[wrong]] = candidate[wrong]
            going, length = going[~wrong], length / 2
        return moved
