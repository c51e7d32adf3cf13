"""Gradient attacks from cheap to strong, each on the images that may still fall."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import torch

from steelman.attacks.bounded.apgd import APGD
from steelman.attacks.bounded.targets import NEAREST_OF, FirstLook
from steelman.attacks.core import Attack, Best, Draws, Images, Oracle, Radius, Share
from steelman.losses import CrossEntropy, Goal, LogitDifference, Margin
from steelman.norms import L1, L2, Linf, Norm
from steelman.ranges import Count, Fraction, OneOf

ADI = 7


class Stage(NamedTuple):
    """An attack, and the share below which an image has to be for it."""

    below: float
    attack: APGD


@dataclass(frozen=True)
class CascadeAttack(Attack):
    """A cascade of APGD: every image gets the first three stages, later ones only images that came near an error.

    A stage attacks the images that no stage before it has broken and whose share is below the stage's: the highest
    margin max_{k != y} Z_k - Z_y that was found so far, divided by that at x. It is 1 at x and 0 at an error, and free
    of the logits' scale. Images that break late have had small shares: where every stage was run on every image, the 6
    that broke after the first three stages had at most .08.

    1. cross-entropy, 50 steps
    2. the margin, 50 steps
    3. Z_t - Z_y towards the 3 nearest linearised targets, 50 steps each (`APGD(order="linearised")`)
    4. share < .25: 7 steps of adaptive direction and 43 on the margin; the same towards targets 1 and 2
    5. share < .10: targets 4 to 9, 50 steps each; 7 and 93 on the margin, and towards targets 1 and 2
    6. share < .05: the margin, three restarts of 100 steps

    An image leaves at the step in which it reaches the goal; one that is robust comes back with the highest margin that
    was found. Which stages an image gets depends on that image alone, so that no result depends on the batch. With few
    classes there are fewer targets. With a target, all stages are towards that, and its margin is Z_t - max_{k != t}
    Z_k.

    eps     radius, one number or one per image (default 8/255)
    norm    Linf (default), L2, L1; in L1 each stage works from larger balls inwards (`multi_eps`)
    steps   of the first stages, default 50; others in proportion, always with 7 of adaptive direction
    shares  of stages 4, 5 and 6, default (.25, .10, .05): set on LeNets and a convolutional network that were trained
            with PGD, TRADES and noise in Linf and L2

    The cascade, its thresholds and lengths are ours; its parts are of the papers below. A3 attacks the share of *all*
    images with the best margins further, so that an image's result depends on the others.

    Cost: of an image that no stage breaks, 2 forward passes at x, a gradient pass for each wrong class of 20 at most,
    and 255 forward and 250 gradient passes in stages 1 to 3; 153 and 150 more in 4, 609 and 600 in 5, 303 and 300 in 6.
    Reference: Francesco Croce and Matthias Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020; Ye Liu, Yaya Cheng, Lianli Gao, Xianglong Liu, Qilong Zhang and Jingkuan
    Song, "Practical evaluation of adversarial robustness via adaptive auto attack", CVPR 2022; Odelia Melamed, Gilad
    Yehudai and Adi Shamir, "MALT powers up adversarial attacks", NeurIPS 2024.

    Raises:
        ValueError: L0; shares that rise.
    """

    eps: Radius = Share(8 / 255)
    norm: Annotated[Norm, OneOf((Linf, L2, L1))] = Linf
    steps: Count = 50
    shares: tuple[Fraction, Fraction, Fraction] = (0.25, 0.10, 0.05)

    def __post_init__(self) -> None:
        if list(self.shares) != sorted(self.shares, reverse=True):
            raise ValueError(
                f"a later stage of CascadeAttack has no larger share than one before; got shares={self.shares}"
            )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The attacks in their order."""
        every, (some, fewer, few), adi = float("inf"), self.shares, min(ADI, self.steps // 2)
        common: dict[str, Any] = {"eps": self.eps, "norm": self.norm, "multi_eps": self.norm is L1, "stop_early": True}
        margin = APGD(**common, steps=self.steps, loss=Margin())
        towards = replace(margin, loss=LogitDifference(), order="linearised", targets=3)
        start: dict[str, Any] = {"adi": adi, "steps": self.steps - adi}
        longer = start | {"steps": 2 * self.steps - adi}
        return (
            Stage(every, replace(margin, loss=CrossEntropy())),
            Stage(every, margin),
            Stage(every, towards),
            Stage(some, replace(margin, **start)),
            Stage(some, replace(towards, targets=2, **start)),
            Stage(fewer, replace(towards, targets=6, first_target=4)),
            Stage(fewer, replace(margin, **longer)),
            Stage(fewer, replace(towards, targets=2, **longer)),
            Stage(few, replace(margin, steps=2 * self.steps, restarts=3)),
        )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        look, ordered = FirstLook.at(oracle, x, goal, self.norm), False
        best = Best(x.clone(), look.reached, look.margin.clone())
        for place, (below, attack) in enumerate(self.stages):
            share = torch.where(look.margin < 0, best.score / look.margin, 0)
            which = torch.where(~best.success & (share < below))[0]
            if len(which) == 0 or attack.first_target > look.rivals.shape[1]:
                continue
            with oracle.part(which, goal[which]) as part:
                if attack.targets and not ordered:  # the first to need an order is the last to meet all that is left
                    look, ordered = _ordered(part, x[which], part.goal, look, which, self.norm), True
                inner: Any = replace(attack[which], box=self.box)
                found = inner.climbed(part, x[which], part.goal, draws.split(place)[which], look[which], by_margin=True)
            best.take(which, found)
        return self.norm.contain(x, best.x, self.eps, self.box)


def _ordered(part: Oracle, x: Images, goal: Goal, look: FirstLook, which: torch.Tensor, norm: Norm) -> FirstLook:
    """The look at all images, with the rivals of those at `which` ordered by their linearised distances."""
    rivals = look.rivals[:, :NEAREST_OF].clone()
    rivals[which] = FirstLook.at(part, x, goal, norm, "linearised").rivals
    return replace(look, rivals=rivals)
