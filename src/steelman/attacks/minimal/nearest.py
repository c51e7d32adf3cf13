"""What minimal-norm attacks share: the nearest point of a linearised boundary, a first look at all, a last polish."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from steelman.attacks.core.oracle import Oracle
from steelman.attacks.minimal.linearised import exponent, shortest_step
from steelman.losses import Goal, Margin, top_rivals
from steelman.norms import L0, L1, TINY, Norm, column
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


def within(image: Images, box: Box | None) -> Images:
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


def onto_plane(norm: Norm, x: Images, slope: Images, gap: PerImage, box: Box | None) -> Images:
    """The smallest d with slope . d >= gap and x + d in the box; as far as the box goes where there is none.

    L0 goes all the way with the entries that gain most; without a box, one entry will do.
    """
    gap = gap.clamp(min=0)
    if norm is not L0 or box is None:
        return shortest_step(x, slope, -gap, exponent(L1 if norm is L0 else norm), box)
    room = torch.where(slope > 0, box[1] - x, x - box[0]).flatten(1)
    gain, order = (slope.flatten(1).abs() * room).sort(dim=1, descending=True, stable=True)
    wanted = ((gap[:, None] > gain.cumsum(1) - gain) & (gain > 0)).to(x.dtype)
    return slope.sign() * torch.zeros_like(room).scatter(1, order, wanted * room.gather(1, order)).reshape(x.shape)


def first_look(
    oracle: Oracle, x: Images, goal: Goal, norm: Norm, box: Box | None, classes: int
) -> tuple[Images, Indices, int]:
    """The images, moved onto the nearest of their linearised boundaries, which are not at the goal to begin with, and
    how many gradient passes it took.

    The `classes` highest logits compete, the label among them; with a target, only that. With fewer than two, nothing
    moves. Cost: 1 forward and at most classes - 1 gradient passes.
    """
    if classes < 2:
        return x, torch.where(~goal.reached(oracle.logits(x)))[0], 0
    with torch.enable_grad():
        here = x.detach().requires_grad_()
        logits = oracle.logits(here)
        gaps = _gaps(logits, goal, classes)
    logits = logits.detach()
    moved, nearest = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for rest, gap in zip(reversed(range(len(gaps))), gaps, strict=True):
        slope = oracle.backward(gap, here, keep=rest > 0)
        step = onto_plane(norm, x, slope, beyond(-gap.detach(), logits), box)
        # A boundary that cannot be reached within the box is for those that have no other.
        reaches = (slope * step).flatten(1).sum(1) >= -gap.detach()
        size = torch.where(reaches, norm.size(step), 1 / TINY)
        moved = torch.where(column(size < nearest, x), x + step, moved)
        nearest = torch.minimum(size, nearest)
    return within(moved, box), torch.where(~goal.reached(logits))[0], len(gaps)


def left_over(steps: int, spent: int) -> int:
    """What a first look and a last polish leave of a budget of gradient passes: at least half."""
    return max(steps - spent, (steps + 1) // 2)


def _gaps(logits: Logits, goal: Goal, classes: int) -> tuple[PerImage, ...]:
    """Z_k - Z_y for the highest rivals; with a target, Z_t minus the highest other."""
    if goal.target is not None:
        return (Margin()(logits, goal),)
    rivals = top_rivals(logits, goal.labels, classes - 1)
    return (logits.gather(1, rivals) - logits.gather(1, goal.labels[:, None])).unbind(1)


def polish(
    oracle: Oracle, x: Images, found: Images, goal: Goal, norm: Norm, box: Box | None, rounds: int, which: Indices
) -> Images:
    """Successes `found` brought nearer to `x`.

    A round linearises the margin where the image is and tries the nearest point of that boundary. Where that fails, the
    way back to the image is halved 5 times; L0 halves the number of changed entries 10 times, keeping those that the
    linearised margin owes most to.
    Cost per round: 1 gradient pass and at most 7 forward passes, L0 12.
    """
    for _ in range(rounds if len(which) else 0):
        logits, value, slope = oracle.gradient(found, partial(Margin(), goal=goal), which)
        delta = found - x
        owed = slope * delta
        near = x + onto_plane(norm, x, slope, beyond(owed.flatten(1).sum(1) - value, logits), box)
        near = within(near, box)
        shorter = torch.where(norm.size(near - x) < norm.size(delta))[0]
        reached = clearly(goal[shorter], oracle.logits(near[shorter], which[shorter]))
        best = found.index_copy(0, shorter[reached], near[shorter[reached]])
        if norm is L0:
            rest = torch.where((best == found).flatten(1).all(1))[0]
            least = torch.where(delta == 0, torch.inf, -owed)[rest].flatten(1)
            rank = least.argsort(dim=1, stable=True).argsort(1).reshape(found[rest].shape)
            path = partial(_fewer, x[rest], found[rest], rank)
        else:
            rest = shorter[~reached]
            path = partial(_between, near[rest], found[rest], box)
        share = _halve(oracle, path, goal[rest], 10 if norm is L0 else 5, found[rest], which[rest])
        best[rest] = path(share)
        found = best
    return found


def _between(near: Images, found: Images, box: Box | None, share: Tensor) -> Images:
    return within(torch.lerp(near, found, share), box)


def _fewer(x: Images, found: Images, rank: Tensor, share: Tensor) -> Images:
    """`found` with only that share of its changed entries, those of lowest rank."""
    kept = (share * column((found != x).flatten(1).sum(1).to(x.dtype), x)).ceil()
    return torch.where(rank < kept, found, x)


def _halve(
    oracle: Oracle, path: Callable[[Tensor], Images], goal: Goal, halvings: int, end: Images, which: Indices
) -> Tensor:
    """The smallest share of a path that still succeeds; 0 fails, and 1 is the success `end`."""
    enough = column(end.new_ones(len(end)), end)
    failed = torch.zeros_like(enough)
    for _ in range(halvings if len(which) else 0):
        middle = (failed + enough) / 2
        reached = column(clearly(goal, oracle.logits(path(middle), which)), end)
        failed, enough = torch.where(reached, failed, middle), torch.where(reached, middle, enough)
    return enough
