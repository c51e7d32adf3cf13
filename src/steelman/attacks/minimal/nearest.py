"""The nearest point of a linearised boundary, and the polish that brings a success nearer."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from steelman.attacks.core import Oracle
from steelman.attacks.minimal.linearised import EXPONENT, shortest_step
from steelman.losses import Goal, Margin
from steelman.norms import L0, L1, Linf, Norm, column
from steelman.randomness import Draws
from steelman.types import Box, Flags, Images, Indices, Logits, PerImage


def rounding(logits: Logits) -> PerImage:
    """A margin that the same image may lose in another batch, where sums come out otherwise."""
    return 16 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)


def clearly(goal: Goal, logits: Logits) -> Flags:
    """Whether the goal is reached by more than rounding."""
    return Margin()(logits, goal) > rounding(logits)


def beyond(gap: PerImage, logits: Logits) -> PerImage:
    """A hair more than `gap`, so that a step onto a boundary is clearly over it."""
    return 1.0001 * gap + 2 * rounding(logits)


def clip(image: Images, box: Box | None) -> Images:
    """`image` clipped, in place."""
    return image if box is None else image.clamp_(*box)


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """The value at a step when it falls from `first` to `last` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


def pace(gradient: Images, length: float) -> Tensor:
    """What to multiply `gradient` by for a step of this length in L2; 0 where it is 0."""
    # In double, since squares of the tiny gradients of a saturated softmax underflow.
    size = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64)
    return column(torch.where(size > torch.finfo(gradient.dtype).tiny, length / size, 0).to(gradient.dtype), gradient)


def off_plateaus(gradient: Images, draws: Draws, step: int) -> Images:
    """`gradient` with a random direction where it is 0, since a search that stands still there finds nothing."""
    flat = torch.where(Linf.size(gradient) == 0)[0]
    if len(flat) == 0:
        return gradient
    return gradient.index_copy(0, flat, draws[flat].split(step).normal(gradient.shape[1:], gradient.dtype))


def onto_plane(norm: Norm, x: Images, slope: Images, gap: PerImage, box: Box | None) -> Images:
    """The smallest d with slope . d >= gap and x + d in the box; as far as the box goes where there is none.

    L0 goes all the way with the entries that gain most; without a box, one entry will do.
    """
    gap = gap.clamp(min=0)
    if norm is not L0 or box is None:
        return shortest_step(x, slope, -gap, EXPONENT[L1 if norm is L0 else norm], box)
    room = torch.where(slope > 0, box[1] - x, x - box[0]).flatten(1)
    gain, order = (slope.flatten(1).abs() * room).sort(dim=1, descending=True, stable=True)
    wanted = ((gap[:, None] > gain.cumsum(1) - gain) & (gain > 0)).to(x.dtype)
    return slope.sign() * torch.zeros_like(room).scatter(1, order, wanted * room.gather(1, order)).reshape(x.shape)


def polish(
    oracle: Oracle, x: Images, x_adv: Images, goal: Goal, norm: Norm, box: Box | None, rounds: int, which: Indices
) -> Images:
    """Successes `x_adv`, brought nearer to `x`; where `x_adv` is `x`, there is none.

    A round linearises the margin at the success and tries the nearest point of that boundary. Where that fails, the
    way back to the success is halved 5 times; L0 halves the number of changed entries 10 times, and keeps those that
    contribute most to the linearised margin.
    Cost per round: 1 gradient pass and at most 7 forward passes, L0 12.
    """
    won = torch.where((x_adv != x).flatten(1).any(1))[0]
    if rounds == 0 or len(won) == 0:
        return x_adv
    x, image, goal, which = x[won], x_adv[won], goal[won], which[won]
    for _ in range(rounds):
        logits, value, slope = oracle.gradient(image, partial(Margin(), goal=goal), which)
        delta = image - x
        owed = slope * delta
        near = clip(x + onto_plane(norm, x, slope, beyond(owed.flatten(1).sum(1) - value, logits), box), box)
        shorter = torch.where(norm.size(near - x) < norm.size(delta))[0]
        reached = clearly(goal[shorter], oracle.logits(near[shorter], which[shorter]))
        best = image.index_copy(0, shorter[reached], near[shorter[reached]])
        if norm is L0:
            rest = torch.where((best == image).flatten(1).all(1))[0]
            least = torch.where(delta == 0, torch.inf, -owed)[rest].flatten(1)
            rank = least.argsort(dim=1, stable=True).argsort(1).reshape(image[rest].shape)
            path = partial(_fewer, x[rest], image[rest], rank)
        else:
            rest = shorter[~reached]
            path = partial(_between, near[rest], image[rest], box)
        reached = partial(_reached, oracle, path, goal[rest], which[rest])
        best[rest] = path(halve(reached, image[rest], 10 if norm is L0 else 5))
        image = best
    return x_adv.index_copy(0, won, image)


def _reached(oracle: Oracle, path: Callable[[Tensor], Images], goal: Goal, which: Indices, share: Tensor) -> Flags:
    return clearly(goal, oracle.logits(path(share), which))


def _between(near: Images, far: Images, box: Box | None, share: Tensor) -> Images:
    return clip(torch.lerp(near, far, share), box)


def _fewer(x: Images, image: Images, rank: Tensor, share: Tensor) -> Images:
    """`image` with only that share of its changed entries, those of lowest rank."""
    kept = (share * column((image != x).flatten(1).sum(1).to(x.dtype), x)).ceil()
    return torch.where(rank < kept, image, x)


def halve(reached: Callable[[Tensor], Flags], end: Images, halvings: int) -> Tensor:
    """The smallest share of a path that still succeeds, of shape (batch, 1, ..., 1); 0 fails, and 1 is `end`."""
    enough = column(end.new_ones(len(end)), end)
    failed = torch.zeros_like(enough)
    for _ in range(halvings if len(end) else 0):
        middle = (failed + enough) / 2
        hit = column(reached(middle), end)
        failed, enough = torch.where(hit, failed, middle), torch.where(hit, middle, enough)
    return enough
