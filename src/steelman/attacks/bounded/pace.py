"""How APGD steps: how far, along what, and what becomes of both at its checkpoints."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.attacks.core import Ball
from steelman.norms import L0, inward
from steelman.types import Flags, Images, Indices, PerImage


@dataclass
class Halving:
    """The pace in Linf and L2: full steps with momentum, halved where they stop paying."""

    length: Tensor
    """Of shape (batch, 1, ..., 1)."""
    last: PerImage
    """The loss at the present image."""
    rises: Tensor
    """Steps since the last checkpoint that raised the loss."""
    checked: PerImage
    """The highest loss at the last checkpoint."""
    halved: Flags
    """Whether the last checkpoint halved the step."""

    @staticmethod
    def start(ball: Ball) -> "Halving":
        infinite = ball.x.new_full((len(ball.x),), torch.inf)
        none = torch.zeros_like(infinite, dtype=torch.int64)
        return Halving(2 * ball.eps.to(ball.x.dtype), infinite, none, -infinite, none.bool())

    def __getitem__(self, which: Indices) -> "Halving":
        return Halving(self.length[which], self.last[which], self.rises[which], self.checked[which], self.halved[which])

    @staticmethod
    def checkpoints(steps: int) -> list[int]:
        """w_j = ceil(p_j steps), p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06), in whole per cent."""
        shares, gap = [22], 22
        while shares[-1] < 100:
            gap = max(gap - 3, 6)
            shares.append(shares[-1] + gap)
        return sorted({-(-share * steps // 100) for share in shares if share < 100})

    def saw(self, loss: PerImage) -> None:
        self.rises += loss > self.last  # no loss is above infinity, so the start is no rise
        self.last = loss

    def check(self, ball: Ball, best: Images, highest: PerImage, enough: float) -> Flags:
        """Halve the step where fewer than `enough` of the last steps have paid; those go back to their best image."""
        stuck = ~self.halved & (self.checked == highest)
        self.halved = (self.rises < enough) | stuck
        self.length = torch.where(self.halved.reshape(self.length.shape), self.length / 2, self.length)
        self.last = torch.where(self.halved, highest, self.last)
        self.checked, self.rises = highest.clone(), torch.zeros_like(self.rises)
        return self.halved

    def step(self, ball: Ball, x: Images, old: Images | None, slope: Images) -> Images:
        """From `x`, to which the last step has led from `old`."""
        moved = ball.climb(x, slope, self.length)
        if old is None:
            return moved
        return ball.nearest(moved.mul_(0.75).add_(x, alpha=0.5).sub_(old, alpha=0.25))


@dataclass
class Sparse:
    """The pace in L1: equal steps along the `count` steepest entries, which become fewer as the best image's do."""

    length: Tensor
    count: Tensor
    """Entries that a step changes."""
    support: Tensor
    """Entries in which the best image differed from the clean one at the last checkpoint."""

    @staticmethod
    def start(ball: Ball, x: Images, *, random: bool) -> "Sparse":
        """From a random image, or from `x`, which another climb has led to."""
        pixels = x[0].numel()
        support = torch.full((len(x),), pixels, device=x.device) if random else _support(x, ball)
        return Sparse(ball.eps.to(x.dtype), (support / (5.0 if random else 1.5)).ceil().long().clamp(min=1), support)

    def __getitem__(self, which: Indices) -> "Sparse":
        return Sparse(self.length[which], self.count[which], self.support[which])

    @staticmethod
    def checkpoints(steps: int) -> list[int]:
        every = max(steps // 25, 1)
        return list(range(every, steps, every))

    def saw(self, loss: PerImage) -> None:
        """Losses play no part in this pace."""

    def check(self, ball: Ball, best: Images, highest: PerImage, enough: float) -> Flags:
        """Fewer entries where the best image needs fewer; those go back to it. Elsewhere shorter steps."""
        support = _support(best, ball)
        fewer = support < 0.95 * self.support
        longest = ball.eps.to(best.dtype)
        shorter = torch.maximum(self.length / 1.5, longest / 10)
        self.length = torch.where(fewer.reshape(shorter.shape), longest, shorter)
        self.count, self.support = (support / 1.5).ceil().long().clamp(min=1), support
        return fewer

    def step(self, ball: Ball, x: Images, old: Images | None, slope: Images) -> Images:
        slope = inward(slope, x, ball.box).flatten(1)
        steep = slope.abs()
        least = steep.topk(int(self.count.max()), dim=1).values.gather(1, self.count[:, None] - 1)
        way = torch.where(steep >= least, slope.sign(), 0)
        way = way / way.abs().sum(1, keepdim=True).clamp(min=1)
        return ball.nearest(way.reshape(x.shape).mul_(self.length).add_(x))  # in place: lengths are double


def _support(x: Images, ball: Ball) -> Tensor:
    return L0.size(x - ball.x).long()
