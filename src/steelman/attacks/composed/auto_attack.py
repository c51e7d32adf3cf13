"""The parameter-free ensemble."""

import warnings
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from steelman.attacks.bounded.apgd import APGD
from steelman.attacks.bounded.square import Square
from steelman.attacks.composed.eot import EOT
from steelman.attacks.composed.within import Within
from steelman.attacks.composed.worst_of import WorstOf
from steelman.attacks.core import Attack, Draws, Images, Oracle, Radius, Share
from steelman.attacks.minimal.fab import FAB
from steelman.losses import DLR, Goal
from steelman.norms import L1, L2, Linf, Norm
from steelman.ranges import Count, OneOf


@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack: four attacks without settings, each on the images that no attack before it has broken.

    standard  APGD on cross-entropy, APGD and FAB towards the nine highest other classes, Square
    plus      APGD on cross-entropy and on DLR, and FAB, with five restarts each; Square; APGD and FAB with targets
    rand      for random models: APGD on cross-entropy and on DLR, each gradient the mean of 20 draws

    In L1, as the authors' code, APGD works from larger balls inwards (`multi_eps`), with five restarts on
    cross-entropy and five targets; there is no Square in L1, which the code has.

    eps      radius, one number or one per image (default 8/255)
    norm     Linf (default), L2, L1
    version  "standard" (default), "plus", "rand"
    steps    of APGD and FAB, default 100 (paper)
    queries  of Square, default 5000 (paper)

    `attacks` are the attacks. An image leaves an attack at the step in which it succeeds, also within APGD and FAB,
    where the authors' code goes on to the last step: this changes no success. Images that are misclassified without an
    attack come back as they are, and robust ones as the highest margin that Square has found (the authors' code: as
    they were). With fewer classes there are fewer targets; below four classes, where the targeted DLR is not defined
    (below three for the untargeted), the margin takes its place. With a target, every attack is towards that. Square is
    left out, with a warning, where images are vectors.

    Cost: for an image that is robust to all of "standard": 1 + 101 + 910 + 5000 forward and 1000 gradient passes, and
    FAB's; for one that is broken at once, 5 forward passes or so.
    Reference: Francesco Croce and Matthias Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020, section 6.

    Raises:
        ValueError: L0.
    """

    eps: Radius = Share(8 / 255)
    norm: Annotated[Norm, OneOf((Linf, L2, L1))] = Linf
    version: Literal["standard", "plus", "rand"] = "standard"
    steps: Count = 100
    queries: Count = 5000

    @property
    def attacks(self) -> tuple[Attack, ...]:
        sparse = self.norm is L1
        plus = self.version == "plus"
        common = {"eps": self.eps, "norm": self.norm, "steps": self.steps, "multi_eps": sparse, "stop_early": True}
        entropy = APGD(**common, restarts=5 if plus or sparse else 1)
        ratio = APGD(**common, restarts=5 if plus else 1, loss=DLR(or_margin=True))
        towards = APGD(**common, loss=DLR(or_margin=True), targets=5 if sparse else 9)
        boundary = FAB(norm=self.norm, steps=self.steps, radius=self.eps)
        near = Within(replace(boundary, restarts=5), self.eps)
        near_towards = Within(replace(boundary, targets=9), self.eps)
        square = () if sparse else (Square(eps=self.eps, norm=self.norm, queries=self.queries, rescale=False),)
        if self.version == "rand":
            return EOT(entropy, samples=20), EOT(ratio, samples=20)
        if plus:
            return entropy, ratio, near, *square, towards, near_towards
        return entropy, towards, near_towards, *square

    @property
    def parts(self) -> tuple[Attack, ...]:
        return self.attacks

    def check_input(self, x: Images, targeted: bool, classes: int | None) -> None:
        if x.ndim >= 3:
            super().check_input(x, targeted, classes)
        elif classes is None and len(_for(x, self.attacks)) < len(self.attacks):
            warnings.warn(
                f"AutoAttack leaves Square out: it changes squares of pixels, and these images, of shape "
                f"{tuple(x.shape[1:])}, have no height and width",
                stacklevel=2,
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        x_adv = WorstOf(_for(x, self.attacks), box=self.box).search(oracle, x, goal, draws)
        return self.norm.contain(x, x_adv, self.eps, self.box)


def _for(x: Images, attacks: tuple[Attack, ...]) -> tuple[Attack, ...]:
    """The attacks that can take the images."""
    return attacks if x.ndim >= 3 else tuple(each for each in attacks if not isinstance(each, Square))
