"""What hard-label attacks share: which side of the boundary images are on, where to start, the way back to it."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steelman.attacks.core import Oracle
from steelman.losses import Goal
from steelman.norms import Linf, Norm
from steelman.randomness import Draws
from steelman.types import Box, Flags, Images, Indices

Rows = Tensor
"""Images as rows of numbers, shape (batch, pixels)."""

PRECISION = 2.0**-20
"""Of the last bisection, as a share of the distance."""


@dataclass(frozen=True)
class Side:
    """Tells which rows have reached the goal: one query each. `which` are their places in the batch of the oracle."""

    oracle: Oracle
    goal: Goal
    which: Indices
    shape: torch.Size

    def __getitem__(self, rows: Indices) -> "Side":
        return replace(self, goal=self.goal[rows], which=self.which[rows])

    def __call__(self, x: Rows) -> Flags:
        return self.goal.met(self.oracle.decisions(x.unflatten(1, self.shape), self.which))


@dataclass(frozen=True)
class Starts:
    """Where a hard-label attack starts: the nearest of `count` images on the boundary, each from a random image.

    Tried in turn are black, white, grey and noise images, until `count` have reached the goal, or one has after
    10 `count` tries, or `tries` are over; each is bisected to a 16th of its way. Without a box, black and white are the
    ends of each image's own range, widened by 1 on both sides.
    Cost: 1 query for every image; for those that have to move, at most `tries`, and 4 for each of `count`.
    """

    norm: Norm
    box: Box | None
    count: int
    tries: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.tries < 0:
            raise ValueError(f"a hard-label attack needs starts >= 1 and tries >= 0; got {self.count} and {self.tries}")

    def find(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> tuple[Side, Rows, Rows]:
        """The images that have to move and for which a start was found, as rows, and their starts."""
        clean = x.flatten(1)
        side = Side(oracle, goal, torch.arange(len(x), device=x.device), x.shape[1:])
        black, white = self._range(clean)
        start, found = clean.clone(), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        looking = torch.where(~side(clean))[0]
        for turn in range(self.tries):
            if len(looking) == 0:
                break
            shade = (
                clean.new_full((1, clean.shape[1]), (0.0, 1.0, 0.5)[turn])
                if turn < 3
                else _noise(turn - 3, draws[looking].split(turn), side.shape, x.dtype)
            )
            candidate = torch.lerp(black[looking], white[looking], shade)
            reached = side[looking](candidate)
            here, candidate = looking[reached], candidate[reached]
            candidate = to_boundary(side[here], clean[here], candidate, self.norm, 1 / 16)
            distance = self.norm.size(candidate - clean[here])
            nearer = distance < nearest[here]
            start[here[nearer]], nearest[here[nearer]] = candidate[nearer], distance[nearer]
            found[here] += 1
            looking = looking[found[looking] < (self.count if turn + 1 < 10 * self.count else 1)]
        rows = torch.where(found > 0)[0]
        return side[rows], clean[rows], start[rows]

    def _range(self, clean: Rows) -> tuple[Tensor, Tensor]:
        if self.box is None:
            return clean.amin(1, keepdim=True) - 1, clean.amax(1, keepdim=True) + 1
        return torch.full_like(clean[:, :1], self.box[0]), torch.full_like(clean[:, :1], self.box[1])


def _noise(turn: int, draws: Draws, shape: torch.Size, dtype: torch.dtype) -> Rows:
    """Uniform on [0, 1), with grains of 1, 2, 4 and 8 pixels in turn, then as often in black and white.

    LeNet sees an 8 in all fine noise, and each of the ten digits in some coarse and stark noise. Grains of more than a
    third of the image are left out.
    """
    grain = 2 ** (turn % 4)
    grain = grain if len(shape) > 1 and 3 * grain <= min(shape[-2:]) else 1
    coarse = [*shape[:-2], *(-(-side // grain) for side in shape[-2:])]
    noise = draws.uniform(tuple(coarse), dtype)
    noise = noise.round() if turn % 8 >= 4 else noise
    for axis in range(-min(2, len(shape)), 0):
        noise = noise.repeat_interleave(grain, axis).narrow(axis, 0, shape[axis])
    return noise.flatten(1)


def towards(clean: Rows, far: Rows, share: Tensor, norm: Norm) -> Rows:
    """The point at `share` of the distance from `clean` to `far`: on the line, or in the ball for Linf."""
    if norm is Linf:
        reach = (share * Linf.size(far - clean))[:, None]
        return far.clamp(clean - reach, clean + reach)
    return torch.lerp(clean, far, share[:, None])


def to_boundary(side: Side, clean: Rows, far: Rows, norm: Norm, precision: float) -> Rows:
    """From `far`, which has reached the goal, back towards `clean` until the boundary, which is bisected.

    `precision` is a share of the way; halvings that the floats cannot tell apart are left out.
    Cost: log2(1 / precision) queries.
    """
    low = torch.zeros(len(far), dtype=far.dtype, device=far.device)
    high, best = torch.ones_like(low), far
    for _ in range(math.ceil(-math.log2(max(precision, torch.finfo(far.dtype).eps))) if len(far) else 0):
        middle = (low + high) / 2
        between = towards(clean, far, middle, norm)
        reached = side(between)
        best = torch.where(reached[:, None], between, best)
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return best
