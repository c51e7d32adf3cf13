"""Projected gradient ascent with adaptive step sizes."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from steelman.attacks.bounded.targets import NEAREST_OF, FirstLook, Order, along, directions, ranked
from steelman.attacks.core import Attack, Ball, Best, Draws, Oracle
from steelman.losses import CrossEntropy, Goal, Loss, Margin
from steelman.naming import LATER
from steelman.norms import L0, L1, L2, Linf, Norm, inward
from steelman.ranges import Count, Natural, OneOf
from steelman.types import Flags, Images, Indices, PerImage, Radius, Rows, Share


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD: gradient ascent with momentum whose step is halved, from the best image so far, when the loss stalls.

    z = P(x_t + h d(grad L(x_t))), x_{t+1} = P(x_t + a (z - x_t) + (1 - a)(x_t - x_{t-1})), where P projects onto ball
    and box, d is the steepest direction, a is .75 (1 in the first step) and h starts at 2 eps. At checkpoints, after
    22, 41, 57, 70, 80, 87, 93 and 99 % of the steps, an image's h is halved and its x_t set back to its best so far if
    fewer than rho of the steps since the last checkpoint raised the loss, or if neither h nor the highest loss has
    changed since. Returned is the iterate that reached the goal, and of several, or if none did, the one of the highest
    loss.

    L1 has steps of length h along the signs of the k largest entries of the gradient, without momentum; h starts at
    eps and k at a fifth of the pixels. Every 4 % of the steps, k becomes the number of pixels that the best image so
    far has changed, over 1.5; where that number has fallen by more than 5 %, h is eps again and x_t the best so far,
    elsewhere h is divided by 1.5, down to eps / 10.

    eps           radius, one number or one per image (default 8/255)
    norm          Linf (default), L2, L1
    steps         default 100 (paper)
    restarts      default 1; each from another random start, the best kept per image
    loss          cross-entropy (default) or DLR()
    targets       0 (default): untargeted, or towards the given target. Otherwise, without a given target, that many of
                  the wrong classes with the highest logits at x are attacked in turn, each as a target, and the image
                  with the highest margin is kept; 9 with loss=DLR() is the paper's APGD-T
    rho           default .75 (paper and code)
    multi_eps     the first 30 % of the steps in a ball of 3 eps, 30 % in 2 eps, each starting from the best of the last
                  (default False; "Mind the box" advises it for L1, and the authors' AutoAttack does it there)
    stop_early    images that reach the goal leave the batch at once (default False). It changes no success into a
                  failure; use it to measure accuracy
    order         of the targets: "logits" (default), or "linearised", by distance to a boundary that were a plane:
                  (Z_y - Z_t) / |grad(Z_t - Z_y)|_q at x, with q dual to the norm (MALT), the nearest first. Of the 20
                  highest wrong classes (MALT: 100)
    first_target  rank of the first target in that order (default 1): targets=6, first_target=4 attacks ranks 4 to 9
    adi           steps of A3's adaptive direction initialisation after each random start (default 0; A3: 7):
                  x = P(x + eps d(grad <w, Z>)) with random w per image: .8 for the target, uniform on [-.5, .1] for the
                  label and on [-1, 1] for the others. Without targets, restart r starts towards the rival of rank r at
                  x. Images that reach the goal on the way count

    Where paper and code differ: a checkpoint compares with < as the paper, not <=; the code counts the loss before the
    first step as 0. Ours: P is exact for L2, where both project onto the ball and then clip; entries that are at the
    box and would leave it are left out of the direction; the last step goes to the best point of ball and box for the
    gradient at the best image so far, without which L2 at the box and L1 stop short of the optimum of affine models.

    Where the paper and the code of A3 turn w by what has succeeded on the batch before, ours is as before the first
    success, so that an image's answer does not depend on others.

    Where the remaining images fit into the batch more than once, their restarts and targets run side by side, which
    changes no answer.

    Cost: adi + steps + 1 forward and adi + steps gradient passes per restart and target; 1 forward more with targets
    or adi, and 1 gradient for each wrong class, at most 20, with order="linearised".
    Reference: Francesco Croce and Matthias Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020, algorithm 1; Francesco Croce and Matthias Hein, "Mind the box:
    l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021, algorithm 1; Odelia Melamed, Gilad Yehudai
    and Adi Shamir, "MALT powers up adversarial attacks", NeurIPS 2024, section 3 (the linearised order); Ye Liu, Yaya
    Cheng, Lianli Gao, Xianglong Liu, Qilong Zhang and Jingkuan Song, "Practical evaluation of adversarial robustness
    via adaptive auto attack", CVPR 2022, section 3.2 (the start).

    Raises:
        ValueError: L0, a loss that compares with the clean logits, DLR with too few classes; a first target that the
            model has not, or that is beyond the 20 that are ordered by distance.
    """

    eps: Radius = Share(8 / 255)
    norm: Annotated[Norm, OneOf((Linf, L2, L1), "For L0 use PGD(norm=L0)")] = Linf
    steps: Count = 100
    restarts: Count = 1
    loss: Loss = field(default_factory=CrossEntropy)
    targets: Natural = 0
    rho: Annotated[float, Interval(gt=0, le=1)] = 0.75
    multi_eps: bool = False
    stop_early: bool = False
    order: Order = field(default="logits", metadata=LATER)
    first_target: Count = field(default=1, metadata=LATER)
    adi: Natural = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        if self.loss.needs_reference:
            raise ValueError(f"APGD needs a loss of the labels; {type(self.loss).__name__} compares with clean logits")
        last = self.first_target + self.targets - 1
        if self.targets and self.order == "linearised" and last > NEAREST_OF:
            raise ValueError(
                f"{NEAREST_OF} wrong classes are ordered by distance, and APGD is to attack number {last}: give fewer "
                'targets, or order="logits"'
            )

    def check_input(self, x: Images, targeted: bool, classes: int | None) -> None:
        super().check_input(x, targeted, classes)
        if self.targets and not targeted and classes is not None and self.first_target >= classes:
            raise ValueError(
                f"APGD has first_target={self.first_target}: with {classes} classes there are {classes - 1} wrong ones"
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        look = None
        if self.adi or (self.targets and goal.target is None):
            count = self.first_target + self.targets - 1 if self.targets else min(self.restarts, NEAREST_OF)
            look = FirstLook.at(oracle, x, goal, self.norm, self.order if self.targets else "logits", count)
        best = self.climbed(oracle, x, goal, draws, look, by_margin=self.targets > 0)
        return self.norm.contain(x, best.x, self.eps, self.box)

    def climbed(
        self, oracle: Oracle, x: Images, goal: Goal, draws: Draws, look: FirstLook | None, *, by_margin: bool
    ) -> Best:
        """The best image of each, hardly outside of ball and box, compared by the margin or by the loss.

        look  at x; needed for targets and for `adi`
        """
        balls = [Ball.around(x, reach * self.eps, self.norm, self.box) for reach, _ in self._stages()]
        best, rivals = Best.nothing(x), self._rivals(look, goal)
        turns = [(turn, restart) for turn in range(rivals.shape[1]) for restart in range(self.restarts)]
        while turns:
            which = best.unfinished(self.stop_early)
            if len(which) == 0:
                break
            together = max(oracle.fits // len(which), 1)
            now, turns = turns[:together], turns[together:]
            rows = which.repeat(len(now))
            aim = torch.cat([rivals[which, turn] for turn, _ in now])
            towards = replace(goal[rows], target=None if goal.target is None and self.targets == 0 else aim)
            seeds = Draws(torch.cat([draws[which].split(turn).split(restart).seeds for turn, restart in now]))
            image, result, way = self._start(balls[0][rows], seeds), best, None
            if self.adi and look is not None:
                if towards.target is None:
                    aim = torch.cat([ranked(look.rivals[which], restart) for _, restart in now])
                way = directions(aim, goal.labels[rows], look.classes, seeds.split(1), x.dtype)
            for ball, (_, steps) in zip(balls, self._stages(), strict=True):
                first, stop = ball is balls[0], ball is balls[-1] and self.stop_early
                climb = _Climb.start(ball[rows], goal[rows], towards, image, random=first)
                result = self._run(oracle, rows, climb, steps, way if first else None, by_margin=by_margin, stop=stop)
                image = climb.best
            best.take_turns(rows, result, len(which), self.stop_early)
        return best

    def _stages(self) -> list[tuple[float, int]]:
        """Radii over eps, and steps there."""
        third = 3 * self.steps // 10
        return [(3.0, third), (2.0, third), (1.0, self.steps - 2 * third)] if self.multi_eps else [(1.0, self.steps)]

    def _rivals(self, look: FirstLook | None, goal: Goal) -> Tensor:
        """The targets of each image, of shape (batch, targets); an unused one for an untargeted attack."""
        if self.targets == 0 or goal.target is not None:
            return goal.named[:, None]
        assert look is not None
        return look.rivals[:, self.first_target - 1 :][:, : self.targets]

    def _start(self, ball: Ball, draws: Draws) -> Images:
        if self.norm is not L1:
            return ball.sample(draws)
        return ball.nearest(ball.x + self.box_width * draws.normal(ball.x.shape[1:], ball.x.dtype))

    def _run(
        self,
        oracle: Oracle,
        which: Indices,
        now: "_Climb",
        steps: int,
        way: Tensor | None,
        *,
        by_margin: bool,
        stop: bool,
    ) -> Best:
        """One climb of the images `which`, each as often as it has turns side by side.

        way  the direction of the logits of the first `adi` steps, where there are any
        """
        result = Best.nothing(now.x)
        checkpoints = [0, *now.pace.checkpoints(steps)]
        for step in range(0 if way is None else -self.adi, steps + 1):
            if step < 0:
                assert way is not None
                logits, _, slope = oracle.gradient(now.x, partial(along, way[now.place]), which[now.place])
                loss = self.loss(logits, now.towards)
            elif step < steps:
                logits, loss, slope = oracle.ascent(now.x, self.loss, now.towards, which[now.place])
            else:
                logits = oracle.logits(now.x, which[now.place])
                loss, slope = self.loss(logits, now.towards), now.slope
            if oracle.samples == 1 and self.loss.order is not self.loss:  # only the order of losses matters
                loss = self.loss.order(logits, now.towards)
            success = now.goal.reached(logits)
            result.take(now.place, Best(now.x, success, Margin()(logits, now.goal) if by_margin else loss))
            if stop and bool(success.any()):
                first = _first_success(which, result.success)
                stay = torch.where(now.place < first[which[now.place]])[0]
                now, loss, slope = now[stay], loss[stay], slope[stay]
            if len(now.place) == 0:
                break
            if step < 0:
                now.x = now.ball.climb(now.x, slope, now.ball.eps.to(now.x.dtype))
                continue
            now.record(loss, slope)
            if step in checkpoints[1:]:
                slope = now.check(slope, self.rho * (step - checkpoints[checkpoints.index(step) - 1]))
            if step == steps - 1:
                now.x = self.norm.furthest(now.ball.x, now.slope, now.ball.eps, self.box)
            elif step < steps:
                now.step(slope)
        return result


def _first_success(which: Indices, success: Flags) -> Tensor:
    """For every image, the first of its rows that has reached the goal, or more than there are.

    Later rows of the image stop: in sequence they would not have begun.
    """
    row = torch.arange(len(which), device=which.device)
    first = torch.full((int(which.max()) + 1,), len(which), device=which.device)
    return first.scatter_reduce(0, which, row.where(success, len(which)), "amin")


@dataclass
class _Climb(Rows):
    """The state of the images that are still in the batch."""

    ball: Ball
    place: Indices
    """Of each among those that began."""
    goal: Goal
    towards: Goal
    x: Images
    old: Images | None
    best: Images
    slope: Images
    """The gradient at `best`."""
    highest: PerImage
    """The loss at `best`."""
    pace: "_Halving | _Sparse"

    @staticmethod
    def start(ball: Ball, goal: Goal, towards: Goal, x: Images, *, random: bool) -> "_Climb":
        x, place = ball.nearest(x), torch.arange(len(x), device=x.device)
        highest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        pace = _Sparse.start(ball, x, random=random) if ball.norm is L1 else _Halving.start(ball)
        return _Climb(ball, place, goal, towards, x, None, x.clone(), torch.zeros_like(x), highest, pace)

    def record(self, loss: PerImage, slope: Images) -> None:
        """Take in loss and gradient at `x`."""
        higher = torch.where(loss > self.highest)[0]
        self.best[higher], self.slope[higher], self.highest[higher] = self.x[higher], slope[higher], loss[higher]
        self.pace.record(loss)

    def check(self, slope: Images, enough: float) -> Images:
        """A checkpoint: some images go back to their best. Returns the gradient at the new `x`."""
        back = self.pace.check(self.ball, self.best, self.highest, enough)
        back = back.reshape(self.ball.eps.shape)
        self.x = torch.where(back, self.best, self.x)
        return torch.where(back, self.slope, slope)

    def step(self, slope: Images) -> None:
        self.x, self.old = self.pace.step(self.ball, self.x, self.old, slope), self.x


@dataclass
class _Halving(Rows):
    """Steps in Linf and L2: of full length and with momentum, halved where the loss stalls."""

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
    def start(ball: Ball) -> "_Halving":
        infinite = ball.x.new_full((len(ball.x),), torch.inf)
        none = torch.zeros_like(infinite, dtype=torch.int64)
        return _Halving(2 * ball.eps.to(ball.x.dtype), infinite, none, -infinite, none.bool())

    @staticmethod
    def checkpoints(steps: int) -> list[int]:
        """w_j = ceil(p_j steps), p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06), in whole per cent."""
        shares, gap = [22], 22
        while shares[-1] < 100:
            gap = max(gap - 3, 6)
            shares.append(shares[-1] + gap)
        return sorted({-(-share * steps // 100) for share in shares if share < 100})

    def record(self, loss: PerImage) -> None:
        self.rises += loss > self.last  # no loss is above infinity, so the start is no rise
        self.last = loss

    def check(self, ball: Ball, best: Images, highest: PerImage, enough: float) -> Flags:
        """Halve the step where fewer than `enough` of the last steps raised the loss; those go back to their best."""
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
class _Sparse(Rows):
    """Steps in L1: along the `count` steepest entries, fewer as the best image changes fewer."""

    length: Tensor
    count: Tensor
    """Entries that a step changes."""
    support: Tensor
    """Entries in which the best image differed from the clean one at the last checkpoint."""

    @staticmethod
    def start(ball: Ball, x: Images, *, random: bool) -> "_Sparse":
        """From a random image, or from `x`, the result of another climb."""
        pixels = x[0].numel()
        support = torch.full((len(x),), pixels, device=x.device) if random else _support(x, ball)
        return _Sparse(ball.eps.to(x.dtype), (support / (5.0 if random else 1.5)).ceil().long().clamp(min=1), support)

    @staticmethod
    def checkpoints(steps: int) -> list[int]:
        every = max(steps // 25, 1)
        return list(range(every, steps, every))

    def record(self, loss: PerImage) -> None:
        """Losses do not change these steps."""

    def check(self, ball: Ball, best: Images, highest: PerImage, enough: float) -> Flags:
        """Fewer entries where the best image changed fewer; those go back to it. Elsewhere shorter steps."""
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
