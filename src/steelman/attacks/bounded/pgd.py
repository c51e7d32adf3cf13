"""Projected gradient ascent of a loss inside a ball."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steelman.attacks.bounded.ascent import Ascent, AscentState
from steelman.attacks.core import Attack, Ball, Best, Images, Indices, Oracle, Radius, Share
from steelman.losses import CrossEntropy, Goal, Loss, top_rivals
from steelman.norms import L0, Linf, Norm, per_image
from steelman.randomness import Draws, combine
from steelman.ranges import Count, Natural, Positive


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent on the negative loss.

    x_0 = clip(x + uniform sample of the ball), x_{t+1} = P(x_t + step_size * steepest(grad L(x_t))), where P projects
    onto ball and box, and what is returned is within both to the last bit. Without the random start this is BIM, also
    called I-FGSM: PGD(random_start=False).

    For Linf, P is a clamp, as everywhere. For L2, P is the exact projection onto ball and box together, where others
    project onto the ball and then clip, and step_size is the length of a step without the entries that are at the box
    and would leave it. An L1 step goes step_size towards that image of ball and box which is furthest along the
    gradient: a few entries, each up to the end of the box (SLIDE and APGD take a fixed or falling share of the largest
    entries instead). So L2 and L1 reach the worst image of an affine model exactly also where the box binds.

    eps           radius, one number or one per image (default 8/255)
    steps         default 10, as Madry's CIFAR-10 code
    step_size     default 2.5 eps / steps, which is Madry's 2/255 at 8/255 and 10 steps; their MNIST: .01 at 40 steps
    norm          Linf (default), L2, L1, L0
    loss          cross-entropy (default), Margin(50) is their "CW+", LogitDifference for `targets`, DLR, KL
    random_start  default True
    normal_start  standard deviation of a start at x + normal_start N(0, I), brought into ball and box, instead of a
                  uniform one; default none (TRADES' and MART's code: .001)
    restarts      default 1; of all restarts an image keeps a success, and otherwise, or of several, the highest loss
    targets       0 (default): no targets but a given one. Otherwise, without a given target, that many of the wrong
                  classes with the highest logits at x are attacked in turn in each restart, and the image with the
                  highest margin is kept (multi-targeted: 9, all of them, in the paper)
    keep_best     return the best iterate, a success before others and then by its loss, not the last (default False)
    stop_early    images that reach the goal leave the batch at once with that iterate (default False). It changes no
                  success into a failure; use it to measure accuracy, not to train
    parallel_restarts  how many restarts and targets of the whole batch run in parallel (default 1). It changes no
                  answer, takes as many times the memory, and is faster where a batch alone does not fill the device.
                  Images that leave the batch are always replaced with later restarts of the others

    Cost: `steps` forward and gradient passes per restart and target; one forward more when the last iterate has to be
    judged (restarts > 1, targets or keep_best), and one for the logits at x (targets, KL).
    Reference: Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras and Adrian Vladu, "Towards deep
    learning models resistant to adversarial attacks", ICLR 2018, section 2; Sven Gowal, Jonathan Uesato, Chongli Qin,
    Po-Sen Huang, Timothy Mann and Pushmeet Kohli, "An alternative surrogate loss for PGD-based adversarial testing",
    arXiv 2019, 1910.09338, section 3.

    Raises:
        ValueError: targets with KL, which has no targeted form; a normal_start without random_start.
    """

    eps: Radius = Share(8 / 255)
    steps: Natural = 10
    step_size: Radius | None = None
    norm: Norm = Linf
    loss: Loss = field(default_factory=CrossEntropy)
    random_start: bool = True
    normal_start: Positive | None = None
    restarts: Count = 1
    targets: Natural = 0
    keep_best: bool = False
    stop_early: bool = False
    parallel_restarts: Count = 1

    def __post_init__(self) -> None:
        if self.targets and self.loss.needs_reference:
            raise ValueError(f"{type(self.loss).__name__} has no targeted form; use LogitDifference() with targets")
        if self.normal_start is not None and not self.random_start:
            raise ValueError("normal_start is the standard deviation of a random start, so it needs random_start=True")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        rivals = None
        if self.loss.needs_reference:
            goal = replace(goal, reference=oracle.logits(x))
        elif self.targets and goal.target is None:
            rivals = top_rivals(oracle.logits(x), goal.labels, self.targets)
        turns = self.restarts * (1 if rivals is None else rivals.shape[1])
        judge = self.keep_best or turns > 1 or rivals is not None
        how = {"keep_best": self.keep_best, "stop_early": self.stop_early, "by_margin": rivals is not None}
        ascent = Ascent(self.steps, self.loss, judge=judge, **how)
        rows = AscentState.of(Ball.around(x, self.eps, self.norm, self.box), self._step_size(x), goal)
        if not judge:
            start = self._start(rows.ball, Draws(combine(draws.seeds, 0)))
            return rows.ball.contain(ascent.climb(oracle, rows, start).x)
        best = Best.nothing(x)
        for which, turn in self._groups(best, turns):
            some = replace(rows[which], turn=turn)
            if rivals is not None:
                some = replace(some, aim=replace(some.goal, target=rivals[which, turn % rivals.shape[1]]))
            seeds = Draws(combine(draws.seeds[which], turn))
            result = ascent.climb(oracle, some, self._start(some.ball, seeds))
            best.take_turns(which, result, int((turn == turn[0]).sum()), self.stop_early)
        return rows.ball.contain(best.x)

    def _start(self, ball: Ball, draws: Draws) -> Images:
        if not self.random_start:
            return ball.x
        if self.normal_start is None:
            return ball.sample(draws)
        return ball.nearest(ball.x + self.normal_start * draws.normal(ball.x.shape[1:], ball.x.dtype))

    def _step_size(self, x: Images) -> Tensor:
        reach = self.eps * self.box_width if self.norm is L0 else self.eps  # in L0, eps counts entries
        given = 2.5 * reach / max(self.steps, 1) if self.step_size is None else self.step_size
        return per_image(given, x, "step_size").expand(len(x), *[1] * (x.ndim - 1))

    def _groups(self, best: Best, turns: int) -> Iterator[tuple[Indices, Indices]]:
        """Images and turns of the rows that climb together; as many turns at once as fit."""
        turn = 0
        while turn < turns:
            which = best.unfinished(self.stop_early)
            if len(which) == 0:
                return
            count = min(self.parallel_restarts * len(best.x) // len(which), turns - turn)
            numbers = torch.arange(turn, turn + count, device=which.device)
            yield which.repeat(count), numbers.repeat_interleave(len(which))
            turn += count
