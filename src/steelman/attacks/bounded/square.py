"""Random search over squares of the image, from scores alone."""

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from steelman.attacks.core import Access, Attack, Best, Draws, Oracle
from steelman.losses import CrossEntropy, Goal, Margin
from steelman.norms import L2, TINY, Linf, Norm
from steelman.ranges import Count, OneOf
from steelman.types import Box, Images, Indices, Logits, PerImage, Radius, Rows, Share

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, out of 10,000, after which the share of pixels in a square is halved."""

_AT_ONCE = 64
"""Queries whose random numbers are drawn together, since drawing for few images costs as much as for many."""


@dataclass(frozen=True)
class Square(Attack):
    """Square attack: change one square at a time, and keep changes that raise the loss; scores only, no gradients.

    Linf: from vertical stripes x +- eps, a square at a random place is set to +eps or -eps, a sign per channel, clipped
    to the box. L2: from a grid of tiles, one window takes over the perturbation of another and the unused part of eps,
    as a bump with two halves of opposite sign added to its own perturbation; then the whole is scaled to the norm eps
    and clipped. The loss is the margin, or cross-entropy towards a target. A success is always kept.

    eps          radius, one number or one per image (default 8/255)
    norm         Linf (default) or L2
    queries      most forward passes per restart, default 5000 (AutoAttack; paper: 10,000)
    p_init       first share of pixels in a square, default .8 (AutoAttack; paper: .05 for Linf, .1 for L2); halved
                 after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 queries
    rescale      these counts are for 10,000 queries, and are scaled to `queries` (default True, as the paper; the
                 authors' AutoAttack takes them as they are)
    restarts     default 1
    stop_early   images that reach the goal leave the batch at once (default True, as paper and code); False goes on
                 raising the loss

    Each image has squares of its own; the authors' code takes one place for the whole batch in each step, and never
    changes the last row and column. A Linf square that would change nothing has its signs turned (paper: they are drawn
    again until something changes; AutoAttack's code spends the query). Images need not be square: no square is larger
    than the shorter side. Images of shape (batch, height, width) have one channel.

    Cost: at most `queries` forward passes per restart, no gradient.
    Reference: Maksym Andriushchenko, Francesco Croce, Nicolas Flammarion and Matthias Hein, "Square Attack: a
    query-efficient black-box adversarial attack via random search", ECCV 2020, algorithms 1 to 4.

    Raises:
        ValueError: L1 and L0; images without height and width.
    """

    access: ClassVar[Access] = "scores"

    eps: Radius = Share(8 / 255)
    norm: Annotated[Norm, OneOf((Linf, L2))] = Linf
    queries: Count = 5000
    p_init: Annotated[float, Interval(gt=0, le=1)] = 0.8
    rescale: bool = True
    restarts: Count = 1
    stop_early: bool = True

    def check_input(self, x: Images, targeted: bool, classes: int | None) -> None:
        if x.ndim < 3:
            raise ValueError(
                f"Square needs images of shape (batch, channels, height, width); got {tuple(x.shape)}. Reshape them, "
                "and let the model flatten"
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        best = Best.nothing(x)
        eps = torch.as_tensor(self.eps, dtype=x.dtype, device=x.device).expand(len(x))
        for restart in range(self.restarts):
            which = best.unfinished(self.stop_early)
            if len(which) == 0:
                break
            best.take(which, self._run(oracle, x[which], eps[which], goal[which], draws.split(restart)[which], which))
        return self.norm.contain(x, best.x, self.eps, self.box)

    def _run(self, oracle: Oracle, x: Images, eps: PerImage, goal: Goal, draws: Draws, which: Indices) -> Best:
        best = Best.nothing(x)
        grid = x.reshape(len(x), -1, *x.shape[-2:])
        place = torch.arange(len(x), device=x.device)  # of the images still in the batch
        moves = (_Signs if self.norm is Linf else _Windows).around(grid, eps, self.box)
        corner, coin, sides = place, place, [0]
        for query in range(self.queries):
            if query == 0:
                image = moves.start(draws.split(0))
            else:
                turn = (query - 1) % _AT_ONCE
                if turn == 0:
                    sides = [moves.side(self._share(later)) for later in range(query, query + _AT_ONCE)]
                    numbers = 2 * moves.windows + moves.coins + grid.shape[1]
                    chance = draws[place].split(query).uniform((_AT_ONCE, numbers), x.dtype)
                    corner = _corners(chance[..., : 2 * moves.windows], sides, grid.shape[-2:])
                    coin = chance[..., 2 * moves.windows :] < 0.5
                image = moves.propose(corner[:, turn], coin[:, turn], sides[turn])
            logits = oracle.logits(image.reshape(-1, *x.shape[1:]), which[place])
            here = Best(image.reshape(-1, *x.shape[1:]), goal.reached(logits), self._loss(logits, goal))
            better = best.take(place, here)
            moves.now[better] = image[better]
            if self.stop_early and bool(here.success.any()):
                stay = torch.where(~here.success)[0]
                place, goal, moves, corner, coin = place[stay], goal[stay], moves[stay], corner[stay], coin[stay]
                if len(stay) == 0:
                    break
        return best

    def _loss(self, logits: Logits, goal: Goal) -> PerImage:
        return (Margin() if goal.target is None else CrossEntropy())(logits, goal)

    def _share(self, query: int) -> float:
        """The share of the pixels that a square has."""
        count = (query - 1) * 10_000 // self.queries if self.rescale else query - 1
        return self.p_init / 2 ** sum(count > after for after in _HALVINGS)


@dataclass(frozen=True)
class _Signs(Rows):
    """Linf: every entry at the lower or upper end of what ball and box allow."""

    windows: ClassVar[int] = 1
    coins: ClassVar[int] = 0

    now: Tensor
    ends: Tensor
    """The lowest and highest image, of shape (batch, 2, channels, height, width)."""

    @staticmethod
    def around(x: Tensor, eps: PerImage, box: Box | None) -> "_Signs":
        return _Signs(x.clone(), torch.stack(Linf.bounds(x, eps, box), 1))

    def start(self, draws: Draws) -> Tensor:
        """Vertical stripes."""
        channels, width = self.now.shape[1], self.now.shape[3]
        high = draws.uniform((channels, 1, width)) < 0.5
        return torch.where(high, self.ends[:, 1], self.ends[:, 0])

    def side(self, share: float) -> int:
        height, width = self.now.shape[2:]
        return min(max(round((share * height * width) ** 0.5), 1), height, width)

    def propose(self, corner: Tensor, coin: Tensor, side: int) -> Tensor:
        window = _window(corner[:, 0], side, self.now)
        low_end, high_end = self.ends.flatten(3).gather(3, window[:, None].expand(-1, 2, -1, -1)).unbind(1)
        high, now = coin[..., None], self.now.flatten(2)
        same = (torch.where(high, high_end, low_end) == now.gather(2, window)).flatten(1).all(1)
        wanted = torch.where(high ^ same[:, None, None], high_end, low_end)
        return now.scatter(2, window, wanted).reshape(self.now.shape)


@dataclass(frozen=True)
class _Windows(Rows):
    """L2: the norm of the perturbation is eps, less what the box cuts off."""

    windows: ClassVar[int] = 2
    coins: ClassVar[int] = 1

    now: Tensor
    x: Tensor
    eps: PerImage
    box: Box | None

    @staticmethod
    def around(x: Tensor, eps: PerImage, box: Box | None) -> "_Windows":
        return _Windows(x.clone(), x, eps, box)

    def start(self, draws: Draws) -> Tensor:
        """Five by five tiles, or fewer in small images, each a bump with a sign per channel."""
        channels, height, width = self.x.shape[1:]
        side = max(min(height, width) // 5, 1)
        down, across = min(height // side, 5), min(width // side, 5)
        sign = 1 - 2 * (draws.uniform((channels, down, across, 1, 1)) < 0.5).to(self.x.dtype)
        turned = draws.split(1).uniform((1, down, across, 1, 1)) < 0.5
        tiles = sign * torch.where(turned, _bump(side, self.x).T, _bump(side, self.x))
        whole = tiles.transpose(3, 4).reshape(len(self.x), channels, down * side, across * side)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        spare = (left, width - across * side - left, top, height - down * side - top)
        return self._within(F.pad(whole, spare))

    def side(self, share: float) -> int:
        height, width = self.x.shape[2:]
        side = min(max(round((share * height * width) ** 0.5), 3), height, width)
        return side if side % 2 else min(side + 1, min(height, width) - 1 + min(height, width) % 2)

    def propose(self, corner: Tensor, coin: Tensor, side: int) -> Tensor:
        channels = self.x.shape[1]
        into, out_of = _window(corner[:, 0], side, self.x), _window(corner[:, 1], side, self.x)
        delta = (self.now - self.x).flatten(2)
        held = delta.gather(2, into)
        rest = delta.scatter(2, into, 0).scatter(2, out_of, 0)
        square = delta.square().sum(2, keepdim=True)
        unused = (self.eps[:, None, None].square() - square.sum(1, keepdim=True)).clamp(min=0)
        free = square - rest.square().sum(2, keepdim=True) + unused / channels
        bump = _bump(side, self.x)
        bump = torch.where(coin[:, :1], bump.T.flatten(), bump.flatten())[:, None]
        sign = 1 - 2 * coin[:, 1:, None].to(self.x.dtype)
        fresh = _unit(sign * bump + _unit(held)) * free.clamp(min=0).sqrt()
        return self._within(rest.scatter(2, into, fresh).reshape(self.x.shape))

    def _within(self, delta: Tensor) -> Tensor:
        delta = L2.steepest(delta) * self.eps.reshape(-1, 1, 1, 1)
        moved = self.x + delta
        return moved if self.box is None else moved.clamp(*self.box)


def _unit(window: Tensor) -> Tensor:
    return window / torch.linalg.vector_norm(window, dim=2, keepdim=True).clamp(min=TINY)


def _corners(chance: Tensor, sides: list[int], size: torch.Size) -> Tensor:
    """Where in a flat channel each window begins, of shape (batch, turns, windows)."""
    room = torch.tensor([[length - side for length in size] for side in sides], device=chance.device)[:, None]
    top, left = (chance.unflatten(2, (-1, 2)) * (room + 1)).long().minimum(room).unbind(3)
    return top * size[1] + left


def _window(corner: Tensor, side: int, like: Tensor) -> Tensor:
    """The places in a flat channel of the pixels of each image's square, of shape (batch, channels, side * side)."""
    channels, _, width = like.shape[1:]
    return (corner[:, None] + _square(side, width, like.device))[:, None].expand(-1, channels, -1)


@lru_cache(maxsize=4)
def _square(side: int, width: int, device: torch.device) -> Tensor:
    step = torch.arange(side, device=device)
    return (step[:, None] * width + step).flatten()


def _bump(side: int, like: Tensor) -> Tensor:
    """A positive half above a negative one, each a pyramid of frames of weight 1 / (frame + 1)^2; of norm 1."""
    halves = [_pyramid(side // 2, side), -_pyramid(side - side // 2, side)]
    bump = torch.cat(halves)
    return (bump / bump.norm()).to(like)


@cache
def _pyramid(height: int, width: int) -> Tensor:
    down = (torch.arange(height, dtype=torch.float64) - height // 2).abs()
    across = (torch.arange(width, dtype=torch.float64) - width // 2).abs()
    frame = torch.maximum(down[:, None], across[None])
    most = max(height, width) // 2
    weight = torch.arange(1, most + 2, dtype=torch.float64).pow(-2).flip(0).cumsum(0).flip(0)
    pyramid = weight[frame.long().clamp(max=most)]
    return pyramid / pyramid.norm().clamp(min=TINY)
