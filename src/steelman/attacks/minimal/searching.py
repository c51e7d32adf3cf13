"""How minimal-norm attacks begin and end: images at the goal come back as they are, the others are searched."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from steelman.attacks.core import Attack, Oracle
from steelman.attacks.minimal.nearest import beyond, clearly, clip, onto_plane, polish
from steelman.losses import Goal, Margin, top_rivals
from steelman.norms import TINY, Norm, column
from steelman.randomness import Draws
from steelman.types import Box, Flags, Images, Indices, Logits, PerImage, Rows

AGAIN = 20
"""The least gradient passes of a second search, whose images a short one has failed on."""


@dataclass(frozen=True)
class Successes(Rows):
    """The nearest success of each image so far, and its size: the image itself and infinity where there is none."""

    x_adv: Images
    size: PerImage

    @staticmethod
    def none(x: Images) -> "Successes":
        return Successes(x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device))

    def keep(self, x: Images, size: PerImage, success: Flags, which: Indices | None = None) -> Tensor:
        """Keep the successes that are nearer than before. `x` belongs to the images `which`; returns those kept."""
        rows = torch.where(success & (size < (self.size if which is None else self.size[which])))[0]
        kept = rows if which is None else which[rows]
        self.x_adv[kept], self.size[kept] = x[rows], size[rows]
        return kept

    def take(self, other: "Successes", which: Indices | None = None) -> Tensor:
        """Keep those of `other`, which belong to the images `which`, that are nearer."""
        return self.keep(other.x_adv, other.size, other.size.isfinite(), which)


@dataclass(frozen=True)
class Remaining(Rows):
    """The images of a batch that are not at the goal to begin with.

    which  their places in the batch
    start  the images, moved onto the nearest of their linearised boundaries, or as they are
    spent  the gradient passes that `start` has cost; 0 where nothing has moved
    best   the successes of the search
    """

    oracle: Oracle
    x: Images
    goal: Goal
    which: Indices
    start: Images
    spent: int
    best: Successes

    def clearly(self, image: Images) -> Flags:
        """Where the goal is reached by more than rounding; 1 forward pass."""
        return clearly(self.goal, self.oracle.logits(image, self.which))

    def attacked(self, attack: Attack, draws: Draws) -> Images:
        """The images after another attack, whose passes are counted; `draws` are those of the whole batch."""
        with self.oracle.part(self.which, self.goal) as part:
            return attack.search(part, self.x, self.goal, draws[self.which])

    def descend(self, search: "Search", start: Images, steps: int, rounds: int) -> Images:
        """A search from `start`; where it fails, because that is too far away, one more from the images themselves.

        `steps` counts the gradient passes of a search, of its start and of `rounds` of polish, but a search has at
        least half of them, and the second one at least `AGAIN`.
        """
        search(self, start, left_over(steps, self.spent + rounds))
        failed = torch.where(self.best.size.isinf())[0]
        if self.spent and len(failed):
            again = self[failed]
            search(again, again.x, max(left_over(steps, rounds), AGAIN))
            self.best.take(again.best, failed)
        return self.best.x_adv


Search: TypeAlias = Callable[[Remaining, Images, int], None]
"""A search from the given images, with so many gradient passes. Its successes go into `best`."""


def search_remaining(
    attack: Attack,
    oracle: Oracle,
    x: Images,
    goal: Goal,
    search: Callable[[Remaining], Images],
    *,
    classes: int = 0,
    rounds: int,
    reached: Callable[[Goal, Logits], Flags] = Goal.reached,
) -> Images:
    """The successes of a search for images that have not `reached` the goal, after `rounds` of polish; others stay `x`.

    The search returns its images themselves where it has no success. With 2 `classes` or more, it may begin at
    `linearised_start`.
    """
    norm, start, spent = attack.measured_in, x, 0
    assert norm is not None
    if classes < 2:
        logits = oracle.logits(x)
    else:
        start, logits, spent = linearised_start(oracle, x, goal, norm, attack.box, classes)
    x_adv, which = x.clone(), torch.where(~reached(goal, logits))[0]
    if len(which):
        x, goal = x[which], goal[which]
        moved = search(Remaining(oracle, x, goal, which, start[which], spent, Successes.none(x)))
        x_adv[which] = polish(oracle, x, moved, goal, norm, attack.box, rounds, which)
    return x_adv


def linearised_start(
    oracle: Oracle, x: Images, goal: Goal, norm: Norm, box: Box | None, classes: int
) -> tuple[Images, Logits, int]:
    """The images, moved onto the nearest of their linearised boundaries, their logits before that, and the gradient
    passes that it took.

    The `classes` highest logits compete, the label among them; with a target, only that.
    Cost: 1 forward and at most classes - 1 gradient passes.
    """
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
    return clip(moved, box), logits, len(gaps)


def left_over(steps: int, spent: int) -> int:
    """What a start and a polish leave of a number of gradient passes: at least half."""
    return max(steps - spent, (steps + 1) // 2)


def _gaps(logits: Logits, goal: Goal, classes: int) -> tuple[PerImage, ...]:
    """Z_k - Z_y for the highest rivals; with a target, Z_t minus the highest other."""
    if goal.target is not None:
        return (Margin()(logits, goal),)
    rivals = top_rivals(logits, goal.labels, classes - 1)
    return (logits.gather(1, rivals) - logits.gather(1, goal.labels[:, None])).unbind(1)
