"""Steps up a loss within a ball: the loop that PGD, MIM and AN-PGD share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.attacks.core import Ball, Best, Oracle
from steelman.losses import Goal, Loss, margin
from steelman.norms import column
from steelman.types import Images, Indices, Logits, PerImage, Rows, blocks_of, in_blocks


@dataclass(frozen=True)
class AscentState(Rows):
    """The rows that climb together: each is one turn (a restart, a target) of one image; a turn's rows are adjacent."""

    which: Indices
    """The place of a row's image in the whole batch."""
    turn: Indices
    ball: Ball
    step_size: Tensor
    goal: Goal
    """What counts as success."""
    aim: Goal
    """The goal of the loss, which may be one wrong class of many."""

    @staticmethod
    def of(ball: Ball, step_size: Tensor, goal: Goal) -> "AscentState":
        """One turn of every image."""
        which = torch.arange(len(ball.x), device=ball.x.device)
        return AscentState(which, torch.zeros_like(which), ball, step_size, goal, goal)


@dataclass(frozen=True)
class Ascent:
    """How to climb; the fields are those of PGD and MIM."""

    steps: int
    loss: Loss
    decay: float | None = None
    """Of the momentum; None: no momentum."""
    keep_best: bool = False
    stop_early: bool = False
    judge: bool = False
    """Whether the last iterate is compared with others, which takes one forward pass more."""
    by_margin: bool = False
    """Compare by the margin, since the loss differs with the target."""

    def climb(self, oracle: Oracle, rows: AscentState, x: Images) -> Best:
        """From `x` on. A last iterate that is not judged is returned without success and score."""
        judged = self.keep_best or self.stop_early or self.judge
        best, velocity = Best.nothing(x if judged else x[:0]), x
        place = torch.arange(len(x), device=x.device)  # of the rows still in the batch
        broken = torch.full((int((rows.turn == rows.turn[0]).sum()),), torch.iinfo(torch.int64).max, device=x.device)
        whole = len(broken) == len(x) == len(oracle.goal.labels)
        for step in range(self.steps + self.judge):
            last = step == self.steps
            which = None if whole else rows.which
            if last:
                logits, gradient = oracle.logits(x, which), x
                loss = self.loss(logits, rows.aim)
            else:
                logits, loss, gradient = oracle.ascent(x, self.loss, rows.aim, which)
            if self.keep_best or last:
                best.take(place, self._judged(x, logits, loss, rows))
            if self.stop_early and bool((hit := rows.goal.reached(logits)).any()):
                done = torch.where(hit)[0]
                best.take(place[done], self._judged(x[done], logits[done], loss[done], rows[done]))
                # An image that a turn has broken leaves all later turns, whose answers are not used.
                image = place % len(broken)
                broken.scatter_reduce_(0, image[done], rows.turn[done], "amin")
                stay = torch.where(~hit & (rows.turn < broken[image]))[0]
                if len(stay) == 0:
                    return best
                whole = whole and len(stay) == len(place)
                place, rows, x, gradient, velocity = place[stay], rows[stay], x[stay], gradient[stay], velocity[stay]
            if not last:
                if self.decay is not None:
                    velocity = _gathered(gradient, velocity if step else None, self.decay)
                    gradient = velocity
                x = rows.ball.climb(x, gradient, rows.step_size)
        if not judged:
            nothing = x.new_full((len(x),), -torch.inf)
            return Best(x if self.steps else x.clone(), nothing.isfinite(), nothing)
        if not self.judge:
            best.x[place] = x
        return best

    def _judged(self, x: Images, logits: Logits, loss: PerImage, rows: AscentState) -> Best:
        return Best(x, rows.goal.reached(logits), margin(logits, rows.goal.labels) if self.by_margin else loss)


def _gathered(gradient: Images, velocity: Images | None, decay: float) -> Images:
    """decay * velocity + gradient / mean|gradient|; a velocity that is given is written into."""
    if velocity is None:
        return in_blocks(_scaled, gradient)
    for some, slope in blocks_of(velocity, gradient):
        some.mul_(decay).add_(_scaled(slope))
    return velocity


def _scaled(gradient: Images) -> Images:
    mean = column(gradient.flatten(1).abs().mean(1), gradient)
    return gradient / (mean + (mean == 0))
