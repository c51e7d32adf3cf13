"""Linearised decision boundaries: which of them is nearest, and the shortest step onto it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.attacks.core import Oracle
from steelman.losses import Goal, other_logits, top_rivals
from steelman.norms import L1, L2, TINY, Linf
from steelman.types import Box, Images, Indices, Logits, PerImage, Rows

EXPONENT = {Linf: math.inf, L2: 2.0, L1: 1.0}
"""The p of an L_p norm. In L0, a plane has no distance."""


def size(delta: Images, p: float) -> PerImage:
    return torch.linalg.vector_norm(delta.flatten(1), p, dim=1)


def shortest_step(x: Images, slope: Images, gap: PerImage, p: float, box: Box | None) -> Images:
    """The smallest d in L_p with <slope, d> = -gap and x + d in the box; as far as the box goes where there is none.

    With w = |slope| and 1/p + 1/q = 1, the step is |d_i| = min(t w_i^(q - 1), room_i), by Lagrange. What that gains,
    sum_i w_i |d_i|, is concave and piecewise linear in t, so Newton's method from below ends exactly after a few
    rounds, without sorting. In L1 (q infinite), the steepest entries go as far as they can, in order.
    """
    w = slope.flatten(1)
    way = -w.sign() * gap.sign()[:, None]
    w, top = w.abs(), w.abs().amax(1, keepdim=True)
    w = w / top.clamp(min=torch.finfo(w.dtype).tiny)  # squares of tiny or huge slopes would leave the range of floats
    need = torch.where(top > 0, gap.abs()[:, None] / top, 0).clamp(max=torch.finfo(w.dtype).max)
    if box is None:
        room = torch.full_like(w, torch.inf)
    else:
        flat = x.flatten(1)
        room = torch.where(way > 0, box[1] - flat, flat - box[0])
    length = _greedy(w, need, room) if p == 1 else _evenly(w, need, room, 1 / (p - 1), box is not None)
    return (way * length).reshape(x.shape)


def _evenly(w: Tensor, need: Tensor, room: Tensor, power: float, bounded: bool) -> Tensor:
    v = w if power == 1 else w**power
    gain = w * v
    t = need / gain.sum(1, keepdim=True).clamp(min=TINY)
    if not bounded:
        return t * v
    most = w * room
    while True:
        full = t * v >= room
        rest = gain.masked_fill(full, 0).sum(1, keepdim=True)
        used = (most * full).sum(1, keepdim=True)
        further = torch.where(rest > 0, (need - used) / rest, t).maximum(t)
        if bool((further <= t).all()):
            return torch.minimum(t * v, room)
        t = further


def _greedy(w: Tensor, need: Tensor, room: Tensor) -> Tensor:
    steep, order = w.sort(dim=1, descending=True, stable=True)
    most = torch.where(steep > 0, steep * room.gather(1, order), 0)
    before = torch.nn.functional.pad(most.cumsum(1)[:, :-1], (1, 0))
    gain = torch.minimum((need - before).clamp(min=0), most)
    return torch.zeros_like(w).scatter(1, order, gain / steep.clamp(min=torch.finfo(w.dtype).tiny))


@dataclass(frozen=True)
class Boundaries(Rows):
    """The boundaries between each image's own class and its rivals, linearised where they may be the nearest.

    A rival costs a gradient. All take part at first; later, in the order of their distances by their last slopes, those
    that so seem nearer than `slack` times the nearest.
    """

    rivals: Tensor
    """Classes, of shape (batch, rivals)."""

    steepness: Tensor
    """Change of the logits per distance at the last slope, of the same shape; infinite before."""

    p: float
    box: Box | None
    """Where steps stay; None lets them leave."""

    slack: float

    outwards: bool = False
    """Whether to step away from the own class also where the boundary has been crossed: |f| in place of f."""

    @staticmethod
    def around(
        rivals: Tensor, like: Images, p: float, box: Box | None, slack: float, *, outwards: bool = False
    ) -> "Boundaries":
        unseen = torch.full(rivals.shape, torch.inf, dtype=like.dtype, device=like.device)
        return Boundaries(rivals, unseen, p, box, slack, outwards)

    def nearest(self, oracle: Oracle, x: Images, goal: Goal, which: Indices) -> tuple[PerImage, Images, Images]:
        """Gap Z_rival - Z_own, its slope, and the shortest step onto the nearest boundary."""
        here, gaps = self._gaps(oracle, x, self.rivals, goal, which)
        guess, order = (gaps.detach().abs() / self.steepness).sort(dim=1, stable=True)
        distance = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        gap, slope, step = torch.zeros_like(distance), torch.zeros_like(x), torch.zeros_like(x)
        rows = torch.arange(len(x), device=x.device)  # of the images in the graph
        for turn in range(order.shape[1]):
            wanted = guess[rows, turn] < self.slack * distance[rows]
            count = int(wanted.sum())
            if count == 0:
                break
            if 2 * count < len(rows):  # a new graph for the few is cheaper than a gradient for all
                rows = rows[wanted]
                here, gaps = self._gaps(oracle, x[rows], self.rivals[rows], goal[rows], which[rows])
                wanted = wanted[wanted]
            column = order[rows, turn]
            # One gradient at a time: on LeNet, one batched backward pass takes 1.2 times as long, and stacked copies of
            # the batch take 2 to 4 times as long.
            with torch.enable_grad():
                value = gaps.gather(1, column[:, None])[:, 0]
            w = oracle.backward(value, here, which[rows], keep=True)
            value = -value.detach().abs() if self.outwards else value.detach()
            d = shortest_step(x[rows], w, value, self.p, self.box)
            gained = (w * d).flatten(1).sum(1).abs()
            length = size(d, self.p) * (value.abs() / gained.clamp(min=TINY))
            self.steepness[rows[wanted], column[wanted]] = (value.abs() / length)[wanted]
            nearer = wanted & (length < distance[rows])
            better = rows[nearer]
            distance[better], gap[better] = length[nearer], value[nearer]
            slope[better], step[better] = w[nearer], d[nearer]
        return gap, slope, step

    def _gaps(self, oracle: Oracle, x: Images, rivals: Tensor, goal: Goal, which: Indices) -> tuple[Images, Logits]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = oracle.logits(x, which)
            own = goal.labels if goal.target is None else other_logits(logits, goal.target).argmax(1)
            return x, logits.gather(1, rivals) - logits.gather(1, own[:, None])


def rivals(logits: Logits, goal: Goal, classes: int) -> Tensor:
    """The target, or the highest classes but the label; of shape (batch, rivals)."""
    if goal.target is not None:
        return goal.target[:, None]
    return top_rivals(logits, goal.labels, classes - 1)
