"""What hard-label attacks share: queries, starting images, and the way back to the boundary."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.attacks.core import Draws, Goal, Oracle
from steelman.norms import Linf, Norm
from steelman.types import Box, Flags, Images, Indices, Rows

Flat = Tensor
"""Images as rows of numbers, shape (batch, pixels)."""

PRECISION = 2.0**-20
"""Of the last bisection, as a share of the distance."""


@dataclass(frozen=True)
class Side(Rows):
    """Whether rows have reached the goal, for one query each. `which` are their places in the batch of the oracle."""

    oracle: Oracle
    goal: Goal
    which: Indices
    shape: torch.Size

    def __call__(self, x: Flat) -> Flags:
        return self.goal.met(self.oracle.decisions(x.unflatten(1, self.shape), self.which))


@dataclass(frozen=True)
class Starts:
    """Where a hard-label attack starts: the nearest of `count` images on the boundary, each from a random image.

    Tried in turn are black, white, grey and noise images, until `count` have reached the goal, or one has after
    10 `count` tries, or after `tries`; each is bisected to a 16th of its way. Without a box, black and white are the
    ends of each image's own range, widened by 1 on both sides.
    Cost: 1 query for every image; for those that have to move, at most `tries`, and 4 for each of `count`.
    """

    norm: Norm
    box: Box | None
    count: int
    tries: int

    def find(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> tuple[Side, Flat, Flat]:
        """The images that have to move and for which a start was found, as rows, and their starts."""
        clean = x.flatten(1)
        side = Side(oracle, goal, torch.arange(len(x), device=x.device), x.shape[1:])
        black, white = self._range(clean)
        start, hits = clean.clone(), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        searching = torch.where(~side(clean))[0]
        for turn in range(self.tries):
            if len(searching) == 0:
                break
            shade = (
                clean.new_full((1, clean.shape[1]), (0.0, 1.0, 0.5)[turn])
                if turn < 3
                else _noise(turn - 3, draws[searching].split(turn), side.shape, x.dtype)
            )
            candidate = torch.lerp(black[searching], white[searching], shade)
            reached = side[searching](candidate)
            here, candidate = searching[reached], candidate[reached]
            candidate = to_boundary(side[here], clean[here], candidate, self.norm, 1 / 16)
            distance = self.norm.size(candidate - clean[here])
            nearer = distance < nearest[here]
            start[here[nearer]], nearest[here[nearer]] = candidate[nearer], distance[nearer]
            hits[here] += 1
            searching = searching[hits[searching] < (self.count if turn + 1 < 10 * self.count else 1)]
        rows = torch.where(hits > 0)[0]
        return side[rows], clean[rows], start[rows]

    def _range(self, clean: Flat) -> tuple[Tensor, Tensor]:
        if self.box is None:
            return clean.amin(1, keepdim=True) - 1, clean.amax(1, keepdim=True) + 1
        return torch.full_like(clean[:, :1], self.box[0]), torch.full_like(clean[:, :1], self.box[1])


def _noise(turn: int, draws: Draws, shape: torch.Size, dtype: torch.dtype) -> Flat:
    """Uniform on [0, 1), with grains of 1, 2, 4 and 8 pixels in turn, then as often in black and white.

    LeNet predicts 8 for all fine noise, and each of the ten digits for some coarse black-and-white noise. Grains of
    more than a third of the image are left out.
    """
    grain = 2 ** (turn % 4)
    grain = grain if len(shape) > 1 and 3 * grain <= min(shape[-2:]) else 1
    coarse = [*shape[:-2], *(-(-side // grain) for side in shape[-2:])]
    noise = draws.uniform(tuple(coarse), dtype)
    noise = noise.round() if turn % 8 >= 4 else noise
    for axis in range(-min(2, len(shape)), 0):
        noise = noise.repeat_interleave(grain, axis).narrow(axis, 0, shape[axis])
    return noise.flatten(1)


def towards(clean: Flat, far: Flat, share: Tensor, norm: Norm) -> Flat:
    """The point at `share` of the distance from `clean` to `far`: on the line, or in the ball for Linf."""
    if norm is Linf:
        reach = (share * Linf.size(far - clean))[:, None]
        return far.clamp(clean - reach, clean + reach)
    return torch.lerp(clean, far, share[:, None])


def to_boundary(side: Side, clean: Flat, far: Flat, norm: Norm, precision: float) -> Flat:
    """From `far`, which has reached the goal, back towards `clean` until the boundary, which is bisected.

    `precision` is a share of the way, at least the floats' own.
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


def finished(side: Side, x: Images, clean: Flat, nearest: Flat, norm: Norm) -> Images:
    """The images, those of `side` replaced by their nearest points after a last bisection."""
    x_adv = x.flatten(1).clone()
    x_adv[side.which] = to_boundary(side, clean, nearest, norm, PRECISION)
    return x_adv.reshape(x.shape)
